"""Slice by slice: constant ones, copies of a neighbour, odd ones, and jumps in value or place, inside the body.

Slices are compared by the means of about 16x16 blocks, in which noise averages out: from -200 to 300 HU, or from the
1st to the 99th percentile of what has no scale, taken as 500. Bounds against five real CTs of 1.6 to 5 mm and an MR,
each also halved, turned, smoothed, thinned, doubled, and with a sixteenth of its voxels in the plane:

- between neighbours, the median changes by at most 7 HU (bound 100), and the mean difference is at most 1.7 times that
  of the slices around (bound 2.2); a jump of 10 mm makes it 2.4 times or more;
- a slice differs from the mean of its neighbours by at most 0.7 times what these differ by, and by at most 2.2 times
  what is usual (bounds 0.9 and 2.2, both); noise alone gives 0.87 everywhere;
- the next slice but one differs by 1.4 times what the next one does or more (bound 0.8); noise alone gives 1.0;
- soft tissue in every other slice is brighter by at most 1 HU (bound 4); a second phase makes it 5 HU or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.findings import Finding, error, warning
from liver_pipeline.io.slice_factors import Blocks, block_means, slice_factors

SAMPLES, PLANE_SAMPLES = 64, 24  # along each axis of a slice, of a plane across the slices
FEWEST = 8  # slices; of fewer nothing is usual
LOWEST_HU, HIGHEST_HU, SPAN = -200.0, 300.0, 500.0
BODY, SOFT = 25.0, 150.0  # levels above LOWEST_HU, of which a block holds body, or soft tissue
BODY_SHARE, FEWEST_BLOCKS = 0.01, 8  # of the blocks of a slice that hold body; of those that two slices share
VALUE_JUMP = 100.0  # HU
PLACE_JUMP, PLACE_HU = 2.4, 12.0  # times the differences around, HU
ODD, ODD_USUAL, ODD_HU = 1.0, 2.2, 6.0  # times the difference of its neighbours, times what is usual, HU
WITHOUT_SCALE = 1.6  # times these bounds, where values are no HU: an MR moves more, and lungs are not left out
ALIKE, APART_HU = 0.8, 8.0  # the next slice but one against the next one, and what these differ by at least
# Every other slice: soft tissue by so many HU, times their scatter, in so many of at least so many slices.
BRIGHTER_HU, BRIGHTER_SCATTER, BRIGHTER_SHARE, BRIGHTER_SLICES = 4.0, 1.5, 0.9, 16
AROUND = 5  # slices on either side
COPIED_SHARE, DRAWN_SHARE = 0.5, 0.7  # of slices; of voxels equal to the next one, 0.3 in scans of 8 bits


def slice_findings(
    array: npt.NDArray[Any],
    slope: float,
    intercept: float,
    axis: int,
    *,
    in_hu: bool,
    axial: bool = True,
    names: Sequence[str] = (),
) -> list[Finding]:
    """Check the slices of a volume of at least eight.

    Args:
        array: Stored voxels, shape (X, Y, Z); value = slope * voxel + intercept.
        slope: See ``array``.
        intercept: See ``array``.
        axis: The axis across the slices.
        in_hu: Whether values are HU, so that neighbours can be compared in HU, and two passes may not alternate.
        axial: Whether the axis runs from head to foot: across another one a body, and the table, begin and end at once,
            so that nothing is called a jump.
        names: What slices are called; by default their number, from 0.

    Returns:
        SLICE_CONSTANT, for planes across the other axes too, and SLICE_REPEATED, warnings; SLICE_JUMP, an error for
        values in HU and for passes that alternate, a warning for places and for single slices unlike their neighbours.
    """
    if array.shape[axis] < FEWEST:
        return []
    samples = np.ascontiguousarray(_samples(array, axis, SAMPLES))
    full = _fullness(samples)
    if not full.any():
        return []  # CONSTANT says it
    found = []
    if (inside := _constant_inside(full)).size:
        found.append(warning("SLICE_CONSTANT", f"{_runs('slices', inside, names)}: every voxel has the same value"))
    for other in {0, 1, 2} - {axis}:
        if (inside := _constant_inside(_fullness(_samples(array, other, PLANE_SAMPLES)))).size:
            which = _runs(f"planes across {'XYZ'[other]}", inside)
            found.append(warning("SLICE_CONSTANT", f"{which}: every voxel has the same value"))
    kept = np.flatnonzero(full)
    samples = samples if kept.size == full.size else samples[kept]
    copies = kept[1:][(samples[1:] == samples[:-1]).all(axis=(1, 2))]
    if 0 < copies.size <= COPIED_SHARE * kept.size and not _drawn(samples):
        found.append(warning("SLICE_REPEATED", f"{_runs('slices', copies, names)}: a copy of the slice before"))
    factors = slice_factors(block_means(samples) * np.float32(slope) + np.float32(intercept))
    return found + _jumps(_levels(samples, slope, intercept, in_hu), factors, kept, in_hu, axial, names)


def _samples(array: npt.NDArray[Any], axis: int, most: int) -> npt.NDArray[Any]:
    """Return about ``most`` x ``most`` voxels of each plane across an axis, shape (planes, rows, columns)."""
    across = np.moveaxis(array.T, 2 - axis, 0)
    y, x = (max(1, n // most) for n in across.shape[1:])
    return across[:, y // 2 :: y, x // 2 :: x]


def _fullness(planes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the share of each plane, shape (planes, rows, columns), above its smallest value; 0 if it is constant."""
    above = planes != planes.min(axis=(1, 2), keepdims=True)
    return np.asarray(np.count_nonzero(above, axis=(1, 2)) / above[0].size)


