"""The randomness of one sample: numbers from Python's generator, fields from PyTorch's on the device.

Numbers decide what happens and how large it is; they live on the CPU, so that no decision waits for the device. All
lengths are millimetres.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_T = TypeVar("_T")


class Grid:
    """The voxels of a window.

    Args:
        size: Voxels along R, A, S.
        spacing: Millimetres between voxels, the same along each axis.
        device: Where fields are made.

    Attributes:
        points: Position of each voxel relative to the window's centre, mm, shape (3, X, Y, Z).
        half: From the centre to the outermost voxel centres, mm.
    """

    def __init__(self, size: Sequence[int], spacing: float, device: torch.device | str = "cpu") -> None:
        if len(size) != 3 or min(size) < 8 or not spacing > 0:
            raise ValueError(
                f"a window needs three sides of 8 voxels or more and a spacing in mm, got {size}, {spacing}"
            )
        self.size, self.spacing, self.device = (int(size[0]), int(size[1]), int(size[2])), spacing, torch.device(device)
        self.half = [(n - 1) / 2 * spacing for n in self.size]
        axes = [
            torch.linspace(-half, half, n, device=self.device) for half, n in zip(self.half, self.size, strict=True)
        ]
        self.points = torch.stack(torch.meshgrid(*axes, indexing="ij"))


class RandomDraw:
    """Random numbers and fields of one sample; the same seed and device give the same ones.

    Args:
        grid: The window's voxels.
        seed: Of this sample.
    """

    def __init__(self, grid: Grid, seed: int) -> None:
        self.grid = grid
        self.numbers = random.Random(seed)  # noqa: S311 (no secret)
        self.fields = torch.Generator(grid.device).manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between two others."""
        return self.numbers.uniform(low, high)

    def normal(self, mean: float = 0.0, sd: float = 1.0) -> float:
        """Draw from a normal distribution."""
        return self.numbers.gauss(mean, sd)

    def chance(self, probability: float) -> bool:
        """Return true so often."""
        return self.numbers.random() < probability

    def choice(self, options: Sequence[_T], weights: Sequence[float] | None = None) -> _T:
        """Draw one of several, by weight."""
        return self.numbers.choices(options, weights)[0]

    def tensor(self, values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        """Bring numbers to the device without waiting for it."""
        made = torch.tensor(values, dtype=torch.float32)
        return made if self.grid.device.type == "cpu" else made.pin_memory().to(self.grid.device, non_blocking=True)

    def noise(self, size: Sequence[int] | None = None) -> Tensor:
        """Return white noise of unit variance, in the window's shape by default."""
        return torch.randn(*(size or self.grid.size), device=self.grid.device, generator=self.fields)

    def smooth(self, step: float, channels: int = 1, size: Sequence[int] | None = None) -> Tensor:
        """Return smooth fields of about unit variance.

        Args:
            step: Distance of the random knots, mm: what is this far apart is nearly independent.
            channels: Independent fields.
            size: Voxels; the window's by default.

        Returns:
            Shape (channels, X, Y, Z).
        """
        size = size or self.grid.size
        knots = [max(2, math.ceil(n * self.grid.spacing / step) + 1) for n in size]
        between = [max(k, math.ceil(n / 4)) for k, n in zip(knots, size, strict=True)]
        field = F.interpolate(self.noise((1, channels, *knots)), size=between, mode="trilinear", align_corners=True)
        field = F.avg_pool3d(F.pad(field, (1,) * 6, mode="replicate"), 3, 1)  # rounds the trilinear cells
        return F.interpolate(field, size=list(size), mode="trilinear", align_corners=True)[0] * 1.25

    def tubes(self, step: float, thickness: float) -> Tensor:
        """Return a mask of branching lines: where two smooth fields are both near zero.

        Args:
            step: Of the fields, mm; the lines are about this far apart.
            thickness: Of the lines, as a share of ``step``, roughly.
        """
        fields = self.smooth(step, 2)
        return fields.square().sum(0) < thickness * thickness

    def ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        rough: float = 0.15,
        step: float = 30.0,
        turn: float = 0.0,
    ) -> Tensor:
        """Return the distance from the centre of a rough ellipsoid, in units of its radius: below 1 is inside.

        Args:
            centre: In the window, mm.
            radii: Along R, A, S, mm.
            rough: Amplitude of what is added to the distance.
            step: See :meth:`smooth`.
            turn: About S, radians.
        """
        x, y, z = (self.grid.points[i] - centre[i] for i in range(3))
        if turn:
            x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
        distance = ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2).sqrt()
        return distance + self.smooth(step)[0] * rough if rough else distance


def blur(image: Tensor, sigma: Sequence[float]) -> Tensor:
    """Smooth an image of shape (X, Y, Z) with a Gaussian of ``sigma`` voxels along each axis; below 0.15 not at all."""
    blurred = image[None, None]
    for axis, width in enumerate(sigma):
        if width < 0.15:
            continue
        reach = max(1, min(4, math.ceil(2.5 * width)))
        weights = [math.exp(-0.5 * (i / width) ** 2) for i in range(-reach, reach + 1)]
        total = sum(weights)
        padding = [0] * 6
        padding[4 - 2 * axis : 6 - 2 * axis] = [reach, reach]
        padded = F.pad(blurred, padding, mode="replicate")
        length = image.shape[axis]
        blurred = sum(  # type: ignore[assignment]  # a few shifted sums: faster than a convolution of one channel
            padded.narrow(2 + axis, i, length) * (weight / total) for i, weight in enumerate(weights)
        )
    return blurred[0, 0]


def sample(
    volume: Tensor, position: Tensor, spacing: float, *, mode: str = "bilinear", beyond: str = "zeros"
) -> Tensor:
    """Read a volume at positions.

    Args:
        volume: Shape (C, X, Y, Z).
        position: In mm from the volume's centre, shape (3, A, B, C).
        spacing: Of the volume, mm.
        mode: ``bilinear`` (along three axes) or ``nearest``.
        beyond: What lies outside: ``zeros``, or ``border`` for the outermost voxel.

    Returns:
        Float, shape (C, A, B, C).
    """
    half = [max(1, n - 1) / 2 * spacing for n in volume.shape[1:]]
    where = torch.stack([position[i] / half[i] for i in (2, 1, 0)], dim=-1)
    return F.grid_sample(volume[None].float(), where[None], mode=mode, padding_mode=beyond, align_corners=True)[0]
