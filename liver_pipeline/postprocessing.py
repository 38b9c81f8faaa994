"""Clean a label map by what anatomy allows: one liver without holes, and tumors of a plausible size on it.

Every function takes a label map of shape (X, Y, Z), uint8, with 0 background, 1 liver, 2 tumor (a model of two classes
simply has no 2), and returns a new one of the same shape; an empty map comes back empty. "Liver-or-tumor" is the whole
organ, as LiTS reads it (label >= 1). Voxels of an object are connected over faces, edges and corners (26 neighbours),
those of the background over faces only (6), so that an object and what it encloses never cross.

All work is done inside the bounding box of what matters, along the memory order of the map (numpy and cc3d are ten
times slower across it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import cc3d
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

LIVER: Final = 1
TUMOR: Final = 2

LabelMap: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]
Components: TypeAlias = npt.NDArray[np.unsignedinteger]


def keep_largest_liver(label_map: LabelMap) -> LabelMap:
    """Keep the largest component of liver-or-tumor, with its tumors; everything else becomes background.

    The size is counted in voxels. Of several equally large components the one that comes first in index order
    (X slowest, Z fastest) is kept, whatever the memory layout.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.

    Returns:
        A new label map; all its voxels equal the input's or are background.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2.

    Example:
        >>> row = np.array([[[1, 2, 1, 0, 1, 1]]], dtype=np.uint8)
        >>> keep_largest_liver(row)
        array([[[1, 2, 1, 0, 0, 0]]], dtype=uint8)
    """
    cleaned = _checked_copy(label_map)
    axes = _memory_axes(cleaned)
    part = _crop(cleaned.transpose(axes))
    components, sizes = _components(part > 0)
    if len(sizes) > 2:
        part[components != _first_largest(components.transpose(np.argsort(axes)), sizes)] = 0
    return cleaned


def fill_liver_holes(label_map: LabelMap) -> LabelMap:
    """Turn background that liver-or-tumor encloses on all sides into liver; tumors stay tumors.

    A pocket that reaches the border of the map is open, as in :func:`scipy.ndimage.binary_fill_holes`: what lies beyond
    the border is unknown.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.

    Returns:
        A new label map; only enclosed background voxels differ from the input.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2.
    """
    cleaned = _checked_copy(label_map)
    part = _crop(cleaned.transpose(_memory_axes(cleaned)))
    cavities, count = cc3d.connected_components(part == 0, connectivity=6, return_N=True)
    is_hole = np.ones(count + 1, dtype=bool)
    is_hole[0] = False  # 0 is the organ itself
    is_hole[_labels_on_faces(cavities)] = False  # the faces lead outside the organ or to the border of the map
    if is_hole.any():
        part[is_hole[cavities]] = LIVER
    return cleaned


def drop_small_tumors(label_map: LabelMap, spacing: Sequence[float], *, min_volume_ml: float) -> LabelMap:
    """Drop tumors (connected components of the tumor label) of less than ``min_volume_ml``.

    A dropped tumor that touches liver was a doubtful part of the organ and becomes liver, so that the outline of
    liver-or-tumor, which LiTS scores as the liver, does not change. One that touches no liver was never part of the
    organ and becomes background.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.
        spacing: Voxel size in mm along X, Y, Z.
        min_volume_ml: Smallest volume in ml that is kept; a tumor of exactly this volume stays.

    Returns:
        A new label map; only voxels of dropped tumors differ from the input.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2, ``spacing`` is not three
            positive numbers, or ``min_volume_ml`` is negative.

    Example:
        >>> row = np.array([[[1, 2, 1, 0, 2, 0, 2, 2]]], dtype=np.uint8)
        >>> drop_small_tumors(row, (10.0, 10.0, 10.0), min_volume_ml=2.0)  # a voxel is 1 ml
        array([[[1, 1, 1, 0, 0, 0, 2, 2]]], dtype=uint8)
    """
    _check_not_negative("min_volume_ml", min_volume_ml)
    voxel_ml = _checked_spacing(spacing).prod() / 1000.0  # 1 ml = 1000 mm^3
    cleaned = _checked_copy(label_map)
    part = _crop(cleaned.transpose(_memory_axes(cleaned)), smallest_label=TUMOR)
    tumors, sizes = _components(part == TUMOR)
    is_small = sizes * voxel_ml < min_volume_ml * (1.0 - 1e-9)  # rounding must not drop what is exactly the minimum
    is_small[0] = False  # 0 is not a tumor
    if is_small.any():
        new_label = np.where(_touches(tumors, part == LIVER, len(sizes)), LIVER, 0).astype(np.uint8)
        dropped = is_small[tumors]
        part[dropped] = new_label[tumors[dropped]]
    return cleaned


def drop_tumors_off_liver(label_map: LabelMap, spacing: Sequence[float], *, max_distance_mm: float) -> LabelMap:
    """Turn tumors that lie farther than ``max_distance_mm`` from the liver into background.

    The distance is the smallest one between the centre of a tumor voxel and that of a liver voxel. A tumor that touches
    liver (26 neighbours) is always kept, so 0 means "must touch". A map without any liver voxel is returned
    unchanged: there is nothing to be off, and a liver that was missed must not take its tumors with it.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.
        spacing: Voxel size in mm along X, Y, Z.
        max_distance_mm: Largest distance in mm that is kept; a tumor at exactly this distance stays.

    Returns:
        A new label map; all its voxels equal the input's or are background.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2, ``spacing`` is not three
            positive numbers, or ``max_distance_mm`` is negative.

    Example:
        >>> row = np.array([[[1, 2, 0, 0, 2, 0, 0, 2]]], dtype=np.uint8)
        >>> drop_tumors_off_liver(row, (1.0, 1.0, 2.0), max_distance_mm=8.0)
        array([[[1, 2, 0, 0, 2, 0, 0, 0]]], dtype=uint8)
    """
    _check_not_negative("max_distance_mm", max_distance_mm)
    voxel_mm = _checked_spacing(spacing)
    cleaned = _checked_copy(label_map)
    axes = _memory_axes(cleaned)
    part = _crop(cleaned.transpose(axes))
    liver = part == LIVER
    tumors, sizes = _components(part == TUMOR)
    if len(sizes) == 1 or not liver.any():
        return cleaned
    is_off = ~_touches(tumors, liver, len(sizes))
    is_off[0] = False  # 0 is not a tumor
    if max_distance_mm > 0 and is_off.any():
        off = is_off[tumors]
        is_off[np.unique(tumors[_within(off, liver, voxel_mm[axes], max_distance_mm)])] = False
    if is_off.any():
        part[is_off[tumors]] = 0
    return cleaned


def _checked_copy(label_map: LabelMap) -> LabelMap:
    """Return a copy to work on, in the same memory order; raise ValueError for what is no label map."""
    if label_map.ndim != 3:
        raise ValueError(f"label_map must have shape (X, Y, Z), got {label_map.shape}; drop the channel axis first")
    if label_map.dtype != np.uint8:
        raise ValueError(f"label_map must be uint8, got {label_map.dtype}; pass the label map, not probabilities")
    highest = label_map.max(initial=0)
    if highest > TUMOR:
        raise ValueError(f"label_map has label {highest}; known are 0 background, {LIVER} liver, {TUMOR} tumor")
    return label_map.copy(order="K")


def _memory_axes(array: LabelMap) -> list[int]:
    """Return the axes of an array from the slowest in memory to the fastest."""
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def _crop(part: LabelMap, smallest_label: int = LIVER) -> LabelMap:
    """Return the view around all voxels of at least ``smallest_label``, one voxel wider; empty where there are none.

    The margin makes the outside one background component, and shows what touches an object at the edge of the view.
    """
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (occupied,) = np.nonzero(part.max(axis=others, initial=0) >= smallest_label)
        start, stop = (max(occupied[0] - 1, 0), occupied[-1] + 2) if len(occupied) else (0, 0)
        part = part[(slice(None),) * axis + (slice(start, stop),)]
    return part


def _components(mask: Mask) -> tuple[Components, npt.NDArray[np.int64]]:
    """Number the components of a mask from 1; return them and the voxels of each number (entry 0 is always 0)."""
    # cc3d 4.1.1 allots too few labels to a boolean array that is one voxel thick, and raises; as uint8 it takes longer.
    labels = mask.view(np.uint8) if 1 in mask.shape else mask
    components: Components = cc3d.connected_components(labels, connectivity=26)
    return components, np.bincount(components[mask], minlength=1)


def _first_largest(components: Components, sizes: npt.NDArray[np.int64]) -> int:
    """Return the number of the largest component; of equal ones, that whose first voxel in C order comes first."""
    is_largest = sizes == sizes.max()
    if np.count_nonzero(is_largest) == 1:
        return int(np.argmax(is_largest))
    first_voxel = np.unravel_index(int(np.argmax(is_largest[components])), components.shape)
    return int(components[first_voxel])


def _labels_on_faces(components: Components) -> npt.NDArray[np.unsignedinteger]:
    """Return the numbers that occur on the six faces of the array."""
    faces = [np.moveaxis(components, axis, 0)[[0, -1]] for axis in range(3) if components.size]
    return np.unique(np.concatenate([face.ravel() for face in faces])) if faces else np.empty(0, components.dtype)


def _touches(components: Components, mask: Mask, count: int) -> npt.NDArray[np.bool_]:
    """Say of each component number below ``count`` whether one of its voxels is a 26-neighbour of ``mask``."""
    touching = np.zeros(count, dtype=bool)
    touching[np.unique(components[_dilate(mask) & (components > 0)])] = True
    return touching


def _dilate(mask: Mask) -> Mask:
    """Return ``mask`` grown by its 26 neighbours; three passes along the axes are far faster than scipy's."""
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(mask.copy(), axis, 0)
        after[1:] |= before[:-1]
        after[:-1] |= before[1:]
        mask = np.moveaxis(after, 0, axis)
    return mask


