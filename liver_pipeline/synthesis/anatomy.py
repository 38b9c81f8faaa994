"""Anatomies, invented or from real scans, before lesions and scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from liver_pipeline.synthesis.contrast import PORTAL_VENOUS, Contrast, paint
from liver_pipeline.synthesis.draw import RandomDraw, blur
from liver_pipeline.synthesis.organs import invent_anatomy
from liver_pipeline.synthesis.placement import Placement
from liver_pipeline.synthesis.pose import Pose
from liver_pipeline.synthesis.scans import (
    Placed,
    RealScan,
    other_phase,
    place_scan,
    put_into,
    shifted_to,
    swap_liver,
    vary_template,
    warp_scan,
)
from liver_pipeline.synthesis.shapes import LiverShape, place_shape
from liver_pipeline.synthesis.tissues import Tissue

KINDS = ("invented", "template", "hybrid", "real")


@dataclass(frozen=True)
class Anatomy:
    """A sample before lesions and scanner: intensities, the liver, its mean, where it lies, the contrast of lesions."""

    image: Tensor
    liver: Tensor
    liver_mean: Tensor | float
    pose: Pose
    shape: LiverShape | RealScan
    contrast: Contrast


class AnatomyMaker:
    """Make the four kinds of anatomy.

    Args:
        shapes: Liver shapes, one or more.
        scans: Real scans; none are needed for invented anatomy.
        placement: Where windows lie.
    """

    def __init__(self, shapes: Sequence[LiverShape], scans: Sequence[RealScan], placement: Placement) -> None:
        self.shapes, self.scans, self.placement = shapes, scans, placement
        self.with_vessels = [shape for shape in shapes if shape.vessels]

    def make(self, draw: RandomDraw, kind: str, contrast: Contrast) -> Anatomy:
        """Make an anatomy of one of :data:`KINDS`."""
        makers = {"invented": self.invented, "template": self.template, "hybrid": self.hybrid, "real": self.real}
        return makers[kind](draw, contrast)

    def _shape(self, draw: RandomDraw) -> LiverShape:
        return draw.choice(self.with_vessels if self.with_vessels and draw.chance(0.35) else self.shapes)

    def _scan(self, draw: RandomDraw, kind: str) -> RealScan:
        """Choose a scan: slabs serve as they are only, and seldom."""
        weights = [float(scan.whole or (scan.named_organs and kind != "hybrid")) for scan in self.scans]
        return draw.choice(self.scans, [weight or 0.15 * (kind == "real") for weight in weights])

    def _placed(self, draw: RandomDraw, scan: RealScan) -> tuple[Pose, Placed]:
        pose = self.placement.moved(draw, place_scan(draw, scan, self.placement.origin(draw)), scan.points)
        return pose, warp_scan(draw, scan, pose)

    def invented(self, draw: RandomDraw, contrast: Contrast) -> Anatomy:
        """Paint all; only the liver's shape is a real one."""
        shape = self._shape(draw)
        pose = self.placement.moved(draw, place_shape(draw, shape, self.placement.origin(draw)), shape.points)
        codes, liver = invent_anatomy(draw, shape, pose)
        return Anatomy(paint(draw, codes, contrast), liver, contrast.liver, pose, shape, contrast)

    def template(self, draw: RandomDraw, contrast: Contrast) -> Anatomy:
        """Paint the anatomy of a real scan."""
        scan = self._scan(draw, "template")
        pose, placed = self._placed(draw, scan)
        if draw.chance(0.7) or not scan.whole:
            shape = self._shape(draw)
            codes, liver, _, pose = swap_liver(draw, placed, scan, pose, shape)
            owner: LiverShape | RealScan = shape
        else:
            liver, owner = placed.liver, scan
            tubes = draw.tubes(draw.uniform(24, 45), draw.uniform(0.05, 0.16)) | draw.tubes(18, 0.08)
            codes = placed.codes.masked_fill(liver, int(Tissue.LIVER)).masked_fill(liver & tubes, int(Tissue.VESSEL))
        codes = vary_template(draw, codes)
        return Anatomy(paint(draw, codes, contrast), liver, contrast.liver, pose, owner, contrast)

    def hybrid(self, draw: RandomDraw, contrast: Contrast) -> Anatomy:
        """Paint a liver into a real scan."""
        scan, shape = self._scan(draw, "hybrid"), self._shape(draw)
        pose, placed = self._placed(draw, scan)
        codes, liver, rest, pose = swap_liver(draw, placed, scan, pose, shape)
        contrast = shifted_to(contrast, scan.means[Tissue.LIVER] + draw.uniform(-15, 25))
        painted = blur(paint(draw, codes, contrast), [draw.uniform(0.3, 0.6)] * 3)
        image = put_into(draw, placed, painted, liver | rest)
        return Anatomy(image, liver & placed.inside, contrast.liver, pose, shape, contrast)

    def real(self, draw: RandomDraw, contrast: Contrast) -> Anatomy:
        """Take a real scan with its own liver."""
        scan = self._scan(draw, "real")
        pose, placed = self._placed(draw, scan)
        image = other_phase(draw, placed, scan, contrast) if draw.chance(0.8) else placed.image
        mean = (image * placed.liver).sum() / placed.liver.sum().clamp(min=1)
        if not scan.named_organs:  # its phase is its own: contrast-enhanced scans hide their organs from thresholds
            contrast = Contrast(contrast.means, True, PORTAL_VENOUS)
        return Anatomy(image, placed.liver, mean, pose, scan, contrast)
