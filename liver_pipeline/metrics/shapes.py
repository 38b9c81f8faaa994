"""Sizes and places of single lesions: volume, in-slice diameters, size class, bounding box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from liver_pipeline.geometry.boxes import Box
from liver_pipeline.labels import FloatArray, Mask, Spacing
from liver_pipeline.metrics.arrays import check_spacing
from liver_pipeline.metrics.lesions import ComponentMap

SMALL_MM, LARGE_MM = 10.0, 20.0
SIZE_CLASSES = ("<10mm", "10-20mm", ">20mm")


@dataclass(frozen=True)
class Diameters:
    """Longest diameter within one slice and the width at right angles to it, in mm, from voxel corner to corner.

    ``slice_index`` counts along the slice axis of the array that was measured.
    """

    longest_mm: float
    perpendicular_mm: float
    slice_index: int


def in_slice_diameters(mask: Mask, spacing: Spacing, *, slice_axis: int = 2) -> Diameters:
    """Measure one lesion as a radiologist does: the slice where its longest diameter is longest.

    Args:
        mask: One lesion, shape (X, Y, Z), not empty.
        spacing: Voxel size in mm.
        slice_axis: Array axis across the slices.

    Returns:
        Longest distance between corners of the lesion's voxels within any slice, the full width of the lesion at right
        angles to it in that slice (caliper), and the slice. A single voxel has its in-slice diagonal, never 0. Among
        equal slices the one with the greater width counts, then the first.

    Raises:
        ValueError: If the mask is empty.

    Example:
        >>> in_slice_diameters(np.ones((3, 4, 1), dtype=bool), (1.0, 1.0, 5.0)).longest_mm
        5.0
    """
    scale = check_spacing(spacing)
    pixel = tuple(size for axis, size in enumerate(scale) if axis != slice_axis)
    slices = np.moveaxis(mask, slice_axis, 0)
    filled = np.flatnonzero(slices.any(axis=(1, 2)))
    if not len(filled):
        raise ValueError("mask is empty; a diameter needs at least one voxel")
    corners = {int(index): _outer_corners(slices[index]) * pixel for index in filled}
    reach = {index: float(np.hypot(*np.ptp(points, axis=0))) for index, points in corners.items()}
    best = Diameters(0.0, 0.0, -1)
    for index in sorted(corners, key=lambda i: (-reach[i], i)):
        if reach[index] < best.longest_mm - 1e-9:
            break  # no slice with a smaller bounding box can hold a longer diameter
        longest, width = _calipers(corners[index])
        if (longest, width, -index) > (best.longest_mm, best.perpendicular_mm, -best.slice_index):
            best = Diameters(longest, width, index)
    return best


def _outer_corners(pixels: Mask) -> FloatArray:
    """Corners, in pixels, of the first and last pixel of each row: all that a convex hull can need."""
    rows = np.flatnonzero(pixels.any(axis=1))
    first = pixels[rows].argmax(axis=1)
    last = pixels.shape[1] - pixels[rows][:, ::-1].argmax(axis=1)
    ends = [np.stack([rows + step, end], axis=1) for step in (0, 1) for end in (first, last)]
    return np.concatenate(ends).astype(np.float64)


def _calipers(points: FloatArray) -> tuple[float, float]:
    """Longest distance between points and the greatest width at right angles to any pair that far apart."""
    hull = points[ConvexHull(points).vertices]
    offsets = hull[:, None] - hull[None]
    lengths = np.hypot(offsets[..., 0], offsets[..., 1])
    longest = float(lengths.max())
    widths = []
    for start, end in np.argwhere(lengths >= longest * (1 - 1e-9)):
        direction = offsets[start, end] / lengths[start, end]
        across = hull @ np.array([-direction[1], direction[0]])
        widths.append(float(np.ptp(across)))
    return longest, max(widths)


def size_class(diameter_mm: float) -> str:
    """Size class by longest in-slice diameter: ``<10mm``, ``10-20mm`` (both ends included) or ``>20mm``."""
    if diameter_mm < SMALL_MM:
        return SIZE_CLASSES[0]
    return SIZE_CLASSES[1] if diameter_mm <= LARGE_MM else SIZE_CLASSES[2]


@dataclass(frozen=True)
class LesionShape:
    """What is measured on one component: id, voxels, volume in ml, diameters, centre of mass (index), box, its mask."""

    id: int
    voxels: int
    volume_ml: float
    diameters: Diameters
    centroid: tuple[float, float, float]
    box: Box
    mask: Mask = field(repr=False, compare=False)  # in the box

    @property
    def size_class(self) -> str:
        """Size class of the longest diameter."""
        return size_class(self.diameters.longest_mm)


def lesion_shapes(
    component_map: ComponentMap, spacing: Spacing, *, slice_axis: int = 2, origin: Sequence[int] = (0, 0, 0)
) -> list[LesionShape]:
    """Measure every component of a map with ids from 1, in order of ids; none for an empty map.

    Indices (slice, centroid, box) count in the array given, or in that of which it is the part from ``origin`` on.
    """
    if not component_map.size:
        return []
    voxel_ml = float(np.prod(check_spacing(spacing))) / 1000.0  # 1 ml = 1000 mm^3
    shapes = []
    for number, place in enumerate(ndimage.find_objects(component_map), start=1):
        mask = component_map[place] == number
        voxels = int(mask.sum())
        start = [axis.start + first for axis, first in zip(place, origin, strict=True)]
        found = in_slice_diameters(mask, spacing, slice_axis=slice_axis)
        diameters = Diameters(found.longest_mm, found.perpendicular_mm, found.slice_index + start[slice_axis])
        x, y, z = (float(axis.mean()) + first for axis, first in zip(np.nonzero(mask), start, strict=True))
        i, j, k = (slice(first, first + size) for first, size in zip(start, mask.shape, strict=True))
        shapes.append(LesionShape(number, voxels, voxels * voxel_ml, diameters, (x, y, z), (i, j, k), mask))
    return shapes
