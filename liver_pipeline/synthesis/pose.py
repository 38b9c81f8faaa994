"""Where an object lies in a window: a random affine map and a smooth displacement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from liver_pipeline.synthesis.draw import RandomDraw

Points = npt.NDArray[np.float64]  # mm, shape (n, 3)
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Maps the window's points to an object's: ``matrix @ (point - origin) + target``, mm.

    Attributes:
        matrix: Shape (3, 3).
        origin: Point of the window.
        target: Point of the object, from its centre, that lies at ``origin``.
    """

    matrix: Matrix
    origin: Matrix
    target: Matrix

    def to_window(self, points: Points) -> Points:
        """Return where points of the object, shape (n, 3), lie in the window; without displacement."""
        moved: Points = (points - self.target) @ np.linalg.inv(self.matrix).T + self.origin
        return moved

    def to_object(self, draw: RandomDraw, displacement: Tensor) -> Tensor:
        """Return the object's points under all voxels of the window, shape (3, X, Y, Z)."""
        shift = self.target - self.matrix @ self.origin
        matrix = draw.tensor(self.matrix.tolist())
        moved = (matrix @ draw.grid.points.flatten(1)).view_as(draw.grid.points)
        return moved + draw.tensor(shift.tolist()).view(3, 1, 1, 1) + displacement


def random_matrix(draw: RandomDraw, *, scale: tuple[float, float], turn: float, shear: float) -> Matrix:
    """Draw an affine map: common scale, 8 % more or less along each axis, rotation (sd, radians), shear (sd)."""
    matrix = np.eye(3)
    for axis in range(3):
        angle = draw.normal(0, turn)
        first, second = [i for i in range(3) if i != axis]
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = math.cos(angle)
        rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ rotation
    sizes = np.diag([draw.uniform(0.92, 1.08) for _ in range(3)]) * draw.uniform(*scale)
    skew = np.array([[1.0 if i == j else draw.normal(0, shear) for j in range(3)] for i in range(3)])
    made: Matrix = matrix @ sizes @ skew
    return made


def random_displacement(draw: RandomDraw, wide: float = 10.0, fine: float = 3.5) -> Tensor:
    """Draw a displacement, mm, shape (3, X, Y, Z): one that changes over 90 mm and one over 39 mm, up to so large."""
    return draw.smooth(90, 3) * draw.uniform(0.3 * wide, wide) + draw.smooth(39, 3) * draw.uniform(0, fine)


def bounds(points: Points) -> tuple[Matrix, Matrix]:
    """Return the least and greatest coordinates of points."""
    return points.min(0), points.max(0)


def inside(points: Points, low: Sequence[float] | Matrix, high: Sequence[float] | Matrix) -> npt.NDArray[np.bool_]:
    """Tell which points lie in a box."""
    within = (points >= np.asarray(low)) & (points <= np.asarray(high))
    return np.asarray(within.all(1))


def points_of(mask: npt.NDArray[np.bool_], spacing: float, count: int = 3000) -> Points:
    """Return up to ``count`` voxels of a mask, evenly spread in its order, in mm from the volume's centre."""
    voxels = np.argwhere(mask)
    chosen = voxels[np.linspace(0, len(voxels) - 1, min(count, len(voxels))).astype(np.int64)]
    points: Points = (chosen - (np.array(mask.shape) - 1) / 2) * spacing
    return points


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return a copy of an array on a device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
