"""Tumors, and what looks like one and is not: cysts, hemangiomas, focal fat.

Tumors follow the rules that Hu et al. give ("Label-Free Liver Tumor Segmentation", CVPR 2023): ellipsoids that are
distorted elastically, with a blurred edge, mostly darker than the liver, with a texture of their own, that push away
what lies round them, some with a capsule. Hyperenhancement in the arterial and washout in the portal venous phase are
those of LI-RADS v2018. All sizes are mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liver_pipeline.synthesis.contrast import PORTAL_VENOUS, Contrast
from liver_pipeline.synthesis.draw import RandomDraw, blur, sample
from liver_pipeline.synthesis.pose import Points

RADII_MM = ((2.5, 5.0), (5.0, 8.0), (8.0, 13.0), (13.0, 26.0), (26.0, 50.0))  # radii, mm


@dataclass(frozen=True)
class Lesion:
    """Where a lesion is, and how large.

    Attributes:
        centre: R, A, S in the window, mm.
        radii: Along these axes, mm.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]

    @property
    def radius(self) -> float:
        """The mean radius."""
        return sum(self.radii) / 3


def plan_lesions(draw: RandomDraw, places: Points, size_weights: Sequence[float]) -> list[Lesion]:
    """Draw number, places and sizes of tumors: one to twelve, of which few are large; none where there is no place."""
    if not len(places):
        return []
    lesions = []
    for i in range(draw.choice((1, 2, 3, 5, 8, 12), (0.33, 0.22, 0.17, 0.15, 0.08, 0.05))):
        low, high = draw.choice(RADII_MM, size_weights) if i < 4 else RADII_MM[draw.choice((0, 1, 2))]
        radius = draw.uniform(low, high)
        lesions.append(_lesion(draw, places, radius))
    return lesions


def _lesion(draw: RandomDraw, places: Points, radius: float) -> Lesion:
    x, y, z = places[draw.numbers.randrange(len(places))].tolist()
    a, b, c = (radius * draw.uniform(0.75, 1.3) for _ in range(3))
    return Lesion((x, y, z), (a, b, c))


def push_aside(draw: RandomDraw, image: Tensor, liver: Tensor, lesions: Sequence[Lesion]) -> tuple[Tensor, Tensor]:
    """Let lesions of 8 mm radius or more push away vessels and the liver's surface (mass effect).

    Args:
        draw: Randomness.
        image: Intensities, (X, Y, Z).
        liver: Its mask.
        lesions: Those that come to lie there.

    Returns:
        Image and mask, read at points nearer to the lesions' centres.
    """
    large = [lesion for lesion in lesions if lesion.radius >= 8]
    if not large:
        return image, liver
    where = draw.grid.points.clone()
    for lesion in large:
        strength, reach = draw.uniform(0.1, 0.4), 1.5 * lesion.radius
        region = _region(draw, lesion, 2.5 * reach)
        offset = draw.grid.points[region] - draw.tensor(lesion.centre).view(3, 1, 1, 1)
        where[region] -= offset * (strength * torch.exp(-offset.square().sum(0) / reach**2))
    moved, inside = sample(torch.stack((image, liver.float())), where, draw.grid.spacing, beyond="border")
    return moved, inside > 0.5


def add_tumors(
    draw: RandomDraw, image: Tensor, liver: Tensor, base: Tensor | float, contrast: Contrast, lesions: Sequence[Lesion]
) -> tuple[Tensor, Tensor]:
    """Paint tumors into an image.

    Args:
        draw: Randomness.
        image: Intensities, (X, Y, Z).
        liver: Its mask; nothing outside it changes.
        base: Mean of the liver.
        contrast: Its kind and phase.
        lesions: Where they are.

    Returns:
        The image, and the tumors' mask, a part of ``liver``.
    """
    tumor = torch.zeros_like(liver)
    if not lesions:
        return image, tumor
    image = image.clone()
    spread = 3.6 / draw.grid.spacing
    texture = draw.smooth(draw.uniform(6, 21))[0]
    wobble = draw.smooth(18, 3) * draw.uniform(0.5, 3.3)
    anatomy = blur(image, (spread,) * 3)
    look = draw_look(draw, contrast)
    for lesion in lesions:
        if draw.chance(0.25):
            look = draw_look(draw, contrast)
        _add_tumor(draw, lesion, look, base, (image, liver, tumor, texture, wobble, anatomy))
    return image, tumor


@dataclass(frozen=True)
class Look:
    """How a tumor differs from the liver round it, in HU or what stands for them.

    Attributes:
        step: Of its mean.
        edge: Softness of its border, mm.
        texture: Amplitude of its own texture.
        core: Of the middle, besides ``step``.
        rim: Of a shell at its border, besides ``step``; 0 for none.
        rim_width: Of that shell, mm.
    """

    step: float
    edge: float
    texture: float
    core: float
    rim: float
    rim_width: float


