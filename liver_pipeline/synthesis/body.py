"""An invented body round a liver: wall, skeleton, lungs; organs are in :mod:`liver_pipeline.synthesis.organs`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liver_pipeline.synthesis.draw import RandomDraw
from liver_pipeline.synthesis.pose import Matrix
from liver_pipeline.synthesis.tissues import Tissue


@dataclass
class Body:
    """A map of tissue codes that is painted into, and what the next organ is placed by. Lengths in mm.

    Attributes:
        draw: Randomness.
        codes: Tissue codes, uint8, shape (X, Y, Z); changed by :meth:`paint`.
        liver: Mask of the liver.
        low: Least R, A, S of the liver, also of what lies outside the window.
        high: Greatest.
        centre: Of the trunk, along R and A.
        radii: Half width and half depth of the trunk.
        trunk: 0 at the trunk's centre, 1 at the skin; wavy, shape (X, Y, Z).
        wall: Share of the radius that fat under the skin, and muscle, take.
        cavity: Mask of what lies inside the muscles.
    """

    draw: RandomDraw
    codes: Tensor
    liver: Tensor
    low: Matrix
    high: Matrix
    centre: tuple[float, float]
    radii: tuple[float, float]
    trunk: Tensor
    wall: tuple[float, float]
    cavity: Tensor

    def paint(self, mask: Tensor, tissue: int) -> None:
        """Make every voxel of a mask so."""
        self.codes.masked_fill_(mask, int(tissue))

    @property
    def inner(self) -> float:
        """Share of the radius where the wall begins."""
        return 1 - self.wall[0] - self.wall[1]


def make_body(draw: RandomDraw, liver: Tensor, low: Matrix, high: Matrix) -> Body:
    """Draw skin, fat and muscles of a trunk that fits round a liver.

    Args:
        draw: Randomness.
        liver: Its mask, shape (X, Y, Z).
        low: Least R, A, S of the whole liver, mm; ``high`` the greatest.
        high: See ``low``.
    """
    x, y, _ = draw.grid.points
    half_width = max(draw.uniform(130, 195), (high[0] - low[0]) / 2 + 12)
    half_depth = max((high[1] - low[1]) / 2 + draw.uniform(15, 48), draw.uniform(85, 140))
    centre = (high[0] + draw.uniform(6, 42) - half_width, (high[1] + low[1]) / 2 + draw.uniform(-15, 15))
    squareness = draw.uniform(2, 2.8)  # exponent of the outline: 2 is an ellipse
    across, along = ((x - centre[0]) / half_width).abs(), ((y - centre[1]) / half_depth).abs()
    trunk = (across**squareness + along**squareness) ** (1 / squareness) + draw.smooth(78)[0] * 0.03
    fat, muscle = draw.uniform(0.04, 0.2), draw.uniform(0.05, 0.13)
    wavy = trunk + draw.smooth(36)[0] * 0.025
    cavity = wavy < 1 - fat - muscle
    codes = torch.zeros(draw.grid.size, dtype=torch.uint8, device=draw.grid.device)
    body = Body(draw, codes, liver, low, high, centre, (half_width, half_depth), wavy, (fat, muscle), cavity)
    body.paint(trunk < 1, Tissue.FAT)
    body.paint(wavy < 1 - fat, Tissue.MUSCLE)
    if draw.chance(0.6):
        body.paint((trunk < 1) & (trunk > 1 - draw.uniform(0.012, 0.03)), Tissue.SKIN)
    if draw.chance(0.7):  # a fat plane between two muscles
        plane = (wavy - (1 - fat - muscle * draw.uniform(0.3, 0.7))).abs() < muscle * 0.12
        body.paint(plane & (draw.smooth(27)[0] > -0.3), Tissue.FAT)
    body.paint(cavity, Tissue.FAT)
    return body


def add_lungs(body: Body) -> None:
    """Draw the diaphragm over the liver's dome and air above it, and the recess behind it."""
    draw, (low, high) = body.draw, (body.low[2], body.high[2])
    z = draw.grid.points[2]
    top = torch.where(body.liver, z, z.new_full((), -1e3)).amax(2)[None, None]
    reach = max(1, round(9 / draw.grid.spacing))
    top = F.max_pool2d(top, 2 * reach + 1, 1, reach)[0, 0]
    beside = high - draw.uniform(0, 78)
    dome = torch.where(top < -999, top.new_full((), beside), top)
    dome = dome + draw.smooth(60, 1, (*draw.grid.size[:2], 4))[0, :, :, 0] * 12
    reach = max(1, round(6 / draw.grid.spacing))
    dome = F.avg_pool2d(F.pad(dome[None, None], (reach,) * 4, mode="replicate"), 2 * reach + 1, 1)[0, 0]
    above = z - dome[..., None]
    thickness = draw.uniform(0, 6.6)
    body.paint(body.cavity & (above > 0) & (above <= thickness), Tissue.MUSCLE)
    air = body.cavity & (above > thickness)
    if draw.chance(0.6):
        floor = low + (high - low) * draw.uniform(0.3, 0.9)
        slope = draw.uniform(-0.2, 0.5)
        lateral = body.cavity & (body.trunk > body.inner - draw.uniform(0.03, 0.12))
        air = air | (lateral & (z > floor - (draw.grid.points[1] - body.centre[1]) * slope))
    body.paint(air, Tissue.LUNG)
    body.paint(air & draw.tubes(27, 0.12), Tissue.VENA_CAVA)
    if draw.chance(0.8):
        _add_heart(body, above)


