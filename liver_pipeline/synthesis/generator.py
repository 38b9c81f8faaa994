"""Labelled abdominal scans from a seed: the pieces of this package put together, as YAML configures them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liver_pipeline.synthesis.acquisition import FieldOfView, Scanner, acquire, seen, to_network
from liver_pipeline.synthesis.anatomy import KINDS, Anatomy, AnatomyMaker
from liver_pipeline.synthesis.contrast import ct_contrast, random_contrast, remap
from liver_pipeline.synthesis.draw import Grid, RandomDraw
from liver_pipeline.synthesis.lesions import add_distractors, add_tumors, plan_lesions, push_aside
from liver_pipeline.synthesis.placement import Placement
from liver_pipeline.synthesis.pose import inside
from liver_pipeline.synthesis.scans import load_scans
from liver_pipeline.synthesis.shapes import invent_shape, load_shapes

INVENTED_SHAPES = 24  # where no shapes are given
UNSEEN_HU = -1024.0  # outside the field of view of a CT


@dataclass(frozen=True)
class Sample:
    """A window.

    Attributes:
        image: HU, or arbitrary units of random contrast, float32, (X, Y, Z).
        label: 0 background, 1 liver, 2 tumor; uint8, (X, Y, Z).
        mask: What was scanned; None is all. Outside it the label is 0.
        ct: Whether the image is in HU.
        kind: Of ``KINDS``.
    """

    image: Tensor
    label: Tensor
    mask: Tensor | None
    ct: bool
    kind: str


class ScanGenerator:
    """Make samples; the same seed, index and device give the same one, on any thread.

    Args:
        size: Voxels of a window along R, A, S.
        spacing: mm, the same along each axis.
        shapes: Folder of liver shapes (:func:`~liver_pipeline.synthesis.shapes.load_shapes`); None invents some.
        shapes_pattern: Which files in it.
        scans: File of real scans (:func:`~liver_pipeline.synthesis.scans.load_scans`); None paints everything.
        device: Where samples are made.
        seed: Of all samples.
        shares: How often all but the liver's shape is invented, the anatomy is that of a real scan and all of it
            painted, a painted liver lies in a real scan, a real scan is taken with its own liver. The last three need
            ``scans``.
        random_share: How often the contrast is random (for MR).
        tumor_share: How often there are tumors.
        lesion_sizes: Weights of radii of 2.5-5, 5-8, 8-13, 13-26 and 26-50 mm.
        noise_hu: Least and greatest sd of noise.
        blur_mm: Least and greatest sigma of blur.
        box_margin_mm: None: windows lie anywhere about the liver. Else they lie in the liver's box and this margin, as
            those of a cascade's second stage do, and outside that box there is nothing.
        box_jitter_mm: Each face of that box moves inwards by up to so much.

    Raises:
        ValueError: If shares are not four numbers, or need scans and there are none.
    """

    def __init__(
        self,
        size: Sequence[int],
        spacing: float,
        *,
        shapes: str | Path | None = None,
        shapes_pattern: str = "shapes*.npz",
        scans: str | Path | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        shares: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
        random_share: float = 0.3,
        tumor_share: float = 0.75,
        lesion_sizes: Sequence[float] = (0.1, 0.25, 0.3, 0.25, 0.1),
        noise_hu: Sequence[float] = (3.0, 13.0),
        blur_mm: Sequence[float] = (0.8, 2.4),
        box_margin_mm: float | None = None,
        box_jitter_mm: float = 15.0,
    ) -> None:
        if len(shares) != len(KINDS) or min(shares) < 0 or not sum(shares):
            raise ValueError(f"shares are {list(shares)}; expected four numbers, for {', '.join(KINDS)}")
        if scans is None and any(shares[1:]):
            raise ValueError(
                f"shares {list(shares)} use real scans, and scans is null; name their file, or [1, 0, 0, 0]"
            )
        self.grid = Grid(size, spacing, device)
        self.seed, self.shares = seed, list(shares)
        device = self.grid.device
        if shapes is None:
            livers = [invent_shape(i, device) for i in range(INVENTED_SHAPES)]
        else:
            livers = load_shapes(shapes, device, shapes_pattern)
        real = list(load_scans(scans, device).values()) if scans is not None else []
        self.placement = Placement(box_margin_mm, box_jitter_mm)
        self.anatomies = AnatomyMaker(livers, real, self.placement)
        self.random_share, self.tumor_share, self.lesion_sizes = random_share, tumor_share, list(lesion_sizes)
        self.scanner = Scanner((noise_hu[0], noise_hu[1]), (blur_mm[0], blur_mm[1]))

    def with_seed(self, seed: int) -> ScanGenerator:
        """Return a generator of other samples that shares shapes and scans with this one."""
        other = copy.copy(self)
        other.seed = seed
        return other

    @torch.no_grad()
    def sample(self, index: int, *, kind: str | None = None, ct: bool | None = None) -> Sample:
        """Make a sample; ``kind`` and ``ct`` are drawn unless given."""
        return self._sample(self._draw(index), kind, ct)

    @torch.no_grad()
    def window(self, index: int) -> tuple[Tensor, Tensor]:
        """Make what the network sees, 0 to 1, float32, and its label, uint8; both (X, Y, Z)."""
        draw = self._draw(index)
        sample = self._sample(draw, None, None)
        return to_network(draw, sample.image, sample.mask, ct=sample.ct), sample.label

    def _draw(self, index: int) -> RandomDraw:
        seed = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        return RandomDraw(self.grid, int(seed) >> 1)

    def _sample(self, draw: RandomDraw, kind: str | None, ct: bool | None) -> Sample:
        kind = kind or draw.choice(KINDS, self.shares)
        ct = not draw.chance(self.random_share) if ct is None else ct
        painted = kind in ("invented", "template")
        contrast = ct_contrast(draw) if ct or not painted else random_contrast(draw)
        anatomy = self.anatomies.make(draw, kind, contrast)
        box = self.placement.seen_box(draw, anatomy.pose, anatomy.shape.points)
        image, tumor, liver = self._lesions(draw, anatomy, box)
        if not ct and not painted:
            mean = anatomy.liver_mean
            mean = mean if isinstance(mean, Tensor) else draw.tensor([mean])[0]
            image = remap(draw, image, liver & ~tumor, mean)
        image = acquire(draw, image, self._scanner(painted), ct=ct)
        mask = seen(draw, box)
        label = liver.to(torch.uint8) + tumor.to(torch.uint8)
        if mask is not None:
            label = label * mask
            image = torch.where(mask, image, image.new_full((), UNSEEN_HU if ct else 0.0))
        return Sample(image, label, mask, ct, kind)

    def _scanner(self, painted: bool) -> Scanner:
        """Real scans have noise and blur of their own already."""
        (low, high), (sharp, soft) = self.scanner.noise, self.scanner.blur
        return self.scanner if painted else Scanner((0.4 * low, 0.7 * high), (0.3 * sharp, 0.7 * soft))

    def _lesions(self, draw: RandomDraw, anatomy: Anatomy, box: FieldOfView | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image with all lesions, and the masks of tumor and of the liver, whose surface they may move."""
        image, liver, mean, contrast = anatomy.image, anatomy.liver, anatomy.liver_mean, anatomy.contrast
        points = anatomy.pose.to_window(anatomy.shape.points)
        low, high = np.array(box).T if box is not None else (np.negative(self.grid.half), np.array(self.grid.half))
        low, high = np.maximum(low, np.negative(self.grid.half)), np.minimum(high, self.grid.half)
        places = points[inside(points, low, high)]
        lesions = plan_lesions(draw, places, self.lesion_sizes) if draw.chance(self.tumor_share) else []
        if draw.chance(0.35):
            image, liver = push_aside(draw, image, liver, lesions)
        image = add_distractors(draw, image, liver, mean, contrast, places)
        image, tumor = add_tumors(draw, image, liver, mean, contrast, lesions)
        return image, tumor, liver
