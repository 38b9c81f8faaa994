"""Can these values be Hounsfield units? Judged by where air, fat and soft tissue lie, with padding apart.

The bounds were set on seven real CTs (abdomen and chest, with and without contrast, two of them crops), 160 random
crops of them, and each of them shifted, scaled, negated, clipped and otherwise spoilt; see tests/damage.py. Beside each
bound stands what real scans and crops have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.distribution import NO_HU_BELOW, NOISY_BELOW, VOXELS, Values, distribution, sampled
from liver_pipeline.io.findings import Finding, error, warning

NO_HU_SHARE = 0.02
AIR = (-1060.0, -900.0)  # HU; outside the body, or in emphysema
NO_LUNG_ABOVE = -600.0
NO_AIR_ABOVE = -200.0
TISSUE_SHARE = 0.65  # of what is denser than lung; real scans have 0.81 and more
PEAK_SHARE = 0.28  # real scans have 0.33 and more; noise over 400 HU, which says nothing, has 0.25
LEAST_BODY_SHARE = 0.02
DENSE_SHARE = 0.08  # above 700 HU: cortical bone, metal; real scans have 0.01 and less
FEW_VALUES = 16  # of a label map; an MR scan of 8 bits has 100 and more
PATCHY_SHARE = (
    0.7  # of voxels equal to their neighbour; label maps of 100 organs have 0.8 and more, scans of 8 bits 0.3
)
CLIPPED_ABOVE, CLIPPED_SHARE = -300.0, 0.005
LOST_BELOW = 250.0  # HU; where less is left above a window, contrast and lesions are lost
FAT_LOW = 0.8  # real scans have 0.4 and less
NOISY_SHARE, ONE_PEAK = 0.03, 0.85  # noise that wide in air widens the peaks of a body: 0.001 and 0.83


def value_findings(array: npt.NDArray[Any], slope: float, intercept: float, modality: str) -> list[Finding]:
    """Check the values of a volume.

    Args:
        array: Stored voxels, shape (X, Y, Z); value = slope * voxel + intercept.
        slope: See ``array``.
        intercept: See ``array``.
        modality: "ct": HU_SCALE, an error, where values cannot be HU; a warning where air is missing, where bone is
            clipped, or where fat lies too low. "mr": LABEL_MAP, an error, where they are few, whole and small;
            MODALITY, a warning, where they are HU. "label": NON_FINITE alone.

    Returns:
        At most one finding.
    """
    low, high = sorted(slope * float(edge) + intercept for edge in (array.min(), array.max()))
    if not (np.isfinite(low) and np.isfinite(high)):
        return [error("NON_FINITE", "voxels are nan or infinite; fill them (air is -1024 HU) or export again")]
    if modality == "label":
        return []
    if low == high:
        return [error("CONSTANT", f"every voxel is {low:g}; nothing to segment")]
    if modality not in ("ct", "mr"):
        return []
    if modality == "mr" and (labels := _few_labels(low, high, array, slope, intercept)):
        return [
            error("LABEL_MAP", f"{labels} values, all whole, from {low:g} to {high:g}; name the scan, not its mask")
        ]
    wrong, values = scale_faults(low, high, array, slope, intercept)
    if modality == "ct" and wrong:
        return [error("HU_SCALE", f"values {low:g} to {high:g}: {wrong}{_maybe_mr(values)}")]
    doubts = [
        (values.low > NO_AIR_ABOVE, f"no air (-1000 HU); was the scan windowed or cropped?{_maybe_mr(values)}"),
        (values.cut > 0, f"clipped at {values.high:g} HU ({values.cut:.1%} of voxels), so that bone is lost"),
        (values.fat_low > FAT_LOW, "fat lies below -125 HU instead of at -100; was the body scaled apart from air?"),
    ]
    if modality == "ct" and (doubt := next((text for doubtful, text in doubts if doubtful), "")):
        return [warning("HU_SCALE", f"values {low:g} to {high:g}: {doubt}")]
    if modality == "mr" and not wrong and values.airy > 0.05 and AIR[0] <= values.air <= AIR[1]:
        return [
            warning(
                "MODALITY",
                f"values {low:g} to {high:g}, air at {values.air:.0f}: this looks like a CT; {_read_as('ct')}",
            )
        ]
    return []


def _few_labels(low: float, high: float, array: npt.NDArray[Any], slope: float, intercept: float) -> int:
    """Return the number of values where they are few, whole and small, as in a label map, else 0."""
    if low < 0 or high > 255:
        return 0
    for part in (sampled(array), array):
        values = np.unique(part) * slope + intercept
        if not np.equal(values, np.rint(values)).all() or (values.size > FEW_VALUES and not _is_patchy(array)):
            return 0
    return int(values.size)


def _is_patchy(array: npt.NDArray[Any]) -> bool:
    """Tell whether most voxels that are not 0 are equal to their neighbour along X: organs of one number each."""
    step = max(1, round((array.size / VOXELS) ** 0.5))
    rows = array[:, step // 2 :: step, step // 2 :: step]
    here, there = rows[:-1], rows[1:]
    filled = here != 0
    return bool(filled.any()) and float((here == there)[filled].mean()) > PATCHY_SHARE


def scale_faults(
    low: float, high: float, array: npt.NDArray[Any], slope: float, intercept: float
) -> tuple[str, Values]:
    """Return what forbids that values are HU ("" if nothing does), and their distribution."""
    values = distribution(sampled(array) * slope + intercept)
    faults = [
        (values.low >= 0, "no HU below 0 but padding; was the intercept (-1024) lost, or the scan rescaled?"),
        (high - low < 200, "range too small for HU; was the scan normalised?"),
        (low < -33000 or high > 66000, "beyond what HU can be; look at slope and intercept"),
        *_faults(values),
    ]
    return next((text for wrong, text in faults if wrong), ""), values


def _faults(values: Values) -> Iterator[tuple[bool, str]]:
    yield (
        values.below > NO_HU_SHARE,
        f"{values.below:.0%} of voxels below {NO_HU_BELOW:g} HU; was the intercept applied twice, or the scan scaled?",
    )
    clipped = values.low >= CLIPPED_ABOVE and values.at_low > CLIPPED_SHARE
    yield clipped, f"clipped at {values.low:g} HU ({values.at_low:.0%} of voxels); give the scan without a window"
    cut = values.cut > 0 and values.high < LOST_BELOW
    yield cut, f"clipped at {values.high:g} HU ({values.cut:.0%} of voxels); give the scan without a window"
    yield values.high <= 0, "no HU above 0, so no soft tissue; was the scan shifted, clipped or wrapped around?"
    yield (
        values.noisy > NOISY_SHARE and values.uneven > ONE_PEAK,
        f"{values.noisy:.0%} of voxels below {NOISY_BELOW:g} HU, and all else in one peak; was the scan negated?",
    )
    yield (
        values.airy > 0.05 and values.peaked > 0.5 and (values.air < AIR[0] or values.air > NO_LUNG_ABOVE),
        f"air lies at {values.air:.0f} HU instead of -1000; was the scan shifted or scaled?",
    )
    yield (
        values.airy > 0.2 and values.peaked > 0.75 and values.air > AIR[1],
        f"air lies at {values.air:.0f} HU instead of -1000; was the scan shifted or scaled?",
    )
    yield (
        values.body < LEAST_BODY_SHARE,
        f"{values.body:.1%} of voxels between -200 and 300 HU, so no body; was the scan shifted or scaled?",
    )
    yield (
        values.dense > DENSE_SHARE,
        f"{values.dense:.0%} of voxels above 700 HU; was the intercept lost, or the scan negated?",
    )
    yield (
        values.tissue < TISSUE_SHARE and values.uneven > PEAK_SHARE,
        f"fat and soft tissue are not between -150 and 200 HU ({values.tissue:.0%} of what is denser than lung);"
        " was the scan shifted or scaled?",
    )


def modality_findings(said: str, asked: str) -> list[Finding]:
    """Return MODALITY where the file says that it is of another modality than the one it is read as.

    It is an error for an MR read as CT, whose values no window of HU fits.
    """
    if not said or asked not in ("ct", "mr") or said.lower() == asked:
        return []
    detail = f"the file says {said}, and is read as {asked.upper()}"
    if asked == "mr":
        return [warning("MODALITY", f"{detail}; {_read_as('ct')}" if said == "CT" else detail)]
    return [error("MODALITY", f"{detail}; {_read_as('mr')}")] if said == "MR" else [warning("MODALITY", detail)]


def _maybe_mr(values: Values) -> str:
    return f" (if it is an MR, {_read_as('mr')})" if values.low > NO_AIR_ABOVE else ""


def _read_as(modality: str) -> str:
    return f"set modality={modality}, with a run that knows {modality.upper()}"