def _add_heart(body: Body, above: Tensor) -> None:
    draw, (width, depth) = body.draw, body.radii
    centre = (
        body.centre[0] - width * draw.uniform(-0.05, 0.3),
        body.centre[1] + depth * draw.uniform(0.2, 0.5),
        body.high[2] + draw.uniform(-18, 48),
    )
    heart = draw.ellipsoid(centre, (draw.uniform(35, 60), draw.uniform(30, 48), draw.uniform(25, 45)), 0.15, 36)
    where = body.cavity & (above > -18)
    body.paint(where & (heart < 1.15) & (heart >= 1), Tissue.FAT if draw.chance(0.6) else Tissue.HEART)
    body.paint(where & (heart < 1), Tissue.HEART)


def add_skeleton(body: Body) -> None:
    """Draw spine, the muscles beside it, ribs, and the great vessels before the spine."""
    draw, (cx, cy), depth = body.draw, body.centre, body.radii[1]
    x, y, z = draw.grid.points
    radius = draw.uniform(16, 25)
    back = cy - depth * draw.uniform(0.55, 0.72)
    bend = draw.smooth(120, 2, (4, 4, draw.grid.size[2]))[:, :1, :1] * 4.5
    spine, vessels = x - cx - bend[0], x - cx - bend[1]
    beside = ((x - cx).abs() - radius * 2.1) / (radius * 1.6)
    below_skin = body.trunk < 1 - body.wall[0]
    body.paint(below_skin & (beside**2 + ((y - back + radius * 1.3) / (radius * 1.3)) ** 2 < 1), Tissue.MUSCLE)
    _add_ribs(body, below_skin)
    vertebra = (spine / (radius * 1.15)) ** 2 + ((y - back) / radius) ** 2
    disc = torch.sin(z * (2 * math.pi / draw.uniform(24, 36)) + draw.uniform(0, 6)) > 0.82
    body.paint(vertebra < 1, Tissue.BONE)
    body.paint((vertebra < 0.9) & disc, Tissue.MUSCLE)
    arch = (spine / (radius * 0.9)) ** 2 + ((y - back + radius * 1.5) / (radius * 0.7)) ** 2
    body.paint(arch < 1, Tissue.BONE)
    body.paint(arch < 0.35, Tissue.MUSCLE)
    body.paint((spine.abs() < radius * 0.2) & (y < back - radius * 1.6) & (y > back - radius * 3), Tissue.BONE)
    for tissue, side in ((Tissue.AORTA, -1), (Tissue.VENA_CAVA, 1)):
        calibre = draw.uniform(7, 14)
        across = (vessels - side * radius * draw.uniform(0.4, 1.1)) / calibre
        along = (y - back - radius - calibre * draw.uniform(1, 1.6)) / (calibre * draw.uniform(0.7, 1.1))
        body.paint(across**2 + along**2 < 1, tissue)


def _add_ribs(body: Body, below_skin: Tensor) -> None:
    """Ribs are where the wall's middle meets planes that fall towards the front."""
    draw, (fat, muscle) = body.draw, body.wall
    x, y, z = draw.grid.points
    angle = torch.atan2((y - body.centre[1]) / body.radii[1], (x - body.centre[0]) / body.radii[0]).abs()
    shell = (body.trunk - (1 - fat - muscle * draw.uniform(0.4, 0.8))).abs() < draw.uniform(0.02, 0.04)
    phase = z * (2 * math.pi / draw.uniform(24, 39)) + draw.uniform(3, 7) * angle * draw.choice((1, -1))
    ribs = torch.sin(phase + draw.smooth(60)[0] * 0.4) > draw.uniform(0.2, 0.75)
    body.paint(shell & ribs & below_skin & (z > body.low[2] - draw.uniform(0, 90)), Tissue.BONE)
