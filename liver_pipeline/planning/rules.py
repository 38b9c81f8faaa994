"""From a data set's fingerprint to values for a training: plain rules on numbers.

Target spacing, first patch and its shrinking, the clip range and the share of the data set in a batch follow nnU-Net
(Isensee et al. 2021, Nature Methods 18, 203-211, and its supplement); memory is counted, not looked up
(:mod:`liver_pipeline.planning.training_memory`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from liver_pipeline.planning.training_memory import TrainingMemory

LEAST_SPACING = 0.05  # mm; no less is a value of the key
ANISOTROPIC = 3.0  # ratio of spacings, and of sizes, beyond which an axis counts as coarse
COARSE_PERCENTILE = 10  # of the spacings along a coarse axis
FIRST_PATCH = {3: 256, 2: 512}  # sides, in voxels, of the isotropic window that is shrunk until it fits
MAX_BATCH_SHARE = 0.05  # of the voxels of the data set in one step
MEMORY_SHARE, MEMORY_RESERVE = 0.9, 1e9  # of the GPU: fragmentation; context and workspaces, in bytes
TUMOR_SHARE = 1 / 3  # of all windows are to be centred on tumor
MAX_TUMOR_RATIO = 4.0  # against background and liver of 1 each: two thirds of a tumor case's windows


@dataclass(frozen=True)
class Value:
    """A proposed value and why."""

    value: Any
    reason: str


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> Value:
    """Propose the voxel size: the median along each axis; of a coarse axis the 10th percentile.

    An axis is coarse if its median spacing is more than three times that of both others, and its median size in voxels
    less than a third of theirs; its spacing stays at or above that of the others.

    Args:
        spacings: In mm along R, A, S, shape (N, 3).
        shapes: In voxels along R, A, S, shape (N, 3).

    Returns:
        Three spacings in mm, to 0.01 mm, each at least ``LEAST_SPACING``.
    """
    spacing, size = np.median(spacings, axis=0), np.median(shapes, axis=0)
    reason = "mm along R, A, S: the median of the data set"
    coarse = int(np.argmax(spacing))
    others = [axis for axis in range(3) if axis != coarse]
    wide = spacing[coarse] > ANISOTROPIC * spacing[others].max()
    short = size[coarse] * ANISOTROPIC < size[others].min()
    if wide and short:
        tenth = float(np.percentile(np.asarray(spacings)[:, coarse], COARSE_PERCENTILE))
        spacing[coarse] = max(tenth, float(spacing[others].max()))
        reason += f"; along {'RAS'[coarse]}, which is coarse, the 10th percentile (Isensee et al. 2021)"
    return Value([max(LEAST_SPACING, round(float(edge), 2)) for edge in spacing], reason)


def median_size(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], spacing: Sequence[float]) -> Any:
    """Return the median number of voxels along R, A, S once the cases have the given spacing, shape (3,)."""
    fov = np.asarray(spacings) * np.asarray(shapes)
    return np.maximum(np.rint(np.median(fov / np.asarray(spacing), axis=0)), 1).astype(int)


def patch_size(
    size: Sequence[int],
    spacing: Sequence[float],
    memory: TrainingMemory,
    *,
    multiple: int,
    windows: int,
    budget: float,
) -> list[int]:
    """Propose the window: as isotropic in mm as the median case allows, shrunk until ``windows`` of them fit.

    The axis that covers most of the median case is shrunk first.

    Args:
        size: Median case on the grid of ``spacing``, in voxels.
        spacing: In mm.
        memory: Of a training step; its ``roi_size`` has 1 along axes where the network sees one slice.
        multiple: Sides are multiples of this, and at least twice this.
        windows: How many must fit.
        budget: Bytes.

    Returns:
        Sides in voxels.

    Raises:
        ValueError: If not even the smallest window fits.
    """
    free = [axis for axis, side in enumerate(memory.roi_size) if side != 1]
    fine = 1.0 / np.asarray(spacing)[free]
    first = fine * FIRST_PATCH[len(free)] / np.prod(fine) ** (1 / len(free))
    sides = [1, 1, 1]
    for axis, side in zip(free, first, strict=True):
        sides[axis] = max(2 * multiple, math.ceil(min(side, size[axis]) / multiple - 1e-9) * multiple)
    while memory.windows(budget, sides) < windows:
        large = [axis for axis in free if sides[axis] > 2 * multiple]
        if not large:
            needed = memory.bytes(windows, sides) / 1e9
            raise ValueError(f"{windows} windows of {sides} need {needed:.1f} GB; choose a smaller network")
        sides[max(large, key=lambda axis: (sides[axis] / size[axis], -axis))] -= multiple
    return sides


def batch_size(sides: Sequence[int], size: Sequence[int], n_cases: int, *, crops_per_case: int, windows: int) -> int:
    """Propose the cases in a step: as many as memory holds, and at most 5 % of the voxels of the data set.

    Args:
        sides: Window in voxels.
        size: Median case in voxels.
        n_cases: Cases of the data set.
        crops_per_case: Windows of a case.
        windows: How many fit into memory.
    """
    share = MAX_BATCH_SHARE * n_cases * float(np.prod(size)) / (float(np.prod(sides)) * crops_per_case)
    return max(1, min(windows // crops_per_case, round(share), n_cases))


def tumor_ratio(n_cases: int, n_with_tumor: int) -> float:
    """Propose how often windows are centred on tumor, against 1 for background and 1 for liver; some case has tumor.

    A third of all windows is to be centred on it. Cases without tumor give none, so those with tumor give more.
    """
    share = TUMOR_SHARE * n_cases / n_with_tumor
    return MAX_TUMOR_RATIO if share >= 1 else min(MAX_TUMOR_RATIO, round(2 * share / (1 - share), 1))


def intensity_values(foreground: Mapping[str, float] | None) -> dict[str, Value]:
    """Propose the HU window and the z-score's mean and SD from the values in liver and tumor; none without any."""
    if foreground is None or foreground["p0.5"] >= foreground["p99.5"]:
        return {}
    window = [round(foreground["p0.5"], 1), round(foreground["p99.5"], 1)]
    return {
        "hu_window": Value(window, "HU: percentiles 0.5 and 99.5 of liver and tumor"),
        "hu_mean": Value(round(foreground["mean"], 1), "HU: mean of liver and tumor"),
        "hu_std": Value(round(foreground["sd"], 1), "HU: standard deviation of liver and tumor"),
    }


def memory_budget(gpu_memory_gb: float) -> float:
    """Return the bytes that a training step may take on a GPU of so many GB (10^9 bytes)."""
    return MEMORY_SHARE * gpu_memory_gb * 1e9 - MEMORY_RESERVE
