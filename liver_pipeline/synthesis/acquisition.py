"""What a scanner makes of an image: blur, thick slices, noise, uneven coils, a field of view that ends in the body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liver_pipeline.synthesis.contrast import HIGH_HU, LOW_HU
from liver_pipeline.synthesis.draw import RandomDraw, blur

FieldOfView = list[list[float]]  # first and last R, A, S that is seen, mm


@dataclass(frozen=True)
class Scanner:
    """How a sample is acquired.

    Attributes:
        noise: Least and greatest sd of the noise, HU.
        blur: Least and greatest sigma of the blur in the slice, mm.
    """

    noise: tuple[float, float]
    blur: tuple[float, float]


def acquire(draw: RandomDraw, image: Tensor, scanner: Scanner, *, ct: bool) -> Tensor:
    """Blur an image, cut it into slices, add noise, put it back on its grid.

    Noise is correlated in the slice and independent between slices; a thick slice is a mean over its thickness.
    """
    spacing, depth = draw.grid.spacing, draw.grid.size[2]
    sigma = draw.uniform(*scanner.blur) / spacing
    image = blur(image, (sigma, sigma, sigma * draw.uniform(0.6, 1.2)))
    thickness = draw.uniform(1, 3) * 2.5 if draw.chance(0.4) else spacing
    step = max(1, round(thickness / spacing))
    if step > 1:
        image = F.avg_pool3d(image[None, None], (1, 1, step), (1, 1, step), ceil_mode=True)[0, 0]
    sd = draw.uniform(*scanner.noise) if draw.chance(0.85) else scanner.noise[1] * draw.uniform(1, 1.8)
    width = draw.uniform(0.3, 1.0)
    grain = blur(draw.noise(tuple(image.shape)), (width, width, 0.3 * (step == 1)))
    grain = grain / grain[::4, ::4, ::4].std().clamp(min=1e-3)
    image = image + grain * sd * ((image > -500) if ct else 1)
    if step > 1:
        image = _back(image, step, depth)
    if not ct and draw.chance(0.8):  # uneven sensitivity of MR coils
        image = LOW_HU + (image - LOW_HU) * torch.exp(draw.smooth(165)[0] * draw.uniform(0.05, 0.35))
    return image


def _back(image: Tensor, step: int, depth: int) -> Tensor:
    """Interpolate between the middles of thick slices."""
    full = F.interpolate(image[None, None], size=(*image.shape[:2], image.shape[2] * step), mode="trilinear")
    return full[0, 0, :, :, :depth]


def field_of_view(draw: RandomDraw, liver_centre: Sequence[float]) -> FieldOfView | None:
    """Draw the part of the window that was scanned, mm; None if it is all of it.

    Scans end above or below within the body, are narrower than it, or were cut out round the liver.
    """
    if not draw.chance(0.45):
        return None
    box = [[-half, half] for half in draw.grid.half]
    if draw.chance(0.12):
        sizes = (draw.uniform(84, 120), draw.uniform(78, 114), draw.uniform(72, 114))
        return [[c - size, c + size] for c, size in zip(liver_centre, sizes, strict=True)]
    if draw.chance(0.55):
        for end in draw.choice(((0,), (1,), (0, 1))):
            box[2][end] += (1, -1)[end] * draw.uniform(15, 114)
    if draw.chance(0.5):
        for axis, most in ((0, 78), (1, 60)):
            cut, share = draw.uniform(0, most), draw.uniform(0.2, 0.8)
            box[axis][0] += cut * share
            box[axis][1] -= cut * (1 - share)
    return box


def seen(draw: RandomDraw, box: FieldOfView | None) -> Tensor | None:
    """Return the mask of what lies in a field of view, now and then a round one; None for all."""
    if box is None:
        return None
    points = draw.grid.points
    mask = torch.ones(draw.grid.size, dtype=torch.bool, device=draw.grid.device)
    for axis, (low, high) in enumerate(box):
        mask = mask & (points[axis] >= low) & (points[axis] < high)
    if draw.chance(0.12):
        half = draw.grid.half
        radii = (half[0] * draw.uniform(0.8, 1.1), half[1] * draw.uniform(0.84, 1.2))
        mask = mask & ((points[0] / radii[0]) ** 2 + (points[1] / radii[1]) ** 2 < 1)
    return mask


def to_network(draw: RandomDraw, image: Tensor, mask: Tensor | None, *, ct: bool) -> Tensor:
    """Map an image to 0 to 1, as the modality's preprocessing does; what was not scanned is 0.

    CT: a window of HU, calibrated 4 % or 5 HU wrong. Random contrast, as MR: from the 0.5th to the 99.5th percentile.
    """
    if ct:
        shown = (image * draw.uniform(0.96, 1.04) + draw.normal(0, 5) - LOW_HU) / (HIGH_HU - LOW_HU)
    else:
        values = image if mask is None else torch.where(mask, image, image.new_full((), LOW_HU))
        levels = draw.tensor([0.005, 0.995])
        low, high = torch.quantile(values[::3, ::3, ::3].flatten(), levels)
        shown = (image - low) / (high - low).clamp(min=20) * draw.uniform(0.85, 1.2)
        if draw.chance(0.5):
            shown = shown.clamp(min=1e-4) ** draw.uniform(0.7, 1.4)
    shown = shown.clamp(0, 1)
    return shown if mask is None else shown * mask
