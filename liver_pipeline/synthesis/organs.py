"""Organs in an invented body: unnamed neighbours, stomach, spleen, kidneys, gallbladder."""

from __future__ import annotations

import torch

from liver_pipeline.synthesis.body import Body, add_lungs, add_skeleton, make_body
from liver_pipeline.synthesis.draw import RandomDraw
from liver_pipeline.synthesis.pose import Pose, bounds
from liver_pipeline.synthesis.shapes import LiverShape, draw_liver
from liver_pipeline.synthesis.tissues import N_NEIGHBOURS, Tissue


def invent_anatomy(draw: RandomDraw, shape: LiverShape, pose: Pose) -> tuple[torch.Tensor, torch.Tensor]:
    """Invent everything round a liver.

    Args:
        draw: Randomness.
        shape: The liver.
        pose: Where it lies.

    Returns:
        Tissue codes, uint8, and the liver's mask, both of the window's shape.
    """
    liver, vessels = draw_liver(draw, shape, pose)
    body = make_body(draw, liver, *bounds(pose.to_window(shape.points)))
    add_neighbours(body)
    if draw.chance(0.85):
        add_stomach(body)
    if draw.chance(0.9):
        add_spleen(body)
    for side in (1, -1):
        if draw.chance(0.85):
            add_kidney(body, side)
    if draw.chance(0.9):
        add_lungs(body)
    add_skeleton(body)
    if draw.chance(0.7):
        add_gallbladder(body, shape, pose)
    liver = liver & (body.trunk < 1 - body.wall[0] * 0.5)
    body.paint(liver, Tissue.LIVER)
    body.paint(liver & vessels, Tissue.VESSEL)
    return body.codes, liver


def add_neighbours(body: Body) -> None:
    """Fill the cavity with unnamed organs: where one of several smooth fields is greatest, with fat between them.

    They have vessels and dark spots too, so that these do not mark the liver.
    """
    draw, cavity = body.draw, body.cavity
    count = draw.numbers.randint(6, N_NEIGHBOURS)
    step = draw.uniform(18, 27) if draw.chance(0.4) else draw.uniform(27, 60)
    offsets = draw.tensor([draw.normal(0, 0.3) for _ in range(count)]).view(-1, 1, 1, 1)
    best = (draw.smooth(step, count) + offsets).topk(2, 0)
    organ = (best.indices[0] + Tissue.NEIGHBOUR).to(torch.uint8)
    apart = best.values[0] - best.values[1] > draw.uniform(0, 0.5)
    filled = cavity & apart & (best.values[0] > draw.uniform(-0.5, 0.6))
    body.codes = torch.where(filled, organ, body.codes)
    if draw.chance(0.7):  # vessels and strands in the fat
        strands = draw.tubes(draw.uniform(15, 27), draw.uniform(0.1, 0.35))
        body.paint(cavity & ~filled & strands, Tissue.PORTAL_VEIN)
    if draw.chance(0.6):
        vessel = draw.choice((Tissue.PORTAL_VEIN, Tissue.VENA_CAVA, Tissue.FLUID, Tissue.VESSEL))
        body.paint(filled & draw.tubes(draw.uniform(21, 42), draw.uniform(0.04, 0.16)), vessel)
    if draw.chance(0.3):
        spots = draw.smooth(draw.uniform(12, 27))[0] > draw.uniform(1.6, 2.6)
        body.paint(filled & spots, Tissue.NEIGHBOUR + N_NEIGHBOURS - 1)


def add_stomach(body: Body) -> None:
    """Draw a stomach, left and in front, its content, and often air above that."""
    draw, (cx, cy), (width, depth) = body.draw, body.centre, body.radii
    middle = (body.high[2] + body.low[2]) / 2
    centre = (
        cx - width * draw.uniform(0.4, 0.6),
        cy + depth * draw.uniform(0.1, 0.45),
        middle + draw.uniform(-24, 36),
    )
    radii = (draw.uniform(25, 60), draw.uniform(20, 45), draw.uniform(25, 60))
    stomach = draw.ellipsoid(centre, radii, 0.25, 33, draw.normal(0, 0.5))
    lumen = body.cavity & (stomach < 1 - draw.uniform(0.06, 0.3))
    body.paint(body.cavity & (stomach < 1), Tissue.STOMACH)
    body.paint(lumen, Tissue.NEIGHBOUR)
    level = cy + depth * 0.25 + draw.uniform(-60, 75)
    body.paint(lumen & (draw.grid.points[1] > level), Tissue.GAS if draw.chance(0.7) else Tissue.NEIGHBOUR + 1)


def add_spleen(body: Body) -> None:
    """Draw a spleen at the left of the back."""
    draw, (cx, cy), (width, depth) = body.draw, body.centre, body.radii
    middle = (body.high[2] + body.low[2]) / 2
    centre = (
        cx - width * draw.uniform(0.54, 0.68),
        cy - depth * draw.uniform(0.2, 0.5),
        middle + draw.uniform(-30, 42),
    )
    radii = (draw.uniform(12, 26), draw.uniform(28, 55), draw.uniform(30, 65))
    spleen = draw.ellipsoid(centre, radii, 0.2, 36, draw.normal(0.4, 0.4))
    body.paint(body.cavity & (spleen < 1), Tissue.SPLEEN)


def add_kidney(body: Body, side: int) -> None:
    """Draw a kidney in its fat, with its hollow, now and then with a cyst; ``side`` 1 is right, -1 left."""
    draw, (cx, cy), (width, depth) = body.draw, body.centre, body.radii
    centre = (
        cx + side * width * draw.uniform(0.28, 0.45),
        cy - depth * draw.uniform(0.35, 0.6),
        body.low[2] + draw.uniform(-36, 66),
    )
    radii = (draw.uniform(22, 32), draw.uniform(20, 30), draw.uniform(40, 60))
    kidney = draw.ellipsoid(centre, radii, 0.1, 24, draw.normal(0, 0.5))
    body.paint(body.cavity & (kidney < 1.25) & (kidney >= 1), Tissue.FAT)
    body.paint(body.cavity & (kidney < 1), Tissue.KIDNEY)
    hollow = Tissue.FAT if draw.chance(0.6) else Tissue.FLUID
    body.paint(body.cavity & (kidney < draw.uniform(0.25, 0.5)), hollow)
    if draw.chance(0.15):
        cyst = draw.ellipsoid([c + draw.normal(0, 20) for c in centre], [draw.uniform(8, 30)] * 3, 0.05, 24)
        body.paint(body.cavity & (cyst < 1), Tissue.FLUID)


def add_gallbladder(body: Body, shape: LiverShape, pose: Pose) -> None:
    """Draw a gallbladder that touches the lower half of the liver from outside."""
    draw = body.draw
    points = pose.to_window(shape.points)
    lower = points[points[:, 2] < body.low[2] + 0.55 * (body.high[2] - body.low[2])]
    if not len(lower):
        return
    at = lower[draw.numbers.randrange(len(lower))] + [draw.normal(0, 9), draw.normal(6, 9), draw.normal(-12, 9)]
    radii = (draw.uniform(10, 20), draw.uniform(10, 24), draw.uniform(14, 34))
    gallbladder = draw.ellipsoid(at.tolist(), radii, 0.1, 24, draw.uniform(-0.6, 0.6))
    body.paint((gallbladder < 1) & body.cavity & ~body.liver, Tissue.GALLBLADDER)
