"""Slice by slice: constant ones, copies of a neighbour, and jumps in value or place, inside the body.

Bounds against seven real CTs of 1.6 to 5 mm: between neighbouring slices the median changes by at most 4 HU, and the
mean difference is at most 1.4 times that of the slices around; a jump of 10 mm makes it 3 times or more. The next but
one differs by 1.4 times what the next one does or more; where two passes alternate, by less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.io.findings import Finding, error, warning

SAMPLES = 64  # along each axis of a slice
FEWEST = 8  # slices; of fewer nothing is usual
MIN_SAMPLES = 30
BODY_HU, BODY_SHARE = -300.0, 0.01  # of a slice
VALUE_JUMP = 100.0  # HU
PLACE_JUMP, PLACE_HU = 2.5, 50.0  # times the differences around, HU
ALIKE, APART_HU = 0.8, 20.0  # the next slice but one against the next one, and what these differ by at least
AROUND = 5  # slices on either side


def slice_axis(affine: Affine) -> int:
    """Return the array axis across the slices: that of clearly longer voxels, else the one nearest to head-foot."""
    spacing = np.array(spacing_of(affine))
    if np.sort(spacing)[2] > 1.2 * np.sort(spacing)[1]:
        return int(spacing.argmax())
    return int(np.abs(affine[2, :3] / spacing).argmax())


def slice_findings(
    array: npt.NDArray[Any], slope: float, intercept: float, axis: int, *, in_hu: bool, names: Sequence[str] = ()
) -> list[Finding]:
    """Check the slices of a volume of at least eight.

    Args:
        array: Stored voxels, shape (X, Y, Z); value = slope * voxel + intercept.
        slope: See ``array``.
        intercept: See ``array``.
        axis: The axis across the slices.
        in_hu: Whether values are HU, so that neighbours can be compared.
        names: What slices are called; by default their number, from 0.

    Returns:
        SLICE_CONSTANT and SLICE_REPEATED, warnings; SLICE_JUMP, an error for values and for passes that alternate, a
        warning for places.
    """
    if array.shape[axis] < FEWEST:
        return []
    samples = _samples(array, axis)
    empty = samples.max(axis=1) == samples.min(axis=1)
    if empty.all():
        return []  # CONSTANT says it
    filled = np.flatnonzero((samples != samples.min(axis=1, keepdims=True)).mean(axis=1) > BODY_SHARE)
    inside = [k for k in np.flatnonzero(empty) if filled.size and filled[0] < k < filled[-1]]
    found = []
    if inside:
        found.append(warning("SLICE_CONSTANT", f"{_runs(np.array(inside), names)}: every voxel has the same value"))
    kept = np.flatnonzero(~empty)
    samples = samples[kept]
    copies = kept[1:][(samples[1:] == samples[:-1]).all(axis=1)]
    if 0 < copies.size <= kept.size // 5:  # a drawing without noise repeats itself all over
        found.append(warning("SLICE_REPEATED", f"{_runs(copies, names)}: a copy of the slice before"))
    if in_hu:
        values = np.clip(samples.astype(np.float32) * slope + intercept, -1000, 400)
        found += _jumps(values, kept, names)
    return found


def _samples(array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Return about 64x64 voxels of each slice, shape (slices, voxels)."""
    across = np.moveaxis(array.T, 2 - axis, 0)
    y, x = (max(1, n // SAMPLES) for n in across.shape[1:])
    return across[:, y // 2 :: y, x // 2 :: x].reshape(across.shape[0], -1)


def _jumps(values: npt.NDArray[np.float32], kept: npt.NDArray[np.intp], names: Sequence[str]) -> list[Finding]:
    """Compare each slice with the one before, between the first and the last that hold body.

    Args:
        values: HU, -1000 to 400, shape (slices, voxels).
        kept: The numbers of the slices.
        names: What slices are called.
    """
    body = values > BODY_HU
    held = np.flatnonzero(body.mean(axis=1) > BODY_SHARE)
    if held.size < FEWEST:
        return []
    start, stop = int(held[0]), int(held[-1])
    half = np.median(body[held].sum(axis=1)) / 2  # a narrow body, such as a neck, changes fast
    shift, change = np.array([_change(values[k : k + 2], body[k : k + 2], half) for k in range(start, stop)]).T
    skipping = [_change(values[k : k + 3 : 2], body[k : k + 3 : 2], half)[1] for k in range(start, stop - 1)]
    if np.median(change) > APART_HU and np.median(skipping) < ALIKE * np.median(change):
        detail = "every other slice is more alike than neighbours are: two passes that alternate? Take one of them"
        return [error("SLICE_JUMP", detail)]
    usual = np.array([np.median(np.delete(change, k)[max(0, k - AROUND) : k + AROUND]) for k in range(len(change))])
    lost = ~np.isin(np.arange(start, stop + 1), held)
    jumped = (np.abs(shift) > VALUE_JUMP) | (lost[1:] != lost[:-1])
    moved = (change > PLACE_HU) & (change > PLACE_JUMP * usual) & ~jumped
    found = []
    for ones, finding, what in (
        (jumped, error, "values change by more than 100 HU; were slices rescaled differently?"),
        (moved, warning, "the body jumps; are slices missing, swapped, or moved?"),
    ):
        pairs = [
            f"{_name(kept[start + k], names)} and {_name(kept[start + k + 1], names)}" for k in np.flatnonzero(ones)
        ]
        if pairs:
            more = " and more" if len(pairs) > 6 else ""
            found.append(finding("SLICE_JUMP", f"between slices {', '.join(pairs[:6])}{more}: {what}"))
    return found


def _change(pair: npt.NDArray[np.float32], body: npt.NDArray[np.bool_], least: float) -> tuple[float, float]:
    """Compare two slices: median difference where both hold body, and the mean one over at least ``least`` voxels.

    In the mean, body on one side only counts with 1000 HU, as far as it comes and goes alike: a body that grows or
    ends does not count.
    """
    both = body.all(axis=0)
    if both.sum() < MIN_SAMPLES:
        return 0.0, 0.0
    difference = pair[1][both] - pair[0][both]
    only = (body & ~body[::-1]).sum(axis=1)
    total = np.abs(difference).sum() + 2 * 1000.0 * only.min()
    return float(np.median(difference)), float(total / max(least, body.any(axis=0).sum()))


def _runs(numbers: npt.NDArray[np.intp], names: Sequence[str]) -> str:
    """Return numbers as text, neighbours joined: "slices 14 to 17, 20"."""
    runs = [[n for _, n in group] for _, group in groupby(enumerate(numbers.tolist()), lambda pair: pair[1] - pair[0])]
    parts = [f"{_name(r[0], names)} to {_name(r[-1], names)}" if len(r) > 1 else _name(r[0], names) for r in runs]
    return f"slices {', '.join(parts[:6])}{' and more' if len(parts) > 6 else ''}"


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if len(names) > number else str(number)
