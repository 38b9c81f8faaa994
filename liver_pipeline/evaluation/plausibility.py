"""What a mask and its scan say of themselves, without a reference: size, pieces, cuts, side, what lies above, HU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import bounding_box, plane
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import LabelMap, Mask

COARSE_MM = 4.0  # a coarse scan's voxels are at most so large, where the scan's own are smaller
BODY_HU = -300.0  # below are air and lung
LUNG_HU = (-950.0, -600.0)  # air outside the body lies below
NEAR_MM = 60.0  # above and below the liver, where lung is looked for
BORDERS = (("left", "right"), ("back", "front"), ("feet", "head"))  # of a scan whose axes run along R, A, S


@dataclass(frozen=True)
class CoarseScan:
    """Every so many voxels of a scan, enough to judge a mask by once the scan itself is gone.

    Attributes:
        values: float32 (X, Y, Z), in HU where it is a CT; axes along right, anterior, superior.
        affine: Voxel index to RAS mm.
        steps: Voxels of the scan along each of these axes for one of the coarse scan.
        modality: As what the scan was read: "ct" or "mr".
    """

    values: npt.NDArray[np.float32]
    affine: Affine
    steps: tuple[int, int, int]
    modality: str


def coarse_scan(scan: Scan, modality: str) -> CoarseScan:
    """Return every so many voxels of a scan, about 4 mm apart."""
    turned, affine = to_ras(scan)
    x, y, z = (max(1, int(COARSE_MM / edge)) for edge in spacing_of(affine))
    values = turned[::x, ::y, ::z].astype(np.float32) * np.float32(scan.slope) + np.float32(scan.intercept)
    return CoarseScan(values, affine @ np.diag([x, y, z, 1.0]), (x, y, z), modality)


def plausibility(label_map: LabelMap, grid: Scan, coarse: CoarseScan, removed: int = 0) -> dict[str, Any]:
    """Measure what rules can be laid on.

    Args:
        label_map: Labels 0, 1, 2, (X, Y, Z), as stored.
        grid: The scan it belongs to; its voxels are not used.
        coarse: The same scan.
        removed: Voxels that cleaning took away because they lay apart from the largest piece.

    Returns:
        ``liver_ml`` (with tumors); without a liver nothing else. ``largest_share``: of what the network called liver,
        its largest piece; ``cut_share``, ``cut_face``: the largest section that the scan's border cuts, as a share of
        the liver's largest section along that axis, and where; ``right_mm``: how far right of the body's middle the
        liver's middle lies, None without a body. Of a CT: ``hu``, ``hu_spread`` (half of what lies between the 16th and
        84th percentile: one standard deviation) without tumors, None where that is empty; ``lung_above_ml`` and
        ``lung_below_ml``, what could be lung over and under the liver's middle, near it.
    """
    turned, affine = to_ras(replace(grid, array=label_map))
    ml = float(np.prod(spacing_of(affine))) / 1000.0  # 1 ml = 1000 mm^3
    voxels = int(np.count_nonzero(label_map))
    if voxels == 0:
        return {"liver_ml": 0.0}
    few = turned[tuple(slice(None, None, step) for step in coarse.steps)]
    facts: dict[str, Any] = {"liver_ml": voxels * ml, "largest_share": voxels / (voxels + removed)}
    facts["cut_share"], facts["cut_face"] = _cut(turned, few, coarse.steps)
    facts["right_mm"] = _right_of_body(few > 0, coarse)
    if coarse.modality == "ct":
        facts |= _ct_facts(few, coarse)
    return facts


def _cut(label_map: LabelMap, few: LabelMap, steps: tuple[int, int, int]) -> tuple[float, str]:
    """Return the largest cut by the scan's border, as a share of the liver's largest section, and the face's name."""
    found = (0.0, "")
    for axis, names in enumerate(BORDERS):
        across = tuple(a for a in range(3) if a != axis)
        largest = int(np.count_nonzero(few, axis=across).max())
        coarse = tuple(slice(None, None, steps[a]) for a in across)
        for end, name in zip((0, -1), names, strict=True):
            cut = int(np.count_nonzero(plane(label_map, axis, end)[coarse]))
            if largest:
                found = max(found, (min(1.0, cut / largest), name))
    return found


def _middle(mask: Mask) -> npt.NDArray[np.float64] | None:
    """Return the mean index of a mask's voxels, None if it is empty."""
    total = int(np.count_nonzero(mask))
    if total == 0:
        return None
    counts = (np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)) for axis in range(3))
    return np.array([float(count @ np.arange(len(count))) / total for count in counts])


def _right_of_body(liver: Mask, coarse: CoarseScan) -> float | None:
    """Return how far right of the body's middle the liver's lies, in mm; the body next to the liver counts."""
    box = bounding_box(liver)
    if box is None:
        return None
    level = BODY_HU if coarse.modality == "ct" else float(coarse.values.mean())
    body = np.zeros_like(liver)
    body[:, :, box[2]] = coarse.values[:, :, box[2]] > level  # only at the liver's height
    middles = _middle(liver), _middle(body)
    if middles[0] is None or middles[1] is None:
        return None
    return float((coarse.affine[:3, :3] @ (middles[0] - middles[1]))[0])


def _ct_facts(few: LabelMap, coarse: CoarseScan) -> dict[str, Any]:
    inside = coarse.values[few == 1]
    low, middle, high = np.percentile(inside, [16, 50, 84]) if inside.size else (None, None, None)
    facts: dict[str, Any] = {
        "hu": None if middle is None else float(middle),
        "hu_spread": None if low is None or high is None else float(high - low) / 2,
    }
    box = bounding_box(few)
    if box is not None:
        x, y, z = box
        near = int(NEAR_MM / spacing_of(coarse.affine)[2])
        span, half = slice(max(z.start - near, 0), z.stop + near), (z.start + z.stop) // 2
        values = coarse.values[x, y, span]
        lung = np.count_nonzero((values > LUNG_HU[0]) & (values < LUNG_HU[1]), axis=(0, 1))
        ml = float(np.prod(spacing_of(coarse.affine))) / 1000.0
        facts["lung_below_ml"] = float(lung[: half - span.start].sum()) * ml
        facts["lung_above_ml"] = float(lung[half - span.start :].sum()) * ml
    return facts
