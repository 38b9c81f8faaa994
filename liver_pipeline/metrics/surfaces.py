"""Surface distances in mm, each named by its definition: a bare "HD95" or "ASSD" means nothing.

Three kinds of surface:

- ``lits``: border voxels whose 18 neighbours are not all inside, as in the LiTS challenge's program;
- voxel (``hd95_pooled``, ``hd95_maxdir``, ``hd_max``): border voxels by 6 neighbours, as in MedPy and MONAI;
- ``area``: marching-cubes surface elements weighted by their area in mm^2, as in DeepMind's surface-distance. The only
  one that stays right for thick slices.

Outside the array is background, so an object cut by the volume's edge has a surface there. All distances are Euclidean,
found with a k-d tree on points in mm. The tree splits at sliding midpoints: three times faster than a balanced tree
where masks lie far apart, as fast elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from liver_pipeline.geometry.boxes import bounding_box
from liver_pipeline.labels import FloatArray, Mask, Spacing
from liver_pipeline.metrics.arrays import as_mask, check_pair, check_spacing

TOLERANCES_MM = (1, 2, 3)
LEAF_POINTS = 32  # points in a leaf of the k-d tree; a fifth faster than 16 for masks far apart, equal elsewhere
FACES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
EDGES = ((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1))
CORNER_BITS = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]], dtype=np.uint8)  # a power of two per voxel of a cube


@dataclass(frozen=True)
class Surface:
    """Points of one surface in mm, shape (N, 3), and the area each stands for, shape (N,); 1 for border voxels."""

    points: FloatArray
    weights: FloatArray


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between two non-empty surfaces, both ways, sorted, with the weight of each point."""

    pred_to_label: FloatArray
    pred_weights: FloatArray
    label_to_pred: FloatArray
    label_weights: FloatArray

    def assd(self) -> float:
        """Average symmetric surface distance: both directions pooled, weighted."""
        total = (self.pred_to_label * self.pred_weights).sum() + (self.label_to_pred * self.label_weights).sum()
        return float(total / (self.pred_weights.sum() + self.label_weights.sum()))

    def rmsd(self) -> float:
        """Root of the pooled, weighted mean of squared distances."""
        squares = (self.pred_to_label**2 * self.pred_weights).sum() + (self.label_to_pred**2 * self.label_weights).sum()
        return float(np.sqrt(squares / (self.pred_weights.sum() + self.label_weights.sum())))

    def maximum(self) -> float:
        """Largest distance (Hausdorff)."""
        return float(max(self.pred_to_label[-1], self.label_to_pred[-1]))

    def percentile_pooled(self, percent: float) -> float:
        """Percentile of both directions together, interpolated linearly; weights are ignored (MedPy's HD95)."""
        return float(np.percentile(np.concatenate([self.pred_to_label, self.label_to_pred]), percent))

    def percentile_maxdir(self, percent: float) -> float:
        """Larger of the two directed percentiles, interpolated linearly; weights are ignored (MONAI's HD95)."""
        return float(max(np.percentile(self.pred_to_label, percent), np.percentile(self.label_to_pred, percent)))

    def percentile_area(self, percent: float) -> float:
        """Larger of the two directed distances below which lies ``percent`` of the area, without interpolation."""
        ways = ((self.pred_to_label, self.pred_weights), (self.label_to_pred, self.label_weights))
        return max(_weighted_percentile(distances, weights, percent) for distances, weights in ways)

    def share_within(self, tolerance_mm: float) -> float:
        """Share of both surfaces, by weight, that lies within ``tolerance_mm`` of the other (surface Dice)."""
        near = self.pred_weights[self.pred_to_label <= tolerance_mm].sum()
        near += self.label_weights[self.label_to_pred <= tolerance_mm].sum()
        return float(near / (self.pred_weights.sum() + self.label_weights.sum()))


def surface_figures(
    pred: Mask,
    label: Mask,
    spacing: Spacing,
    *,
    tolerances_mm: tuple[float, ...] = TOLERANCES_MM,
    threads: int = 1,
    borders: tuple[SurfaceDistances, SurfaceDistances] | None = None,
) -> dict[str, float | None]:
    """Return every surface figure of two masks under the name of its definition.

    Args:
        pred: Predicted mask, shape (X, Y, Z).
        label: Reference mask of the same shape.
        spacing: Voxel size in mm along X, Y, Z.
        tolerances_mm: Tolerances of the normalised surface Dice, in mm.
        threads: Threads of the nearest-point search.
        borders: Result of :func:`border_distances` where it is known already.

    Returns:
        ``assd_lits``, ``rmsd_lits``, ``msd_lits``, ``assd_area``, ``hd95_pooled``, ``hd95_maxdir``, ``hd95_area``,
        ``hd_max`` in mm and ``nsd_area@<mm>`` in [0, 1]. Where a mask is empty distances are None; the surface Dice is
        0 if one is empty and None if both are.

    Raises:
        ValueError: If the shapes differ or the spacing is not positive.
    """
    check_pair(pred, label)
    if not pred.any() or not label.any():
        near = 0.0 if pred.any() or label.any() else None
        names = ("assd_lits", "rmsd_lits", "msd_lits", "assd_area", "hd95_pooled", "hd95_maxdir", "hd95_area", "hd_max")
        return {**dict.fromkeys(names), **{nsd_name(tolerance): near for tolerance in tolerances_mm}}
    lits, voxel = border_distances(pred, label, spacing, threads=threads) if borders is None else borders
    area = area_distances(pred, label, spacing, threads=threads)
    figures: dict[str, float | None] = {
        "assd_lits": lits.assd(),
        "rmsd_lits": lits.rmsd(),
        "msd_lits": lits.maximum(),
        "assd_area": area.assd(),
        "hd95_pooled": voxel.percentile_pooled(95),
        "hd95_maxdir": voxel.percentile_maxdir(95),
        "hd95_area": area.percentile_area(95),
        "hd_max": voxel.maximum(),
    }
    return figures | {nsd_name(tolerance): area.share_within(tolerance) for tolerance in tolerances_mm}


