"""The fingerprint of one case: grid, values inside liver and tumor, lesions, and what is wrong with its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.data.cases import Case
from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import bounding_box
from liver_pipeline.geometry.grids import ras_grid
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.findings import Finding, IntakeError, Severity
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import Scan, label_findings
from liver_pipeline.metrics.lesions import components
from liver_pipeline.metrics.overlap import as_told
from liver_pipeline.metrics.shapes import lesion_shapes
from liver_pipeline.planning.histograms import Histogram, label_histograms

VERSION = 3  # of what is measured: older measurements are done again
TISSUES = ("background", "liver", "tumor")  # by label; liver is tissue without tumor
PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)

CaseRow = dict[str, Any]


def read_case(case: Case, reader: ScanReader) -> tuple[Scan | None, Scan | None, list[CaseRow]]:
    """Read image and label of a case.

    Returns:
        Image and label, None where one cannot be used, and everything found: file ("image" or "label"), code, severity
        and detail.
    """
    image, findings = _try("image", lambda: reader.scan(case["image"]))
    label, more = _try("label", lambda: reader.label_map(case["label"], case.get("label_map")))
    findings += more
    if image is not None and label is not None:
        findings += [_row("label", f, reader.accept) for f in label_findings(image, label)]
    return image, label, findings


def _try(file: str, read: Any) -> tuple[Scan | None, list[CaseRow]]:
    try:
        scan: Scan = read()
    except IntakeError as reason:
        return None, [_row(file, finding) for finding in reason.findings]
    except Exception as reason:  # whatever a reader raises belongs to its file
        return None, [_row(file, finding_of(reason))]
    return scan, [_row(file, finding) for finding in scan.findings]


def _row(file: str, finding: Finding, accept: Collection[str] = ()) -> CaseRow:
    row = {"file": file, **asdict(finding)}
    return row | {"severity": str(Severity.WARNING if finding.code in accept else finding.severity)}


def is_bad(findings: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether an error is among the findings: the case cannot be trained on."""
    return any(row["severity"] == Severity.ERROR for row in findings)


def measure(image: Scan, label: Scan, modality: str) -> CaseRow:
    """Measure one case.

    Args:
        image: The scan.
        label: Its label map on the same grid: 0 background, 1 liver, 2 tumor, 3 liver whose tumors were not outlined:
            then liver is the whole, and nothing is known of tumors.
        modality: "ct" counts whole Hounsfield units; values of anything else keep their fractions.

    Returns:
        ``orientation`` (of the file's axes); ``shape``, ``spacing_mm`` and ``fov_mm`` along R, A, S; ``voxels`` by
        label; ``liver_ml`` (tumor included) and ``tumor_ml``; ``lesions``, a volume and longest axial diameter each,
        largest first (both None where nothing is known of tumors); ``intensity`` of all voxels and of each region,
        None for a region without voxels; and ``histograms`` by region, from which intensities are pooled over cases.
    """
    affine, shape = ras_grid(image.affine, image.array.shape)
    spacing = spacing_of(affine)
    labels, _, tells_tumors = as_told(label.array, label.array)
    histograms = dict(zip(TISSUES, label_histograms(
        image.array, labels, len(TISSUES),
        slope=image.slope, intercept=image.intercept, whole=modality == "ct",
    ), strict=True))  # fmt: skip
    voxels = {name: one.total for name, one in histograms.items()}
    voxel_ml = float(np.prod(spacing)) / 1000.0  # 1 ml = 1000 mm^3
    return {
        "orientation": "".join(nib.aff2axcodes(image.affine)),
        "shape": list(shape),
        "spacing_mm": [round(edge, 6) for edge in spacing],  # affines are stored as float32
        "fov_mm": [round(edge * n, 3) for edge, n in zip(spacing, shape, strict=True)],
        "voxels": voxels,
        "liver_ml": (voxels["liver"] + voxels["tumor"]) * voxel_ml,
        "tumor_ml": voxels["tumor"] * voxel_ml if tells_tumors else None,
        "lesions": lesions(labels, label.affine) if tells_tumors else None,
        "intensity": intensities(histograms),
        "histograms": {name: one.as_json() for name, one in histograms.items()},
    }


def lesions(label_map: npt.NDArray[np.uint8], affine: Affine) -> list[dict[str, float]]:
    """Return volume in ml and longest axial diameter in mm of each tumor component (6-connected), largest first."""
    tumor = label_map == TISSUES.index("tumor")
    box = bounding_box(tumor)
    if box is None:
        return []
    slice_axis = int(np.argmax(nib.io_orientation(affine)[:, 0] == 2))  # the axis that runs along S
    shapes = lesion_shapes(components(tumor[box])[0], spacing_of(affine), slice_axis=slice_axis)
    rows = [{"volume_ml": one.volume_ml, "diameter_mm": one.diameters.longest_mm} for one in shapes]
    return sorted(rows, key=lambda row: (-row["volume_ml"], -row["diameter_mm"]))


def intensities(histograms: Mapping[str, Histogram]) -> dict[str, dict[str, float] | None]:
    """Return mean, SD and percentiles of each region, of ``foreground`` (liver and tumor) and of ``all`` voxels."""
    foreground = histograms["liver"] + histograms["tumor"]
    whole = histograms["background"] + foreground
    named = {"all": whole, "foreground": foreground, "liver": histograms["liver"], "tumor": histograms["tumor"]}
    return {name: intensity(one) for name, one in named.items()}


def intensity(histogram: Histogram) -> dict[str, float] | None:
    """Return mean, SD and percentiles; None without voxels."""
    if not histogram.total:
        return None
    percentiles = {f"p{percent:g}": histogram.percentile(percent) for percent in PERCENTILES}
    return {"mean": histogram.mean(), "sd": histogram.sd(), **percentiles}
