"""Do voxels resemble those beside them? Noise, and voxels that stand alone, are no image, whatever the modality.

Bounds against seven real CTs, an MR and 240 random crops of them: neighbours correlate with 0.6 and more (bound 0.2),
noise with 0.02 and less; of voxels, 0.001 % and less stand out, 0.03 % where but every fourth was kept along each axis
(bound 0.05 %); one in a thousand at the lowest or the highest value makes it 0.06 % and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.findings import Finding, warning

BESIDE = 100_000  # voxels that are looked at, with the neighbours of each
FEWEST_VOXELS = 1000
LEAST_CORRELATION = 0.2  # correlation of neighbours
OUT_HU, OUT_SHARE, FEWEST_OUT = 500.0, 0.0005, 5


def noise_findings(array: npt.NDArray[Any], slope: float, *, in_hu: bool) -> list[Finding]:
    """Compare voxels with their neighbours along X, Y and Z.

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
    here, beside = _rows(array)
    low, high = np.percentile(here, (5, 95))
    if low == high:
        return []
    if _correlation(here.clip(low, high), beside[0].clip(low, high)) < LEAST_CORRELATION:
        return [warning("NOISE", "neighbouring voxels have nothing in common; are they noise, or in disorder?")]
    sides = np.stack([here[:-2], here[2:], *(row[1:-1] for row in beside)])
    out = np.maximum(here[1:-1] - sides.max(axis=0), sides.min(axis=0) - here[1:-1])
    alone = out > (OUT_HU / abs(slope) if in_hu else high - low)
    if (share := float(alone.mean())) > OUT_SHARE and np.count_nonzero(alone) >= FEWEST_OUT:
        return [warning("NOISE", f"{share:.2%} of voxels are far from all beside them; is the file damaged?")]
    return []


def _rows(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
    """Return about ``BESIDE`` voxels in rows along X, and those before and after them along Y and, of a volume, Z."""
    step = max(1, round((array.size / BESIDE) ** 0.5))
    y, z = (
        np.arange(min(max(1, n // 2), length - 2), length - 1, n) if length > 2 else np.arange(length)
        for length, n in ((length, max(1, min(step, length // 8))) for length in array.shape[1:])
    )
    sides = [(-1, 0), (1, 0), *([(0, -1), (0, 1)] if array.shape[2] > 2 else [])]
    here, *beside = (array[:, y[:, None] + dy, z + dz].astype(np.float32) for dy, dz in [(0, 0), *sides])
    return here, beside


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    one, other = one - one.mean(dtype=np.float64), other - other.mean(dtype=np.float64)
    spread = float(np.sqrt((one * one).sum(dtype=np.float64) * (other * other).sum(dtype=np.float64)))
    return float((one * other).sum(dtype=np.float64)) / spread if spread else 1.0
