"""The surface of a mask as points in mm: border voxels, or marching-cubes elements with their area.

Outside the array is background, so an object cut by the volume's edge has a surface there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import bounding_box
from liver_pipeline.labels import FloatArray, Mask, Spacing
from liver_pipeline.metrics.arrays import as_mask, check_spacing

FACES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
EDGES = ((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1))
CORNER_BITS = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]], dtype=np.uint8)  # a power of two per voxel of a cube


@dataclass(frozen=True)
class Surface:
    """Points of one surface in mm, shape (N, 3), and the area each stands for, shape (N,); 1 for border voxels."""

    points: FloatArray
    weights: FloatArray


def border_surface(mask: npt.NDArray[np.generic], spacing: Spacing, neighbours: Literal[6, 18]) -> Surface:
    """Return the centres of the voxels of ``mask`` with a background voxel among their 6 or 18 neighbours.

    Args:
        mask: Mask or labels, shape (X, Y, Z); 0 is background.
        spacing: Voxel size in mm.
        neighbours: 6 (faces) or 18 (faces and edges).

    Returns:
        Points as index times spacing in mm, each of weight 1; no points for an empty mask.
    """
    points, by_faces = both_borders(mask, spacing)
    if neighbours == 6:
        points = points[by_faces]
    return Surface(points, np.ones(len(points)))


def both_borders(mask: npt.NDArray[np.generic], spacing: Spacing) -> tuple[FloatArray, Mask]:
    """Return the points of the 18-neighbour border in mm, and which of them are in the 6-neighbour border."""
    scale = check_spacing(spacing)
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3)), np.zeros(0, dtype=bool)
    inside = np.pad(as_mask(mask[box]), 1)
    centre = inside[1:-1, 1:-1, 1:-1]
    core_by_faces = _eroded(centre, inside, FACES)
    border = centre & ~_eroded(core_by_faces, inside, EDGES)
    return _points(border, [axis.start for axis in box], scale), ~core_by_faces[border]


def _eroded(start: Mask, inside: Mask, shifts: tuple[tuple[int, int, int], ...]) -> Mask:
    """Voxels of ``start`` whose neighbours at plus and minus each shift are inside."""
    core = start.copy()
    for x, y, z in shifts:
        core &= _shifted(inside, (x, y, z))
        core &= _shifted(inside, (-x, -y, -z))
    return core


def area_surface(mask: Mask, spacing: Spacing) -> Surface:
    """Return the marching-cubes surface elements of ``mask``: where eight voxels meet, with their area in mm^2.

    Args:
        mask: Mask, shape (X, Y, Z).
        spacing: Voxel size in mm.

    Returns:
        Voxel corners that have both foreground and background around them, in mm (corner (i, j, k) is the lower corner
        of voxel (i, j, k), shifted by half a voxel to index times spacing), and the area of each. The areas of a mask
        sum to the area of its marching-cubes surface. No points for an empty mask.
    """
    scale = check_spacing(spacing)
    box = bounding_box(mask)
    if box is None:
        return Surface(np.zeros((0, 3)), np.zeros(0))
    codes = _corner_codes(as_mask(mask[box]))
    surface = (codes != 0) & (codes != 255)
    points = _points(surface, [axis.start for axis in box], scale)
    return Surface(points, element_areas(scale)[codes[surface]])


def element_areas(spacing: tuple[float, float, float]) -> FloatArray:
    """Area in mm^2 of the surface inside the cube between eight voxel centres, for each of the 256 patterns.

    The triangles are those of Lorensen's marching cubes at mid-edge; of a pattern and its inverse the smaller surface
    counts, so that foreground and background are treated alike. This gives the table of DeepMind's surface-distance.
    """
    half_sizes, patterns = _triangles()
    x, y, z = spacing
    areas = np.linalg.norm(half_sizes * np.array([y * z, x * z, x * y]), axis=1)
    sums = np.bincount(patterns, weights=areas, minlength=256)
    return np.minimum(sums, sums[::-1])


@cache
def _triangles() -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Half the cross product of each triangle, in index units, and the pattern it belongs to."""
    from skimage.measure import marching_cubes  # slow to import

    half_sizes, patterns = [], []
    for pattern in range(1, 255):
        cube = ((CORNER_BITS & pattern) > 0).astype(np.float32)
        vertices, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
        corners = vertices.astype(np.float64)[faces]
        half_sizes.append(0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        patterns.append(np.full(len(faces), pattern, dtype=np.intp))
    return np.concatenate(half_sizes), np.concatenate(patterns)


def _corner_codes(mask: Mask) -> npt.NDArray[np.uint8]:
    """Pattern of the eight voxels around each voxel corner, shape (X + 1, Y + 1, Z + 1)."""
    inside = np.pad(mask.view(np.uint8), 1)
    shape = tuple(size - 1 for size in inside.shape)
    codes = np.zeros(shape, dtype=np.uint8)
    for x, y, z in np.ndindex(2, 2, 2):
        codes |= inside[x : x + shape[0], y : y + shape[1], z : z + shape[2]] * CORNER_BITS[x, y, z]
    return codes


def _shifted(padded: Mask, shift: tuple[int, int, int]) -> Mask:
    """View of a mask padded by one voxel, moved by ``shift``, with the shape before padding."""
    x, y, z = (slice(1 + step, size - 1 + step) for step, size in zip(shift, padded.shape, strict=True))
    return padded[x, y, z]


def _points(mask: Mask, start: list[int], scale: tuple[float, float, float]) -> FloatArray:
    """Coordinates in mm of the true voxels of a box that starts at index ``start``."""
    indices = np.unravel_index(np.flatnonzero(mask), mask.shape)
    return np.stack([(index + first) * size for index, first, size in zip(indices, start, scale, strict=True)], axis=1)