def draw_look(draw: RandomDraw, contrast: Contrast) -> Look:
    """Draw a kind of tumor that fits the contrast."""
    u = draw.uniform
    edge = u(0.5, 1.5) if draw.chance(0.85) else u(1.5, 4.0)  # infiltrating
    texture = u(1, 12)
    if not contrast.ct:
        sign = draw.choice((-1, 1))
        core = sign * u(-60, 60) if draw.chance(0.3) else 0.0
        rim = u(-80, 80) if draw.chance(0.2) else 0.0
        return Look(sign * u(40, 190), edge, texture, core, rim, u(1, 4))
    hypervascular = draw.chance((0.04, 0.4, 0.15)[contrast.phase])
    if hypervascular and contrast.phase == PORTAL_VENOUS:  # washout, with a capsule that enhances
        return Look(-u(8, 32), edge, texture, 0.0, u(15, 55) if draw.chance(0.6) else 0.0, u(0.8, 2.0))
    if hypervascular:
        core = -u(10, 60) if draw.chance(0.3) else 0.0
        return Look(u(12, 70), edge, texture, core, 0.0, 1.0)
    step = -u(12, 75) if draw.chance(0.85) else -u(9, 25)
    core = u(-35, 15) if draw.chance(0.3) else 0.0  # necrosis, or a scar
    rim = u(10, 60) * (contrast.phase > 0) if draw.chance(0.22) else 0.0  # a metastasis's edge
    return Look(step, edge, texture, core, rim, u(1.0, 4.0))


def _add_tumor(draw: RandomDraw, lesion: Lesion, look: Look, base: Tensor | float, volumes: tuple[Tensor, ...]) -> None:
    """Change image and tumor mask in place, near the lesion only."""
    region = _region(draw, lesion, 2 * lesion.radius + 10)
    image, liver, tumor, texture, anatomy = (volumes[i][region[1:]] for i in (0, 1, 2, 3, 5))
    if not image.numel():
        return
    distance = _distance(draw, lesion, region, volumes[4][region])
    depth = (1 - distance) * lesion.radius  # mm below the surface
    share = torch.sigmoid(depth / look.edge) * liver
    value = base + look.step * draw.uniform(0.8, 1.2) + texture * look.texture
    if look.core:
        value = value + look.core * torch.sigmoid((draw.uniform(0.4, 0.7) - distance) * lesion.radius / 1.5)
    if look.rim:
        value = value + look.rim * torch.exp(-0.5 * ((depth - look.rim_width) / look.rim_width) ** 2)
    image += share * (value - anatomy - (base - anatomy) * draw.uniform(0, 0.4))
    tumor |= (share > 0.5) & liver


def _region(draw: RandomDraw, lesion: Lesion, reach: float) -> tuple[slice, slice, slice, slice]:
    """Return the part of the window within ``reach`` mm of a centre, with all channels."""
    sides = []
    for centre, half, n in zip(lesion.centre, draw.grid.half, draw.grid.size, strict=True):
        first = math.floor((centre - reach + half) / draw.grid.spacing)
        last = math.ceil((centre + reach + half) / draw.grid.spacing) + 1
        sides.append(slice(min(max(first, 0), n), min(max(last, 0), n)))
    return slice(None), sides[0], sides[1], sides[2]


def _distance(draw: RandomDraw, lesion: Lesion, region: tuple[slice, ...], wobble: Tensor | float = 0.0) -> Tensor:
    """Return the distance from the centre, 1 at the ellipsoid's surface."""
    offset = draw.grid.points[region] + wobble - draw.tensor(lesion.centre).view(3, 1, 1, 1)
    return (offset / draw.tensor(lesion.radii).view(3, 1, 1, 1)).square().sum(0).sqrt()


def add_distractors(
    draw: RandomDraw, image: Tensor, liver: Tensor, base: Tensor | float, contrast: Contrast, places: Points
) -> Tensor:
    """Paint what is not a tumor: cysts (sharp, water), hemangiomas (nodular, bright as vessels), focal fat or sparing.

    They stay liver in the label map.
    """
    if not len(places):
        return image
    image = image.clone()
    if draw.chance(0.16):
        for _ in range(draw.choice((1, 2, 4), (0.6, 0.3, 0.1))):
            value = draw.uniform(-4, 14) if contrast.ct else draw.uniform(-200, 300)
            _fill(draw, image, liver, _lesion(draw, places, draw.uniform(3, 20)), value, edge=0.5)
    if draw.chance(0.05):
        blood = draw.uniform(60, 200) if contrast.ct and contrast.phase else draw.uniform(-60, 120)
        middle = _lesion(draw, places, draw.uniform(6, 18))
        for _ in range(5):  # nodules round it
            centre = tuple(c + draw.normal(0, 0.6) * r for c, r in zip(middle.centre, middle.radii, strict=True))
            nodule = Lesion((centre[0], centre[1], centre[2]), (middle.radius * draw.uniform(0.3, 0.6),) * 3)
            _fill(draw, image, liver, nodule, base + 0.6 * blood, edge=1.0)
    if draw.chance(0.08):
        area = torch.sigmoid((draw.smooth(draw.uniform(30, 70))[0] - draw.uniform(1.0, 1.8)) * 4) * liver
        image += area * (draw.choice((-1, 1)) * draw.uniform(8, 30))
    return image


def _fill(
    draw: RandomDraw, image: Tensor, liver: Tensor, lesion: Lesion, value: Tensor | float, *, edge: float
) -> None:
    """Give an ellipsoid in the liver one value, in place."""
    region = _region(draw, lesion, 1.5 * lesion.radius + 4)
    part = image[region[1:]]
    depth = (1 - _distance(draw, lesion, region)) * lesion.radius
    part += torch.sigmoid(depth / edge) * liver[region[1:]] * (value - part)
