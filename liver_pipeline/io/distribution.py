"""Where the values of a CT lie, as shares and HU, with padding apart: what :mod:`liver_pipeline.io.hu` judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

VOXELS = 300_000  # voxels that are looked at
PADDING_BELOW, PADDING_GAP, PADDING_VALUES = -1100.0, 100.0, 3  # HU, HU, at most so many values: -2000, -3024, ...
NO_HU_BELOW, NOISY_BELOW = -1150.0, -1060.0  # HU
# At the largest value: ten voxels, this share, three times what any HU below it has, of which several are there. Real
# scans have one or two voxels there, or are clipped at 1000 HU and more.
CUT_VOXELS, CUT_SHARE, CUT_TIMES, CUT_VALUES = 10, 0.0005, 3.0, 5
CUT_BELOW = 700.0  # HU
FAT_LOW_SHARE = 0.02  # of what is above -500 HU


@dataclass(frozen=True)
class Values:
    """The distribution of values without padding, as shares (0 to 1) and HU.

    Attributes:
        low: Smallest value.
        high: Largest value.
        at_low: Share of voxels at ``low``.
        cut: Share of voxels at ``high`` where they stand out of those within 25 HU below, else 0.
        below: Share that is lower than HU can be.
        noisy: Share that is lower than air is without noise.
        airy: Share below -300 HU: air, lung, gas.
        air: Where most airy voxels lie, in HU; nan without any.
        peaked: Share of airy voxels within 50 HU of ``air``.
        body: Share from -200 to 300 HU.
        tissue: Share, of what is above -200 HU, from -150 to 200 HU: fat, water, muscle, organs.
        fat_low: Fullest 50 HU from -400 to -125 HU, where little lies, against the fullest from -150 to 0, fat.
        uneven: Largest share, of what is above -200 HU, in any 100 HU; without peaks it is small.
        dense: Share above 700 HU.
    """

    low: float
    high: float
    at_low: float
    cut: float
    below: float
    noisy: float
    airy: float
    air: float
    peaked: float
    body: float
    tissue: float
    fat_low: float
    uneven: float
    dense: float


def distribution(values: npt.NDArray[np.float64]) -> Values:
    """Describe HU values (any shape) without padding: one to three values far below all others."""
    values = _without_padding(values.ravel())
    airy = values[values < -300]
    air, peaked = _peak(airy)
    solid = values > -200
    tissue = (values >= -150) & (values <= 200)
    low, high = float(values.min()), float(values.max())
    return Values(
        low=low,
        high=high,
        at_low=float((values == low).mean()),
        cut=_cut(values, high),
        below=float((values < NO_HU_BELOW).mean()),
        noisy=float((values < NOISY_BELOW).mean()),
        airy=airy.size / values.size,
        air=air,
        peaked=peaked,
        body=float(((values >= -200) & (values <= 300)).mean()),
        tissue=float(tissue.sum() / max(1, solid.sum())),
        fat_low=_fat_low(values),
        uneven=_fullest_100_hu(values[solid]),
        dense=float((values > 700).mean()),
    )


def _without_padding(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lowest = values[values < PADDING_BELOW + PADDING_GAP]
    known = np.unique(lowest)[: PADDING_VALUES + 1] if lowest.size else lowest
    edges = [*known.tolist(), float(values[values >= PADDING_BELOW + PADDING_GAP].min(initial=np.inf))]
    border = -np.inf
    for value, following in zip(known[:PADDING_VALUES].tolist(), edges[1:], strict=False):
        if value < PADDING_BELOW and following - value >= PADDING_GAP:
            border = value
    kept = values[values > border]
    return kept if kept.size else values


def _peak(airy: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return where most of the values lie (bins of 25 HU) and the share within 50 HU of it."""
    if airy.size == 0:
        return float("nan"), 0.0
    bins = np.floor(airy.clip(-4000.0, None) / 25.0).astype(np.int64)
    start = int(bins.min())
    at = (start + int(np.bincount(bins - start).argmax())) * 25.0 + 12.5
    return at, float((np.abs(airy - at) < 50).mean())


def _cut(values: npt.NDArray[np.float64], high: float) -> float:
    """Return the share of voxels at ``high`` where a window cut off what was above, else 0."""
    counts = np.bincount((high - values[values >= high - 25.0]).astype(np.int64), minlength=26)
    at, below = int(counts[0]), counts[1:]
    full = at >= CUT_VOXELS and at > CUT_SHARE * values.size and at > CUT_TIMES * below.max()
    is_cut = high < CUT_BELOW and full and np.count_nonzero(below) >= CUT_VALUES  # a drawing has few values
    return at / values.size if is_cut else 0.0


def _fat_low(values: npt.NDArray[np.float64]) -> float:
    counts = np.histogram(values, 16, (-400.0, 0.0))[0]
    fullest = counts[:-1] + counts[1:]
    low, fat = int(fullest[:10].max()), int(fullest[10:].max())
    return low / max(1, fat) if low > FAT_LOW_SHARE * (values >= -500).sum() else 0.0


def _fullest_100_hu(values: npt.NDArray[np.float64]) -> float:
    """Return the largest share of ``values`` within 100 HU, in steps of 25."""
    if values.size == 0:
        return 0.0
    counts = np.bincount(np.floor((values.clip(-200.0, 4000.0) + 200.0) / 25.0).astype(np.int64))
    return float(np.convolve(counts, np.ones(4)).max() / values.size)


def sampled(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return every n-th voxel along each axis, about ``VOXELS`` of them; flat axes are kept whole."""
    step = max(1, round((array.size / VOXELS) ** (1 / 3)))
    steps = [max(1, min(step, n // 8)) for n in array.shape]
    return np.asarray(array[tuple(slice(s // 2, None, s) for s in steps)], dtype=np.float64)
