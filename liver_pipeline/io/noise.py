"""Do voxels resemble those beside them? Noise, and voxels that stand alone, are no image, whatever the modality.

Bounds against seven real CTs, an MR and 240 random crops of them: neighbours correlate with 0.6 and more (bound 0.2),
noise with 0.02 and less; of voxels, 0.05 % and less stand out (bound 0.2 %).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.findings import Finding, warning

BESIDE = 100_000  # voxels that are looked at, with four neighbours of each
FEWEST_VOXELS = 1000
LEAST_CORRELATION = 0.2  # correlation of neighbours
OUT_HU, OUT_SHARE = 500.0, 0.002


def noise_findings(array: npt.NDArray[Any], slope: float, *, in_hu: bool) -> list[Finding]:
    """Compare voxels with their neighbours along X and Y.

    Args:
        array: Stored voxels, shape (X, Y, Z), finite; value = slope * voxel, and an intercept.
        slope: See ``array``.
        in_hu: Whether values are HU; else a voxel stands out by more than the range of nine tenths of all voxels.

    Returns:
        NOISE, a warning, where neighbours have nothing in common or too many voxels stand alone: noise in a uniform
        test object is real, so that nothing is refused for it.
    """
    if array.size < FEWEST_VOXELS or min(array.shape[:2]) < 3:
        return []
    before, here, after = _rows(array)
    low, high = np.percentile(here, (5, 95))
    if low == high:
        return []
    if _correlation(here.clip(low, high), before.clip(low, high)) < LEAST_CORRELATION:
        return [warning("NOISE", "neighbouring voxels have nothing in common; are they noise, or in disorder?")]
    sides = np.stack((before[1:-1], after[1:-1], here[:-2], here[2:]))
    out = np.maximum(here[1:-1] - sides.max(axis=0), sides.min(axis=0) - here[1:-1])
    share = float((out > (OUT_HU / abs(slope) if in_hu else high - low)).mean())
    if share > OUT_SHARE:
        return [warning("NOISE", f"{share:.1%} of voxels are far from all beside them; is the file damaged?")]
    return []


def _rows(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
    """Return about ``BESIDE`` voxels in rows along X, between the rows before and after them along Y."""
    step = max(1, round((array.size / BESIDE) ** 0.5))
    y, z = max(1, min(step, array.shape[1] // 8)), max(1, min(step, array.shape[2] // 8))
    middle = np.arange(1 + min(y // 2, array.shape[1] - 3), array.shape[1] - 1, y)
    planes = array[:, :, z // 2 :: z]
    return tuple(planes[:, middle + side].astype(np.float32) for side in (-1, 0, 1))


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    one, other = one - one.mean(dtype=np.float64), other - other.mean(dtype=np.float64)
    spread = float(np.sqrt((one * one).sum(dtype=np.float64) * (other * other).sum(dtype=np.float64)))
    return float((one * other).sum(dtype=np.float64)) / spread if spread else 1.0
