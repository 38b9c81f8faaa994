"""The liver's shape: one of many that were outlined in real scans, warped; or, without those, an invented one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from liver_pipeline.synthesis.draw import Grid, RandomDraw, sample
from liver_pipeline.synthesis.pose import Matrix, Points, Pose, points_of, random_displacement, random_matrix, to_device

VESSEL_LABELS = 16  # in a shape file, 1-8 are Couinaud segments or liver, these or 16 more are vessel


@dataclass(frozen=True)
class LiverShape:
    """A liver.

    Attributes:
        labels: 0 outside, 1 liver, 2 vessel in it; uint8, shape (X, Y, Z) along R, A, S, on the generator's device.
        spacing: mm, the same along each axis.
        points: Some of its voxels, mm from the volume's centre.
        vessels: Whether vessels are known.
    """

    labels: Tensor
    spacing: float
    points: Points
    vessels: bool

    @property
    def extent(self) -> npt.NDArray[np.float64]:
        """Its size along R, A, S, mm."""
        size: npt.NDArray[np.float64] = self.points.max(0) - self.points.min(0)
        return size


def make_shape(labels: npt.NDArray[np.uint8], spacing: float, device: torch.device | str) -> LiverShape:
    """Make a shape of a label map that holds 0, 1 (liver), 2 (vessel)."""
    points = points_of(labels > 0, spacing)
    return LiverShape(to_device(labels, torch.device(device)), spacing, points, int((labels == 2).sum()) > 200)


def load_shapes(
    folder: str | Path, device: torch.device | str = "cpu", pattern: str = "shapes*.npz"
) -> list[LiverShape]:
    """Read shape files.

    Args:
        folder: Holds ``.npz`` files whose arrays are label maps (X, Y, Z) along R, A, S: liver, or Couinaud segments,
            1 to 8; from 16 on vessel. ``spacing`` among them is in mm, 1.5 if absent; in files of that name with
            ``3mm`` it is 3, where 2 is vessel.
        device: Where the generator works.
        pattern: Which files.

    Raises:
        FileNotFoundError: If there is none.
    """
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise FileNotFoundError(f"no {pattern} in {Path(folder).resolve()}; leave shapes out for invented livers")
    shapes = []
    for file in files:
        coarse = "3mm" in file.name
        with np.load(file) as arrays:
            for name in arrays.files:
                labels = arrays[name]
                vessel = labels == 2 if coarse else labels >= VESSEL_LABELS
                known = (labels > 0).astype(np.uint8) + vessel.astype(np.uint8)
                shapes.append(make_shape(known, 3.0 if coarse else 1.5, device))
    return shapes


def invent_shape(seed: int, device: torch.device | str = "cpu") -> LiverShape:
    """Invent a liver of 0.8 to 3 l: a large right lobe, a wedge towards the left, hollowed from below and behind.

    Made once and then warped like a real one; it needs no patient, and looks like one from afar only.
    """
    size, spacing = (260.0, 200.0, 200.0), 3.0  # mm, of the box around it
    grid = Grid([round(length / spacing) for length in size], spacing, device)
    draw = RandomDraw(grid, seed)
    right = draw.ellipsoid((38, -8, -6), (draw.uniform(62, 82), draw.uniform(62, 80), draw.uniform(65, 88)), 0.06, 50)
    left = draw.ellipsoid((-38, 22, 22), (draw.uniform(60, 85), draw.uniform(32, 45), draw.uniform(26, 42)), 0.08, 40)
    bridge = draw.ellipsoid((0, 15, 18), (60, 48, 42), 0.08, 40)
    below = draw.ellipsoid((-38, -28, -62), (75, 62, 68), 0.1, 40)
    behind = draw.ellipsoid((-45, -75, 20), (72, 52, 120), 0.1, 40)
    liver = (torch.minimum(torch.minimum(right, left), bridge) < 1) & (below > 1) & (behind > 1)
    return make_shape(liver.to(torch.uint8).cpu().numpy(), spacing, device)


def place_shape(
    draw: RandomDraw, shape: LiverShape, origin: Matrix, fit: npt.NDArray[np.float64] | None = None
) -> Pose:
    """Draw how a liver lies in the window.

    Args:
        draw: Randomness.
        shape: The liver.
        origin: Where the centre of its box comes to lie, mm.
        fit: Size to bring it to, mm, within 0.8 to 1.3 times; None leaves its own.
    """
    matrix = random_matrix(draw, scale=(0.85, 1.18), turn=0.13, shear=0.07)
    if fit is not None:
        matrix = matrix @ np.diag(np.clip(shape.extent / np.maximum(fit, 1.0), 0.8, 1.3))
    middle = (shape.points.max(0) + shape.points.min(0)) / 2
    return Pose(matrix, origin, middle)


def draw_liver(draw: RandomDraw, shape: LiverShape, pose: Pose) -> tuple[Tensor, Tensor]:
    """Return masks of the liver and of its vessels in the window; vessels are known ones, invented ones, or both."""
    where = pose.to_object(draw, random_displacement(draw))
    known = torch.stack((shape.labels > 0, shape.labels == 2)).float()
    liver, vessels = sample(known, where, shape.spacing)
    inside, tubes = liver > 0.5, vessels > 0.4
    if draw.chance(0.8):
        tubes = tubes | draw.tubes(draw.uniform(27, 48), draw.uniform(0.03, 0.16))
    if draw.chance(0.5):
        tubes = tubes | draw.tubes(draw.uniform(15, 24), draw.uniform(0.05, 0.14))
    return inside, tubes & inside
