"""Intensities: CT in three contrast phases, or random contrast, from which a network also learns MR.

Random contrast follows SynthSeg (Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and
resolution without retraining", Medical Image Analysis 2023): each tissue gets an intensity without regard to what it
is, so that only shape and neighbourhood remain to be learned. CT values are those of textbooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from liver_pipeline.synthesis.draw import RandomDraw, blur
from liver_pipeline.synthesis.tissues import N_CODES, N_NEIGHBOURS, Tissue

NATIVE, ARTERIAL, PORTAL_VENOUS = range(3)
LOW_HU, HIGH_HU = -200.0, 300.0  # what the network sees of CT; random contrast is drawn within it
CURVE_HU = (-1000.0, -850.0, -300.0, -110.0, -70.0, 0.0, 25.0, 50.0, 80.0, 110.0, 150.0, 220.0, 400.0, 1000.0)


@dataclass(frozen=True)
class Contrast:
    """Mean of each tissue code, HU (of random contrast only named so), and whether it is that of a CT.

    Attributes:
        means: One a code.
        ct: Whether they are HU.
        phase: ``NATIVE``, ``ARTERIAL`` or ``PORTAL_VENOUS``.
    """

    means: list[float]
    ct: bool
    phase: int

    @property
    def liver(self) -> float:
        """Mean of the liver."""
        return self.means[Tissue.LIVER]


def ct_contrast(draw: RandomDraw) -> Contrast:
    """Draw a contrast phase and HU of all tissues in it; spleen, kidneys and heart are now and then like the liver."""
    phase = draw.choice((NATIVE, ARTERIAL, PORTAL_VENOUS), (0.25, 0.2, 0.55))
    u, enhanced = draw.uniform, phase > 0
    liver = (u(38, 66), u(55, 95), u(85, 145))[phase]
    if draw.chance(0.08):  # fatty
        liver = u(0, 40) + 15 * phase
    means = [0.0] * N_CODES
    means[Tissue.AIR] = -1000.0
    means[Tissue.FAT] = u(-118, -80)
    means[Tissue.SKIN] = u(-20, 50)
    means[Tissue.MUSCLE] = u(42, 68) + 8 * enhanced
    means[Tissue.BONE] = u(120, 450)
    means[Tissue.LUNG] = u(-900, -700)
    means[Tissue.SPLEEN] = (u(38, 56), u(70, 150), u(95, 150))[phase]
    means[Tissue.KIDNEY] = (u(22, 42), u(110, 230), u(130, 230))[phase]
    means[Tissue.HEART] = (u(35, 52), u(110, 280), u(95, 170))[phase]
    for tissue in (Tissue.SPLEEN, Tissue.KIDNEY, Tissue.HEART):
        if draw.chance(0.3):
            means[tissue] = liver + draw.normal(0, 9)
    means[Tissue.GALLBLADDER] = u(-2, 30)
    means[Tissue.STOMACH] = u(35, 60) + 25 * enhanced
    means[Tissue.BOWEL] = u(10, 60) + 30 * enhanced
    means[Tissue.PANCREAS] = (u(25, 48), u(70, 120), u(65, 115))[phase]
    means[Tissue.AORTA] = (u(32, 52), u(180, 360), u(110, 190))[phase]
    means[Tissue.VENA_CAVA] = (u(32, 50), u(40, 150), u(90, 170))[phase]
    means[Tissue.PORTAL_VEIN] = (u(32, 50), u(50, 160), u(100, 190))[phase]
    means[Tissue.GAS] = u(-1000, -750)
    means[Tissue.FLUID] = u(-5, 25)
    means[Tissue.LIVER] = liver
    means[Tissue.VESSEL] = liver + (-u(4, 22), u(-15, 50), u(8, 65))[phase] if draw.chance(0.85) else liver + u(-25, 25)
    _neighbours(draw, means, liver)
    return Contrast(means, True, phase)


def _neighbours(draw: RandomDraw, means: list[float], liver: float) -> None:
    """Give unnamed neighbours of the liver the HU of some organ, a third of them nearly the liver's own."""
    u = draw.uniform
    weights = (0.34, 0.26, 0.08, 0.12, 0.05, 0.05, 0.1)
    for i in range(N_NEIGHBOURS):
        kinds = (
            liver + draw.normal(0, 9), u(30, 80), means[Tissue.FAT] + draw.normal(0, 12), u(-5, 30),
            u(-950, -300), u(120, 400), u(80, 160),
        )  # fmt: skip
        means[Tissue.NEIGHBOUR + i] = draw.choice(kinds, weights)


