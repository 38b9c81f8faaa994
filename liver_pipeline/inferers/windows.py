"""Sliding windows on the model grid, their order, and which of them hold only air: plain functions.

Order, starts and weights of the windows are MONAI's own (``monai.inferers.sliding_window_inference``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.data.utils import dense_patch_slices

from liver_pipeline.geometry.body import BLOCK_VOXELS, decode_blocks

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


def body_of(meta: Mapping[str, Any], shape: Sequence[int]) -> tuple[npt.NDArray[np.bool_] | None, str]:
    """Return the body map that the meta of an image of this shape holds, if any, and what to record of it."""
    if not meta.get("body"):
        return None, "off: no body map"
    blocks = decode_blocks(str(meta["body"]))
    if blocks.shape != tuple(-(-n // BLOCK_VOXELS) for n in shape):
        return None, "off: the body map is of another grid"  # the image was cropped since
    return blocks, "on"


@dataclass(frozen=True)
class WindowPlan:
    """The windows of one case: padded image (C, X, Y, Z), shape before padding, window size, order, what is kept."""

    image: torch.Tensor
    shape: tuple[int, ...]
    roi: tuple[int, int, int]
    pads: tuple[tuple[int, int], ...]
    axis: int
    order: list[Window]
    kept: list[Window]


def plan_windows(
    image: torch.Tensor,
    roi_size: Sequence[int],
    overlap: Sequence[float],
    *,
    mode: str,
    value: float,
    body: npt.NDArray[np.bool_] | None,
) -> WindowPlan:
    """Pad the image where it is smaller than a window, order the windows, drop those that hold only air.

    Args:
        image: Shape (C, X, Y, Z).
        roi_size: Window size in voxels; values <= 0 take the image's own size.
        overlap: Share of the window that the next one covers again, by axis.
        mode: Of padding, as in ``torch.nn.functional.pad``.
        value: For mode "constant".
        body: Which blocks hold body; None keeps every window.
    """
    shape = tuple(int(n) for n in image.shape[1:])
    roi = window_shape(roi_size, shape)
    pads = padding(roi, shape)
    if any(sum(pad) for pad in pads):
        flat = [n for pad in reversed(pads) for n in pad]
        image = F.pad(image[None], flat, mode=mode, value=value)[0]
    axis = streaming_axis(image.shape[1:], roi, overlap)
    order = sorted(windows(image.shape[1:], roi, overlap), key=lambda window: int(window[axis].start))
    before = [pad[0] for pad in pads]
    kept = order if body is None else [window for window in order if holds_body(window, body, before)]
    return WindowPlan(image, shape, roi, pads, axis, order, kept)
