"""Sliding windows on the model grid, and which of them hold only air: plain functions on shapes and tensors.

Order, starts and weights of the windows are MONAI's own (``monai.inferers.sliding_window_inference``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from monai.data.utils import dense_patch_slices

from liver_pipeline.geometry.body import BLOCK_VOXELS

Window = tuple[slice, slice, slice]


def window_shape(roi_size: Sequence[int], shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the window size; values <= 0 mean the volume's own size along that axis."""
    x, y, z = (int(r) if r > 0 else int(n) for r, n in zip(roi_size, shape, strict=True))
    return (x, y, z)


def padding(roi: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return how many voxels are added before and after each axis of a volume smaller than the window."""
    missing = [max(r - n, 0) for r, n in zip(roi, shape, strict=True)]
    return tuple((m // 2, m - m // 2) for m in missing)


def window_steps(roi: Sequence[int], shape: Sequence[int], overlap: Sequence[float]) -> tuple[int, ...]:
    """Return the distance between windows: ``int(roi * (1 - overlap))``, at least 1; ``roi`` if one fills the axis."""
    return tuple(int(r) if r == n else max(int(r * (1 - o)), 1) for r, n, o in zip(roi, shape, overlap, strict=True))


def windows(shape: Sequence[int], roi: Sequence[int], overlap: Sequence[float]) -> list[Window]:
    """Return the windows over a (padded) volume in MONAI's order: the first axis is the slowest."""
    steps = window_steps(roi, shape, overlap)
    return [(x, y, z) for x, y, z in dense_patch_slices(tuple(shape), tuple(roi), steps)]


def streaming_axis(shape: Sequence[int], roi: Sequence[int], overlap: Sequence[float]) -> int:
    """Return the axis along which windows can be visited slab by slab without changing any sum.

    A voxel's sum adds its windows in MONAI's order, first axis slowest. Visiting them with axis ``a`` slowest adds
    the same numbers in the same order if no window overlaps another along ``a``, or if the axes before ``a`` hold one
    window each. Of such axes the one that keeps the fewest voxels (window thickness times the plane) is taken; the
    first axis always is one.
    """
    grid = windows(shape, roi, overlap)
    starts = [sorted({w[a].start for w in grid}) for a in range(3)]
    best, best_voxels = 0, float("inf")
    for axis in range(3):
        apart = all(b - a >= roi[axis] for a, b in zip(starts[axis], starts[axis][1:], strict=False))
        first = all(len(starts[before]) == 1 for before in range(axis))
        kept = roi[axis] * float(np.prod(shape)) / shape[axis]
        if (apart or first) and kept < best_voxels:
            best, best_voxels = axis, kept
    return best


def holds_body(window: Window, blocks: npt.NDArray[np.bool_], before: Sequence[int]) -> bool:
    """Tell whether a window on the padded volume (``before`` voxels added in front) touches a block with body."""
    box = tuple(
        slice(max(w.start - b, 0) // BLOCK_VOXELS, max(-((b - w.stop) // BLOCK_VOXELS), 0))
        for w, b in zip(window, before, strict=True)
    )
    return bool(blocks[box].any())
