"""What the app makes of a mask: scores where a reference was given, and the page to look at."""

from __future__ import annotations

from pathlib import Path

from liver_pipeline.evaluation.pairing import CaseError, Pair
from liver_pipeline.evaluation.scoring import score_as_meant
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.file_names import PAGE, SCORES
from liver_pipeline.io.files import plain, write_json
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.reports.viewer import write_viewer_page


def score_and_draw(
    mask: Path, scan: ScanInput, reference: Path | None, reader: ScanReader, original: Path | None = None
) -> None:
    """Write scores and page beside a mask ``NAME.nii.gz``; a reference that cannot be used ends neither.

    Args:
        mask: On the grid of its scan.
        scan: As it was given.
        reference: A label map to score against; without one there are no scores.
        reader: How the run that made the mask reads scans.
        original: The mask that was corrected, where ``mask`` is a correction.

    Raises:
        IntakeError: If scan or mask cannot be used.
        OSError: If something cannot be written.
    """
    stem = mask.name.removesuffix(".nii.gz")
    if reference is not None:
        try:
            figures = score_as_meant(Pair(stem, mask, reference), lits=False)
            scores = {f"{region}_{name}": figures[region].get(name) for region in ("liver", "tumor")
                      for name in ("dice", "iou", "assd_area", "hd95_pooled")}  # fmt: skip
        except (IntakeError, CaseError) as reason:
            why = reason if isinstance(reason, CaseError) else finding_of(reason)
            scores, reference = {"error": f"The reference was not used ({why.code}): {why.detail}"}, None
        write_json(mask.with_name(f"{stem}{SCORES}"), plain(scores))
    page = mask.with_name(f"{stem}{PAGE}")
    write_viewer_page(page, scan.path, mask, reference, reader=reader, series=scan.series, original=original)
