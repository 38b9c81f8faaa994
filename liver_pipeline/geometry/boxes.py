"""Boxes of a volume: round what is not zero, widened by a margin, cut out of a scan, carried from grid to grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.geometry.axes import AxisMap
from liver_pipeline.labels import Mask

Scalar = TypeVar("Scalar", bound=np.generic)
Box: TypeAlias = tuple[slice, slice, slice]  # an index into a volume (X, Y, Z); start and stop are always given
NOWHERE: Final[Box] = (slice(0, 0), slice(0, 0), slice(0, 0))  # holds no voxel
ON_BORDER = 1e-6  # voxels; a centre on the border is inside, however the numbers were rounded


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
    turns, shape = forwards(array), array.shape
    array = array[turns]
    plane = _touched(array, 2)  # whole planes are compared, so memory order hardly matters
    x_box, y_box = _extent(_touched(plane, 1)), _extent(_touched(plane, 0))
    if x_box is None or y_box is None:
        return None
    z_box = _extent(_touched(_touched(array[x_box, y_box], 0), 0))
    assert z_box is not None
    x, y, z = (
        side if turn.step > 0 else slice(length - side.stop, length - side.start)
        for side, turn, length in zip((x_box, y_box, z_box), turns, shape, strict=True)
    )
    return x, y, z


def forwards(array: npt.NDArray[np.generic]) -> tuple[slice, ...]:
    """Return the index that turns the axes of ``array`` that run backwards in memory: numpy is slow along these."""
    return tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)


def joint_box(*arrays: npt.NDArray[np.generic]) -> Box | None:
    """Return the smallest box that holds the non-zero voxels of all ``arrays``, or None if all are zero."""
    boxes = [box for box in map(bounding_box, arrays) if box is not None]
    if not boxes:
        return None
    x_box, y_box, z_box = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)
    )
    return x_box, y_box, z_box


def whole_box(shape: Sequence[int]) -> Box:
    """Return the box of a whole volume."""
    x, y, z = (slice(0, int(n)) for n in shape)
    return x, y, z


def widen(box: Box, margin_mm: float, spacing: Sequence[float], shape: Sequence[int]) -> Box:
    """Widen a box by at least ``margin_mm`` on each side, as far as the volume reaches.

    Raises:
        ValueError: If the margin is negative.
    """
    if not margin_mm >= 0:
        raise ValueError(f"margin_mm must be 0 or more, got {margin_mm}")
    margins = [int(np.ceil(round(margin_mm / edge, 6))) for edge in spacing]
    x, y, z = (
        slice(max(side.start - margin, 0), min(side.stop + margin, int(length)))
        for side, margin, length in zip(box, margins, shape, strict=True)
    )
    return x, y, z


def touches_border(array: npt.NDArray[np.generic]) -> bool:
    """Whether what is not zero in an array (X, Y, Z) reaches the first or last plane along any axis."""
    return any(bool(plane(array, axis, end).any()) for axis in range(3) for end in (0, -1))


def plane(array: npt.NDArray[Scalar], axis: int, index: int) -> npt.NDArray[Scalar]:
    """Return a plane across an axis, as a view; ``np.take`` copies the whole volume where it is not C-ordered."""
    view: npt.NDArray[Scalar] = np.moveaxis(array, axis, 0)[index]
    return view


def box_on_scan(box: Box, grid: AxisMap) -> Box:
    """Return the scan voxels whose centres lie inside a box of the model grid, at least one along each axis.

    The same place of the patient is found however the scan's axes are stored.

    Args:
        box: On the model grid, whose voxels are cells around their centres.
        grid: Map between scan and model grid.

    Returns:
        The box along the scan's own axes.
    """
    sides = [slice(0, 0)] * 3
    for axis, side in enumerate(box):
        length = grid.aligned_shape[axis]
        low, high = grid.to_aligned(axis, np.array([side.start - 0.5, side.stop - 0.5]))
        first = min(max(int(np.ceil(low - ON_BORDER)), 0), length - 1)
        behind = max(min(int(np.floor(high + ON_BORDER)) + 1, length), first + 1)
        flipped = grid.flipped[axis]
        sides[grid.order[axis]] = slice(length - behind, length - first) if flipped else slice(first, behind)
    return sides[0], sides[1], sides[2]


def shifted(affine: Affine, box: Box) -> Affine:
    """Return the affine of a grid that begins with the first voxel of a box."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ [side.start for side in box] + affine[:3, 3]
    return moved


def box_corners(box: Box) -> list[list[int]]:
    """Return [first voxel, the one behind the last] along each axis: a box as JSON holds it."""
    return [[side.start, side.stop] for side in box]


def box_text(box: Box | None) -> str:
    """Return a box as the text that a case holds (a case is a dictionary of strings)."""
    return json.dumps(None if box is None else box_corners(box))


def parse_box(text: str) -> Box | None:
    """Read what :func:`box_text` wrote."""
    sides = json.loads(text)
    if sides is None:
        return None
    x, y, z = (slice(*side) for side in sides)
    return x, y, z


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
