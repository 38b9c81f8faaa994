"""Array types of the metrics, and boxes: every figure is computed inside the box that holds both masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
LabelMap: TypeAlias = npt.NDArray[np.uint8]
IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
Box: TypeAlias = tuple[slice, slice, slice]
Spacing: TypeAlias = Sequence[float]


def bounding_box(array: npt.NDArray[np.generic]) -> Box | None:
    """Return the smallest box that holds every non-zero voxel.

    Args:
        array: Labels or a mask, shape (X, Y, Z), any memory order.

    Returns:
        Three slices, or None if every voxel is zero.

    Raises:
        ValueError: If ``array`` is not three-dimensional.

    Example:
        >>> bounding_box(np.pad(np.ones((2, 1, 1), dtype=bool), 1))
        (slice(1, 3, None), slice(1, 2, None), slice(1, 2, None))
    """
    if array.ndim != 3:
        raise ValueError(f"array must have shape (X, Y, Z), got {array.shape}")
    if array.size == 0:
        return None
    plane = _touched(array, 2)  # whole planes are compared, so memory order hardly matters
    x_box, y_box = _extent(_touched(plane, 1)), _extent(_touched(plane, 0))
    if x_box is None or y_box is None:
        return None
    z_box = _extent(_touched(_touched(array[x_box, y_box], 0), 0))
    assert z_box is not None
    return x_box, y_box, z_box


def joint_box(*arrays: npt.NDArray[np.generic]) -> Box | None:
    """Return the smallest box that holds the non-zero voxels of all ``arrays``, or None if all are zero."""
    boxes = [box for box in map(bounding_box, arrays) if box is not None]
    if not boxes:
        return None
    x_box, y_box, z_box = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)
    )
    return x_box, y_box, z_box


def as_mask(array: npt.NDArray[np.generic]) -> Mask:
    """Return ``array`` as a C-ordered boolean mask of shape (X, Y, Z), without a copy where it is one already."""
    return np.ascontiguousarray(array, dtype=bool)


def check_pair(pred: npt.NDArray[np.generic], label: npt.NDArray[np.generic]) -> None:
    """Raise ValueError unless both arrays have the same three-dimensional shape."""
    if pred.ndim != 3 or pred.shape != label.shape:
        raise ValueError(f"pred has shape {pred.shape}, label {label.shape}; both must share one shape (X, Y, Z)")


def check_spacing(spacing: Spacing) -> tuple[float, float, float]:
    """Return ``spacing`` as three Python floats in mm; raise ValueError unless all are finite and positive."""
    values = [float(value) for value in spacing]
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing must be three positive lengths in mm, got {list(spacing)}")
    return values[0], values[1], values[2]


def _touched(array: npt.NDArray[np.generic], axis: int) -> Mask:
    """Whether any voxel along ``axis`` is non-zero; integer maxima run several times faster than ``any``."""
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.dtype == np.uint8:
        return np.asarray(array.max(axis=axis) > 0)
    return np.asarray((array != 0).any(axis=axis))


def _extent(touched: Mask) -> slice | None:
    """First to last true item of a one-dimensional mask, or None if there is none."""
    places = np.flatnonzero(touched)
    return None if places.size == 0 else slice(int(places[0]), int(places[-1]) + 1)