def nsd_name(tolerance_mm: float) -> str:
    """Name of the normalised surface Dice at a tolerance in mm, e.g. ``nsd_area@2``."""
    return f"nsd_area@{tolerance_mm:g}"


def lits_distances(pred: Mask, label: Mask, spacing: Spacing, *, threads: int = 1) -> SurfaceDistances:
    """Distances between 18-neighbour borders (``assd_lits``, ``rmsd_lits``, ``msd_lits``); both masks non-empty."""
    return _distances(border_surface(pred, spacing, 18), border_surface(label, spacing, 18), threads)


def voxel_distances(pred: Mask, label: Mask, spacing: Spacing, *, threads: int = 1) -> SurfaceDistances:
    """Distances between 6-neighbour borders (``hd95_pooled``, ``hd95_maxdir``, ``hd_max``); both masks non-empty."""
    return _distances(border_surface(pred, spacing, 6), border_surface(label, spacing, 6), threads)


def border_distances(
    pred: Mask, label: Mask, spacing: Spacing, *, threads: int = 1
) -> tuple[SurfaceDistances, SurfaceDistances]:
    """Return :func:`lits_distances` and :func:`voxel_distances` for little more than the price of one.

    The 6-neighbour border is part of the 18-neighbour border, so where the nearest point of the larger set is in the
    smaller one it is the nearest there too; only the rest is searched again. Both masks non-empty.
    """
    surfaces = [_both_borders(mask, spacing) for mask in (pred, label)]
    ways = []
    for source, target in (surfaces, surfaces[::-1]):
        (points, by_faces), (target_points, target_by_faces) = source, target
        distances, nearest = _search(points, target_points, threads)
        face_distances = distances[by_faces]
        again = ~target_by_faces[nearest[by_faces]]
        if again.any():
            again_points = points[by_faces][again]
            face_distances[again] = _search(again_points, target_points[target_by_faces], threads)[0]
        ways.append((np.sort(distances), np.sort(face_distances)))
    (pred_all, pred_faces), (label_all, label_faces) = ways
    return (
        SurfaceDistances(pred_all, np.ones(len(pred_all)), label_all, np.ones(len(label_all))),
        SurfaceDistances(pred_faces, np.ones(len(pred_faces)), label_faces, np.ones(len(label_faces))),
    )


def area_distances(pred: Mask, label: Mask, spacing: Spacing, *, threads: int = 1) -> SurfaceDistances:
    """Distances between area-weighted elements (``assd_area``, ``hd95_area``, ``nsd_area@``); both masks non-empty."""
    return _distances(area_surface(pred, spacing), area_surface(label, spacing), threads)


def border_surface(mask: Mask, spacing: Spacing, neighbours: int) -> Surface:
    """Return the centres of the voxels of ``mask`` with a background voxel among their 6 or 18 neighbours.

    Args:
        mask: Mask, shape (X, Y, Z).
        spacing: Voxel size in mm.
        neighbours: 6 (faces) or 18 (faces and edges).

    Returns:
        Points as index times spacing in mm, each of weight 1; no points for an empty mask.
    """
    points, by_faces = _both_borders(mask, spacing)
    if neighbours == 6:
        points = points[by_faces]
    return Surface(points, np.ones(len(points)))


def _both_borders(mask: Mask, spacing: Spacing) -> tuple[FloatArray, Mask]:
    """Points of the 18-neighbour border in mm, and which of them are in the 6-neighbour border."""
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


def _distances(pred: Surface, label: Surface, threads: int) -> SurfaceDistances:
    """Nearest-point distances both ways, sorted so that sums do not depend on the order of the voxels."""
    pred_to_label, _ = _search(pred.points, label.points, threads)
    label_to_pred, _ = _search(label.points, pred.points, threads)
    return SurfaceDistances(*_sorted(pred_to_label, pred.weights), *_sorted(label_to_pred, label.weights))


def _search(points: FloatArray, targets: FloatArray, threads: int) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Distance in mm from each point to the nearest target, and which target that is."""
    if not len(points) or not len(targets):
        raise ValueError("surface distances need two non-empty masks; an empty mask has no surface")
    tree = cKDTree(targets, leafsize=LEAF_POINTS, balanced_tree=False, compact_nodes=False)
    distances, nearest = tree.query(points, workers=threads)
    return np.asarray(distances, dtype=np.float64), np.asarray(nearest, dtype=np.intp)


def _sorted(distances: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sort by distance, then weight."""
    order = np.lexsort((weights, distances))
    return distances[order], weights[order]


def _weighted_percentile(distances: FloatArray, weights: FloatArray, percent: float) -> float:
    """Smallest distance at which the cumulated weight reaches ``percent`` of the sum; distances sorted."""
    shares = np.cumsum(weights) / weights.sum()
    place = int(np.searchsorted(shares, percent / 100))
    return float(distances[min(place, len(distances) - 1)])
