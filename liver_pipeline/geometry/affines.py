"""What an affine says: spacing, shear, and how far two of them place a corner apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]

GRID_SAME = 0.1  # of a voxel edge, at the place that moves most: two grids, or two axes, count as the same
GRID_CLOSE = 0.5  # up to half a voxel the nearest voxel is still the same one


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the voxel edge lengths along the array axes in mm."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def corner_shift_mm(shape: Sequence[int], a: Affine, b: Affine) -> float:
    """Return how far the corner voxel that moves most lies from itself under the two affines, in mm."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, 8)
    difference = (np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))[:3]
    return float(np.linalg.norm(difference[:, :3] @ corners + difference[:, 3:], axis=0).max())


def grids_match(shape: Sequence[int], affine: Affine, other_shape: Sequence[int], other: Affine) -> bool:
    """Tell whether a voxel of one grid is the same voxel of another: no corner is off by half the shortest edge."""
    close = GRID_CLOSE * min(spacing_of(affine))
    return tuple(shape) == tuple(other_shape) and corner_shift_mm(shape, affine, other) <= close


def shear_deg(affine: Affine) -> float:
    """Return by how many degrees the pair of axes that is worst misses a right angle."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs((unit.T @ unit)[np.triu_indices(3, 1)])
    return float(np.degrees(np.arcsin(min(1.0, float(cosines.max())))))


def shear_drift(shape: Sequence[int], affine: Affine) -> float:
    """Return how far an axis wanders sideways from its right angle over the volume, in voxels of the axis beside it.

    Args:
        shape: Voxels along the three axes.
        affine: A usable affine; see :func:`affine_is_usable`.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs((affine[:3, :3] / edges).T @ (affine[:3, :3] / edges)) * (1.0 - np.eye(3))
    lengths = edges * (np.asarray(shape, dtype=np.float64) - 1.0)
    return float((cosines * lengths[None, :] / edges[:, None]).max())


def repair_shear(affine: Affine) -> Affine:
    """Return the affine with right angles nearest to ``affine``, same spacing, same centre of rotation (voxel 0)."""
    spacing = np.array(spacing_of(affine))
    u, _, vt = np.linalg.svd(affine[:3, :3] / spacing)
    repaired = affine.copy()
    repaired[:3, :3] = (u @ vt) * spacing
    return repaired


def affine_is_usable(affine: Affine) -> bool:
    """Return whether all entries are finite and the three axes span space."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e9:  # a thousand kilometres: a damaged header
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-6:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-3)


def geometry(shape: Sequence[int], affine: Affine) -> dict[str, Any]:
    """Return shape, spacing in mm and affine to RAS, ready for JSON."""
    affine = np.asarray(affine, dtype=np.float64)
    return {
        "shape": [int(n) for n in shape],
        "spacing_mm": [round(edge, 6) for edge in spacing_of(affine)],
        "affine": [[float(value) for value in row] for row in affine],
    }


def slice_axis(affine: Affine) -> int:
    """Return the array axis across the slices: that of clearly longer voxels, else the one nearest to head-foot."""
    spacing = np.array(spacing_of(affine))
    if np.sort(spacing)[2] > 1.2 * np.sort(spacing)[1]:
        return int(spacing.argmax())
    return int(np.abs(affine[2, :3] / spacing).argmax())


def is_along_body(affine: Affine, axis: int) -> bool:
    """Return whether an array axis runs from head to foot, or back, within 45 degrees."""
    direction = affine[:3, axis]
    return bool(abs(direction[2]) > np.sqrt(0.5) * np.linalg.norm(direction))
