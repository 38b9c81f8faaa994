"""Connected components of a label map, in little time and memory: what the post-processing steps are made of.

All work is done inside the bounding box of what matters, along the memory order of the map (numpy and cc3d are ten
times slower across it); besides the result, only cc3d's mask and numbers are held, and a few planes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import cc3d
import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import forwards
from liver_pipeline.labels import LIVER, TUMOR, LabelMap, Mask

SLAB_VOXELS: Final = 2**22  # worked on at once; temporary arrays of a few times as many bytes

Components: TypeAlias = npt.NDArray[np.unsignedinteger]


class MapWindow(NamedTuple):
    """A box of an array whose axes run forwards in memory, the slowest first.

    Attributes:
        forwards: Turns the axes that run backwards in memory, of an array (X, Y, Z).
        axes: Orders them from the slowest to the fastest.
        box: Along these axes.
    """

    forwards: tuple[slice, ...]
    axes: list[int]
    box: tuple[slice, ...]

    def view(self, array: LabelMap) -> LabelMap:
        """Return the view of ``array`` that the window shows."""
        return array[self.forwards].transpose(self.axes)[self.box]

    def copy(self, array: LabelMap) -> LabelMap:
        """Return a copy of ``array`` that lies in memory as it does; numpy's own turns the axes that run backwards."""
        return array[self.forwards].copy(order="K")[self.forwards]

    def as_given(self, view: Components) -> Components:
        """Return an array of the window's shape along the axes of the map."""
        return view.transpose(np.argsort(self.axes))[self.forwards]


def map_window(label_map: LabelMap, smallest_label: int = LIVER) -> MapWindow:
    """Return the box around all voxels of at least ``smallest_label``, one voxel wider; empty where there are none.

    The margin makes the outside one background component, and shows what touches an object at the edge of the view.
    Raises ValueError for what is no label map.
    """
    if label_map.ndim != 3:
        raise ValueError(f"label_map must have shape (X, Y, Z), got {label_map.shape}; drop the channel axis first")
    if label_map.dtype != np.uint8:
        raise ValueError(f"label_map must be uint8, got {label_map.dtype}; pass the label map, not probabilities")
    window = MapWindow(forwards(label_map), sorted(range(3), key=lambda axis: -abs(label_map.strides[axis])), ())
    for others in ((1, 2), (0, 2), (0, 1)):
        highest = window.view(label_map).max(axis=others, initial=0)
        if highest.max(initial=0) > TUMOR:  # the first view is the whole map
            raise ValueError(
                f"label_map has label {highest.max()}; known are 0 background, {LIVER} liver, {TUMOR} tumor"
            )
        (occupied,) = np.nonzero(highest >= smallest_label)
        side = slice(max(occupied[0] - 1, 0), occupied[-1] + 2) if len(occupied) else slice(0)
        window = window._replace(box=(*window.box, side))
    return window


