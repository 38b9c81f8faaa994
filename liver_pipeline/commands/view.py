"""Write the page on which people look at a scan and its mask."""

from __future__ import annotations

from pathlib import Path

from liver_pipeline.bundle.entry import refuse_empty
from liver_pipeline.io.file_names import case_name
from liver_pipeline.io.outputs import check_outputs
from liver_pipeline.labels import LabelValues
from liver_pipeline.reports.viewer import write_viewer_page


def view(
    scan: str | Path,
    mask: str | Path | None = None,
    *,
    reference: str | Path | None = None,
    label_map: LabelValues | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one HTML file that shows a scan, its mask and a reference: offline, in any browser.

    Args:
        scan: Whatever ``predict`` reads.
        mask: Label map on its grid: 0 background, 1 liver, 2 tumor.
        reference: Likewise; lesions are matched with it.
        label_map: What the values of the reference mean, where they are not 0, 1, 2; see
            :func:`~liver_pipeline.io.volumes.read_label_map`.
        output: The page; by default beside the mask, or in the working directory where there is none, as
            ``<case>.html``.
        overwrite: Replace a page that is there.

    Returns:
        Where the page is. It holds the patient's images.

    Raises:
        FileExistsError: If the page is there already and ``overwrite`` is not set.
        ValueError: If there is a ``label_map`` and no reference.
        IntakeError: If a file cannot be used, or a label map lies on another grid than the scan.
    """
    given = {"scan": scan, "mask": mask, "reference": reference, "output": output}
    refuse_empty(**{name: path for name, path in given.items() if path is not None})
    if label_map is not None and reference is None:
        raise ValueError("label_map says what the values of the reference mean, and there is none")
    scan_path, mask_path = Path(scan), None if mask is None else Path(mask)
    if output is None:
        name = case_name((mask_path or scan_path.absolute()).name, mask_path is None and scan_path.is_dir())
        output = (Path() if mask_path is None else mask_path.parent) / f"{name}.html"
    check_outputs(
        [Path(output)], overwrite, inputs=[scan_path, mask_path, None if reference is None else Path(reference)]
    )
    reference_path = None if reference is None else Path(reference)
    write_viewer_page(Path(output), scan_path, mask_path, reference_path, label_map=label_map)
    return Path(output)