def _within(mask: Mask, target: Mask, voxel_mm: npt.NDArray[np.float64], limit_mm: float) -> tuple[Any, ...]:
    """Return as an index those surface voxels of ``mask`` that lie within ``limit_mm`` (inclusive) of ``target``."""
    points = _surface_points(mask)
    tree = cKDTree(_surface_points(target) * voxel_mm)
    # The bound of a k-d tree query is exclusive, and sums of squares round: 1e-6 mm makes the limit inclusive.
    distances, _ = tree.query(points * voxel_mm, distance_upper_bound=limit_mm + 1e-6)
    return tuple(points[np.isfinite(distances)].T)


def _surface_points(mask: Mask) -> npt.NDArray[np.int64]:
    """Return the indices, shape (N, 3), of the voxels of ``mask`` that have a face neighbour outside it."""
    inner = mask.copy()
    for axis in range(3):
        kept, whole = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        kept[1:] &= whole[:-1]
        kept[:-1] &= whole[1:]
        kept[[0, -1]] = False  # beyond the array is outside
    return np.argwhere(mask & ~inner)


def _checked_spacing(spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the voxel size as an array of three positive numbers in mm, or raise ValueError."""
    voxel_mm = np.asarray(spacing, dtype=np.float64)
    if voxel_mm.shape != (3,) or not np.all(np.isfinite(voxel_mm) & (voxel_mm > 0)):
        raise ValueError(f"spacing must be three positive numbers in mm along X, Y, Z, got {spacing}")
    return voxel_mm


def _check_not_negative(name: str, value: float) -> None:
    """Raise ValueError where a threshold is negative or nan."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")