def _slabs(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Cut the first axis into slabs of at least one plane and about ``SLAB_VOXELS``."""
    planes = max(1, SLAB_VOXELS // max(1, array[:1].size))
    return (slice(start, start + planes) for start in range(0, len(array), planes))


def number_components(mask: Mask, connectivity: int = 26) -> tuple[Components, int]:
    """Number the components of a mask from 1; return them and how many there are."""
    # cc3d 4.1.1 allots too few labels to a boolean array that is one voxel thick, and raises; as uint8 it takes longer.
    labels = mask.view(np.uint8) if 1 in mask.shape else mask
    components, count = cc3d.connected_components(labels, connectivity=connectivity, return_N=True)
    return components.astype(components.dtype if mask.size else np.uint16, copy=False), count


def relabel(
    label_map: LabelMap, window: MapWindow, components: Components, is_changed: Mask, new_label: LabelMap
) -> LabelMap:
    """Return a copy of ``label_map`` in which the changed component numbers have their new label."""
    cleaned = window.copy(label_map)
    if is_changed.any():
        part, first = window.view(cleaned), np.argmax(is_changed)
        for slab in _slabs(components):
            where = components[slab] >= first  # few, as a rule: what lies around holes is number 1
            numbers = components[slab][where]
            part[slab][where] = np.where(is_changed[numbers], new_label[numbers], part[slab][where])
    return cleaned


def keep_component(label_map: LabelMap, window: MapWindow, components: Components, kept: int) -> LabelMap:
    """Return a copy of ``label_map`` with nothing but the voxels of one component number."""
    cleaned = window.copy(label_map)
    part = window.view(cleaned)
    for slab in _slabs(components):
        part[slab] *= components[slab] == kept
    return cleaned


def voxels_changed(before: LabelMap, after: LabelMap) -> int:
    """Return in how many voxels two maps that lie alike in memory differ."""
    axes = np.argsort([-stride for stride in before.strides])
    before, after = before.transpose(axes), after.transpose(axes)
    return sum(int(np.count_nonzero(before[slab] != after[slab])) for slab in _slabs(before))


def component_sizes(components: Components, count: int) -> npt.NDArray[np.int64]:
    """Return the voxels of each component number from 0 (outside, counted as 0) to ``count``."""
    sizes = np.zeros(count + 1, dtype=np.int64)
    for slab in _slabs(components):
        numbers = components[slab]
        sizes += np.bincount(numbers[numbers > 0], minlength=count + 1)
    return sizes


def first_largest(components: Components, sizes: npt.NDArray[np.int64]) -> int:
    """Return the number of the largest component; of equal ones, that whose first voxel in C order comes first."""
    is_largest = sizes == sizes.max()
    if np.count_nonzero(is_largest) == 1:
        return int(np.argmax(is_largest))
    first_voxel = np.unravel_index(int(np.argmax(is_largest[components])), components.shape)
    return int(components[first_voxel])


def numbers_on_faces(components: Components) -> npt.NDArray[np.unsignedinteger]:
    """Return the numbers that occur on the six faces of the array."""
    if components.size == 0:
        return np.empty(0, dtype=components.dtype)
    return np.unique(np.concatenate([np.moveaxis(components, axis, 0)[[0, -1]].ravel() for axis in range(3)]))


def touching_liver(components: Components, count: int, part: LabelMap) -> Mask:
    """Say of each component number from 0 to ``count`` whether one of its voxels has liver among its 26 neighbours."""
    touching = np.zeros(count + 1, dtype=bool)
    for slab in _slabs(components):
        wider = slice(slab.start, slab.stop + 1)  # each pair of neighbouring planes lies in one slab
        touching[components[wider][_dilate(part[wider] == LIVER)]] = True
    return touching


def _dilate(mask: Mask) -> Mask:
    """Return ``mask`` grown by its 26 neighbours; three passes along the axes are far faster than scipy's."""
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(mask.copy(), axis, 0)
        after[1:] |= before[:-1]
        after[:-1] |= before[1:]
        mask = np.moveaxis(after, 0, axis)
    return mask


def surface_points(array: npt.NDArray[Any], inside: Callable[[npt.NDArray[Any]], Mask]) -> npt.NDArray[np.int64]:
    """Return the indices, shape (N, 3), of the voxels inside with a face neighbour outside, and some inner ones."""
    points = [np.empty((0, 3), dtype=np.int64)]
    for slab in _slabs(array):  # the planes where slabs meet count as surface; that costs time and changes no distance
        mask = inside(array[slab])
        inner = np.zeros_like(mask)
        inner[1:-1, 1:-1, 1:-1] = mask[1:-1, 1:-1, 1:-1]
        for axis in range(3):
            kept, whole = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
            kept[1:] &= whole[:-1]
            kept[:-1] &= whole[1:]
        surface = np.flatnonzero(mask & ~inner)  # and unravelled: ten times faster than argwhere
        points.append(np.stack(np.unravel_index(surface, mask.shape), axis=1) + np.array([slab.start, 0, 0]))
    return np.concatenate(points)