def _shade(draw: RandomDraw, low: float = 0.0, high: float = 1.0) -> float:
    return LOW_HU + (HIGH_HU - LOW_HU) * draw.uniform(low, high)


def random_contrast(draw: RandomDraw) -> Contrast:
    """Draw intensities without regard to the tissue, except that air, lung and bowel gas stay dark."""
    liver = _shade(draw, 0.15, 0.9)
    means = [_shade(draw) if draw.chance(0.72) else liver + draw.normal(0, 28) for _ in range(N_CODES)]
    means[Tissue.AIR] = _shade(draw, 0, 0.05)
    means[Tissue.LUNG] = _shade(draw, 0, 0.2)
    means[Tissue.GAS] = _shade(draw, 0, 0.12)
    means[Tissue.BONE] = _shade(draw, 0, 0.6)
    means[Tissue.LIVER] = liver
    means[Tissue.VESSEL] = liver + draw.choice((-1, 1)) * draw.uniform(15, 200)
    if draw.chance(0.5):
        means[Tissue.FAT] = _shade(draw, 0.6, 1)
    return Contrast(means, False, NATIVE)


def paint(draw: RandomDraw, codes: Tensor, contrast: Contrast) -> Tensor:
    """Turn tissue codes into an image: mean of each tissue, and texture of its own strength at two scales."""
    extra: dict[int, float] = {Tissue.BONE: 25, Tissue.FAT: 12, Tissue.BOWEL: 12, Tissue.LUNG: 40}
    strength = [abs(draw.normal(0, 7)) + extra.get(i, 3) * draw.uniform(0.3, 1) for i in range(N_CODES)]
    strength[Tissue.AIR] = strength[Tissue.GAS] = 0.0
    table = draw.tensor([contrast.means, strength])
    mean, amplitude = table[:, codes.long()]
    coarse, fine = draw.smooth(draw.uniform(24, 66))[0], draw.smooth(draw.uniform(7.5, 15))[0]
    image: Tensor = mean + amplitude * (0.7 * coarse + draw.uniform(0.2, 0.9) * fine)
    return image


def remap(draw: RandomDraw, image: Tensor, liver: Tensor, liver_hu: Tensor) -> Tensor:
    """Give a real CT random contrast: a random curve from HU to intensity, the same for all voxels.

    The liver itself is drawn towards one value, for a steep curve would turn its noise into a pattern.

    Args:
        draw: Randomness.
        image: HU, (X, Y, Z).
        liver: Where it is liver without tumor.
        liver_hu: The liver's mean, without dimensions.
    """
    fat = _shade(draw, 0.15, 1)
    values = [
        _shade(draw, 0, 0.04), _shade(draw, 0, 0.15), _shade(draw, 0, 0.2), fat, fat + draw.normal(0, 30),
        *(_shade(draw) for _ in range(6)), _shade(draw), _shade(draw, 0, 0.7), _shade(draw, 0, 0.5),
    ]  # fmt: skip
    knots, heights = draw.tensor([list(CURVE_HU), values])

    def curve(hu: Tensor) -> Tensor:
        hu = hu.clamp(-999, 999)
        upper = torch.bucketize(hu, knots).clamp(1, len(CURVE_HU) - 1)
        below = knots.take(upper - 1)  # indexing with a tensor of no dimensions would wait for the device
        share = (hu - below) / (knots.take(upper) - below)
        return torch.lerp(heights.take(upper - 1), heights.take(upper), share)

    mapped = curve(blur(image, [draw.uniform(0.4, 0.9)] * 3))
    inside = blur(liver.float(), (0.5,) * 3) * draw.uniform(0.4, 0.9)
    return mapped + inside * (curve(liver_hu) - mapped)