def _constant_inside(full: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return which planes are constant between two that are as full as usual: padding, and gaps in air, are not."""
    filled = np.flatnonzero(full)
    if filled.size == 0:
        return filled
    empty = np.flatnonzero(full == 0)
    after = np.searchsorted(filled, empty)
    between = (after > 0) & (after < filled.size)
    empty, after = empty[between], after[between]
    sides = np.minimum(full[filled[after - 1]], full[filled[after]])
    return np.asarray(empty[sides > np.median(full[filled]) / 2])


def _drawn(samples: npt.NDArray[Any]) -> bool:
    """Tell whether voxels are equal to the next one: a drawing without noise repeats itself all over."""
    here, there = samples[:, :, 1:], samples[:, :, :-1]
    filled = here != samples.min()
    return bool(np.count_nonzero(filled & (here == there)) > DRAWN_SHARE * np.count_nonzero(filled))


def _levels(samples: npt.NDArray[Any], slope: float, intercept: float, in_hu: bool) -> Blocks:
    """Return the mean of each block, 0 to ``SPAN``, shape (slices, blocks): HU above -200, or of percentiles."""
    low, high = LOWEST_HU, HIGHEST_HU
    if not in_hu:
        low, high = np.sort(np.percentile(samples[:, ::4, ::4], (1, 99)) * slope + intercept)
    scale = SPAN / max(high - low, 1e-6)
    levels = samples.astype(np.float32)
    levels *= slope * scale
    levels += (intercept - low) * scale
    np.clip(levels, 0.0, SPAN, out=levels)
    return block_means(levels)


def _jumps(
    levels: Blocks,
    factors: npt.NDArray[np.float64],
    kept: npt.NDArray[np.intp],
    in_hu: bool,
    axial: bool,
    names: Sequence[str],
) -> list[Finding]:
    """Compare each slice with those beside it, between the first and the last that hold body.

    Args:
        levels: See ``_levels``.
        factors: By which slices are those beside them multiplied.
        kept: The numbers of the slices.
        in_hu: See ``slice_findings``.
        axial: See ``slice_findings``.
        names: What slices are called.
    """
    body = levels > BODY
    held = np.flatnonzero(body.mean(axis=1) > BODY_SHARE)
    if held.size < FEWEST:
        return []
    inside = slice(held[0], held[-1] + 1)
    levels, body, kept, factors = levels[inside], body[inside], kept[inside], factors[inside]
    least = max(1.0, float(np.median(body.sum(axis=1))) / 2)  # a narrow body, such as a neck, changes fast

    change = _mean(np.abs(levels[1:] - levels[:-1]), body[1:] | body[:-1], least)
    skipping = _mean(np.abs(levels[2:] - levels[:-2]), body[2:] | body[:-2], least)
    between = levels[1:-1] - (levels[2:] + levels[:-2]) / 2
    if in_hu and (_alternate(change, skipping) or _brighter(levels > SOFT, between, least)):
        detail = "every other slice is more alike than neighbours are: two passes that alternate? Take one of them"
        return [error("SLICE_JUMP", detail)]
    if not axial:
        return []

    apart = _mean(np.abs(between), body[1:-1] | body[2:] | body[:-2], least)
    ratio = apart / np.maximum(skipping, 1.0)
    wider = 1.0 if in_hu else WITHOUT_SCALE
    odd = np.zeros(len(levels), dtype=np.bool_)
    odd[1:-1] = (apart > ODD_HU) & (ratio > wider * max(ODD, ODD_USUAL * float(np.median(ratio))))
    lost = ~np.isin(np.arange(len(levels)), held - held[0])
    jumped = in_hu & ((np.abs(_shift(levels, body)) > VALUE_JUMP) | (lost[1:] != lost[:-1]))
    beside = np.append(jumped, False) | np.insert(jumped, 0, False)
    scaled = (factors != 1.0) & ~beside
    odd &= ~(beside | scaled)
    moved = (change > PLACE_HU) & (change > wider * PLACE_JUMP * _usual(change)) & ~jumped
    moved &= ~(odd | scaled)[1:] & ~(odd | scaled)[:-1]

    found = []
    if jumped.any():
        detail = f"{_pairs(jumped, kept, names)}: values change by more than 100 HU; were slices rescaled differently?"
        found.append(error("SLICE_JUMP", detail))
    if scaled.any():
        times = ", ".join(f"{factor:.2f}" for factor in factors[scaled][:6])
        what = f"those beside it times {times}; were they rescaled?"
        found.append(warning("SLICE_JUMP", f"{_runs('slices', kept[scaled], names)}: {what}"))
    if odd.any():
        what = "unlike those on both sides; damaged, rescaled, flipped, or of another scan?"
        found.append(warning("SLICE_JUMP", f"{_runs('slices', kept[odd], names)}: {what}"))
    if moved.any():
        detail = f"{_pairs(moved, kept, names)}: the body jumps; are slices missing, swapped, or moved?"
        found.append(warning("SLICE_JUMP", detail))
    return found


def _mean(difference: npt.NDArray[np.floating], where: npt.NDArray[np.bool_], least: float) -> npt.NDArray[np.float64]:
    """Return for each slice the mean over the blocks ``where``, taken as at least ``least`` of them."""
    return np.asarray((difference * where).sum(axis=1) / np.maximum(where.sum(axis=1), least))


def _usual(change: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
    """Return for each change the median of those around it, copies apart."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(change, AROUND), 2 * AROUND + 1)
    beside = np.arange(2 * AROUND + 1) != AROUND
    return _medians(around, beside & (around > 0))


def _shift(levels: Blocks, body: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
    """Return the median difference between neighbours where both hold body; 0 where that is in few blocks."""
    both = body[1:] & body[:-1]
    both[both.sum(axis=1) < FEWEST_BLOCKS] = False
    return np.where(both.any(axis=1), _medians(levels[1:] - levels[:-1], both), 0.0)


def _medians(rows: npt.NDArray[np.floating], where: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
    """Return the median of each row over the columns ``where``; inf where there is none."""
    ordered = np.sort(np.where(where, rows, np.inf), axis=1)
    count = where.sum(axis=1)
    middle = np.stack(((count - 1) // 2, count // 2), axis=1)
    return np.asarray(np.take_along_axis(ordered, middle, axis=1).mean(axis=1))


def _alternate(change: npt.NDArray[np.float64], skipping: npt.NDArray[np.float64]) -> bool:
    """Tell whether the next slice but one is nearer than the next one: two passes at different places."""
    return bool(np.median(change) > APART_HU and np.median(skipping) < ALIKE * np.median(change))


def _brighter(soft: npt.NDArray[np.bool_], between: npt.NDArray[np.floating], least: float) -> bool:
    """Tell whether every other slice is brighter in soft tissue than those beside it: two phases of contrast."""
    if len(soft) < BRIGHTER_SLICES:
        return False
    shared = soft[1:-1] & soft[2:] & soft[:-2]
    above = (between * shared).sum(axis=1) / np.maximum(shared.sum(axis=1), least / 2)
    above[::2] *= -1
    usual = abs(float(np.median(above)))
    most = max((above > 0).mean(), (above < 0).mean())
    return bool(usual > max(BRIGHTER_HU, BRIGHTER_SCATTER * above.std()) and most > BRIGHTER_SHARE)


def _pairs(between: npt.NDArray[np.bool_], kept: npt.NDArray[np.intp], names: Sequence[str]) -> str:
    """Return neighbours as text: "between slices 13 and 14, 17 and 18"."""
    pairs = [f"{_name(kept[k], names)} and {_name(kept[k + 1], names)}" for k in np.flatnonzero(between)]
    return f"between slices {', '.join(pairs[:6])}{' and more' if len(pairs) > 6 else ''}"


def _runs(what: str, numbers: npt.NDArray[np.intp], names: Sequence[str] = ()) -> str:
    """Return numbers as text, neighbours joined: "slices 14 to 17, 20"."""
    runs = [[n for _, n in group] for _, group in groupby(enumerate(numbers.tolist()), lambda pair: pair[1] - pair[0])]
    parts = [f"{_name(r[0], names)} to {_name(r[-1], names)}" if len(r) > 1 else _name(r[0], names) for r in runs]
    return f"{what} {', '.join(parts[:6])}{' and more' if len(parts) > 6 else ''}"


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if len(names) > number else str(number)
