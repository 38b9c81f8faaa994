"""Real scans as a source of anatomy: warped, with another liver in them, or with painted tumors in their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from liver_pipeline.synthesis.contrast import Contrast
from liver_pipeline.synthesis.draw import RandomDraw, blur, sample
from liver_pipeline.synthesis.pose import Points, Pose, points_of, random_displacement, random_matrix, to_device
from liver_pipeline.synthesis.shapes import LiverShape, draw_liver, place_shape
from liver_pipeline.synthesis.tissues import CAVITY_BIT, N_NEIGHBOURS, Tissue

ORGANS = (
    Tissue.SPLEEN, Tissue.KIDNEY, Tissue.PANCREAS, Tissue.AORTA, Tissue.VENA_CAVA, Tissue.PORTAL_VEIN, Tissue.HEART,
)  # fmt: skip


@dataclass(frozen=True)
class RealScan:
    """A CT with its liver and a tissue code for each voxel, on one isotropic grid along R, A, S.

    Attributes:
        image: HU, int16, (X, Y, Z).
        liver: Its mask.
        codes: See :class:`~liver_pipeline.synthesis.tissues.Tissue`; those in the cavity are greater by ``CAVITY_BIT``.
        spacing: mm.
        points: Some voxels of the liver, mm from the volume's centre.
        means: Median HU of each code that it holds.
        whole: Whether the whole liver is in it.
    """

    image: Tensor
    liver: Tensor
    codes: Tensor
    spacing: float
    points: Points
    means: dict[int, float]
    whole: bool

    @property
    def named_organs(self) -> bool:
        """Whether spleen, kidneys and so on have their codes."""
        return Tissue.SPLEEN in self.means


def load_scans(file: str | Path, device: torch.device | str = "cpu") -> dict[str, RealScan]:
    """Read scans for the generator.

    Args:
        file: ``.npz`` with, for each scan, ``NAME.img`` (HU), ``NAME.lab`` (liver where above 0), ``NAME.codes``, all
            (X, Y, Z) along R, A, S, and ``NAME.spacing``, mm; 3 where that is absent.
        device: Where the generator works.
    """
    scans = {}
    with np.load(file) as arrays:
        for name in sorted({key.split(".")[0] for key in arrays.files}):
            spacing = float(arrays[f"{name}.spacing"]) if f"{name}.spacing" in arrays.files else 3.0
            image, liver, codes = (arrays[f"{name}.{part}"] for part in ("img", "lab", "codes"))
            scans[name] = make_scan(image, liver, codes, spacing, device)
    return scans


def make_scan(
    image: npt.NDArray[np.int16],
    liver: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.uint8],
    spacing: float,
    device: torch.device | str,
) -> RealScan:
    """Make a scan of arrays; see :func:`load_scans`."""
    tissue = codes & (CAVITY_BIT - 1)
    means = {int(code): float(np.median(image[tissue == code])) for code in np.unique(tissue)}
    device = torch.device(device)
    volumes = (to_device(np.clip(image, -1024, 1500).astype(np.int16), device), to_device(liver > 0, device))
    ends = np.flatnonzero((liver > 0).any((0, 1)))
    whole = bool(len(ends)) and ends[-1] < liver.shape[2] - 2 and ends[0] > 1
    return RealScan(*volumes, to_device(codes, device), spacing, points_of(liver > 0, spacing), means, whole)


@dataclass(frozen=True)
class Placed:
    """A real scan in the window: its image (HU), tissue codes, cavity and liver, and where it was scanned at all."""

    image: Tensor
    codes: Tensor
    cavity: Tensor
    liver: Tensor
    inside: Tensor


def place_scan(draw: RandomDraw, scan: RealScan, origin: npt.NDArray[np.float64]) -> Pose:
    """Draw how a scan lies in the window: its liver's centre at ``origin``."""
    matrix = random_matrix(draw, scale=(0.86, 1.16), turn=0.1, shear=0.05)
    return Pose(matrix, origin, (scan.points.max(0) + scan.points.min(0)) / 2)


def warp_scan(draw: RandomDraw, scan: RealScan, pose: Pose) -> Placed:
    """Warp a scan into the window; beyond it is air."""
    where = pose.to_object(draw, random_displacement(draw, 9.0, 3.0))
    half = draw.tensor([(n - 1) / 2 * scan.spacing for n in scan.image.shape]).view(3, 1, 1, 1)
    inside = (where.abs() <= half).all(0)
    image, liver = sample(torch.stack((scan.image.float(), scan.liver.float())), where, scan.spacing, beyond="border")
    image = torch.where(inside, image, image.new_full((), -1000.0))
    codes = sample(scan.codes[None], where, scan.spacing, mode="nearest")[0].to(torch.uint8)
    return Placed(image, codes & (CAVITY_BIT - 1), codes >= CAVITY_BIT, (liver > 0.5) & inside, inside)


def swap_liver(
    draw: RandomDraw, placed: Placed, scan: RealScan, pose: Pose, shape: LiverShape
) -> tuple[Tensor, Tensor, Tensor, Pose]:
    """Put another liver in the place of a scan's own.

    What the old one leaves is filled with fat and unnamed organs, above the new one with lung.

    Returns:
        Tissue codes; the new liver's mask; the mask of what was filled; the new liver's pose.
    """
    shift = [draw.normal(0, 9), draw.normal(0, 9), draw.normal(0 if scan.whole else 18, 15)]
    origin = pose.origin + np.array(shift)
    old_extent = (scan.points.max(0) - scan.points.min(0)) * (1.0, 1.0, 1.0 if scan.whole else 1.15)
    new_pose = place_shape(draw, shape, origin, old_extent if draw.chance(0.85) else None)
    liver, vessels = draw_liver(draw, shape, new_pose)
    old = placed.liver | (placed.codes == Tissue.LIVER)
    free = placed.cavity & (placed.codes != Tissue.AIR) & (placed.codes != Tissue.BONE) & (placed.codes != Tissue.SKIN)
    liver = _opened(liver & (free | old))
    rest = old & ~liver
    codes = torch.where(rest, _filling(draw, liver), placed.codes)
    codes = codes.masked_fill(liver, int(Tissue.LIVER)).masked_fill(liver & vessels, int(Tissue.VESSEL))
    return codes, liver, rest, new_pose


def _opened(mask: Tensor) -> Tensor:
    """Remove what is one voxel thin."""
    kept = -F.max_pool3d(-mask.float()[None, None], 3, 1, 1)
    return F.max_pool3d(kept, 3, 1, 1)[0, 0] > 0


def _filling(draw: RandomDraw, liver: Tensor) -> Tensor:
    """Return codes of what lies where a larger liver was: three kinds in patches; over the new dome mostly lung."""
    kinds = [
        draw.choice((Tissue.FAT, Tissue.NEIGHBOUR, Tissue.NEIGHBOUR + 1, Tissue.MUSCLE)),
        draw.choice((Tissue.FAT, Tissue.NEIGHBOUR + 2, Tissue.NEIGHBOUR + 3)),
        draw.choice((Tissue.FAT, Tissue.NEIGHBOUR + 4, Tissue.MUSCLE)),
    ]
    patches = draw.smooth(draw.uniform(24, 48), 3).argmax(0)
    filling = draw.tensor([float(kind) for kind in kinds]).to(torch.uint8)[patches]
    z = draw.grid.points[2]
    top = torch.where(liver, z, z.new_full((), -1e3)).amax(2)[None, None]
    reach = max(1, round(6 / draw.grid.spacing))
    top = F.max_pool2d(top, 2 * reach + 1, 1, reach)[0, 0]
    above = Tissue.LUNG if draw.chance(0.65) else draw.choice((Tissue.HEART, Tissue.NEIGHBOUR + 6, Tissue.FLUID))
    return filling.masked_fill(z > top[..., None], int(above))


def vary_template(draw: RandomDraw, codes: Tensor) -> Tensor:
    """Vary the codes of a scan that is painted: spots in the fat, and bowel as several unnamed organs."""
    spots = (codes == Tissue.FAT) & (draw.smooth(draw.uniform(12, 27))[0] > draw.uniform(0.8, 2.5))
    kinds = (Tissue.MUSCLE, Tissue.PORTAL_VEIN, Tissue.BOWEL, Tissue.NEIGHBOUR + 5)
    codes = codes.masked_fill(spots, int(draw.choice(kinds)))
    if draw.chance(0.6):
        parts = draw.smooth(draw.uniform(21, 42), 6).argmax(0).to(torch.uint8) + Tissue.NEIGHBOUR
        codes = torch.where(codes == Tissue.BOWEL, parts, codes)
    return codes


def other_phase(draw: RandomDraw, placed: Placed, scan: RealScan, contrast: Contrast) -> Tensor:
    """Shift the organs of a real scan towards another contrast phase, smoothly, most where they are soft tissue.

    Where organs have no codes only the liver moves.
    """
    shift = [0.0] * len(contrast.means)
    if scan.named_organs:
        for organ in (*ORGANS, Tissue.LIVER):
            if organ in scan.means:
                shift[organ] = max(-70.0, min(140.0, contrast.means[organ] - scan.means[organ]))
        if draw.chance(0.5):
            shift[Tissue.BOWEL], shift[Tissue.STOMACH] = draw.uniform(0, 40), draw.uniform(0, 40)
            shift[Tissue.MUSCLE] = draw.uniform(-5, 12)
    else:
        shift[Tissue.LIVER] = draw.uniform(-45, 35)
    field = blur(draw.tensor(shift)[placed.codes.long()], (1.8 / draw.grid.spacing,) * 3)
    soft = 1 - ((placed.image - 40) / 500).clamp(0, 1)
    image = placed.image + field * soft * (placed.image > -150)
    if scan.named_organs:  # a native scan: vessels do not show
        tubes = draw.tubes(draw.uniform(24, 45), draw.uniform(0.04, 0.14)) & placed.liver
        strength = contrast.means[Tissue.VESSEL] - contrast.means[Tissue.LIVER]
        image = image + blur(tubes.float(), (0.5,) * 3) * strength
    return image


def put_into(draw: RandomDraw, placed: Placed, painted: Tensor, where: Tensor) -> Tensor:
    """Put painted tissue, with noise like a scanner's, into a real image; the seam is half a voxel soft."""
    weight = blur((where & placed.inside).float(), (0.5,) * 3)
    grain = blur(draw.noise(), (0.6,) * 3) * draw.uniform(13, 35)
    return placed.image + weight * (painted + grain - placed.image)


def shifted_to(contrast: Contrast, liver_hu: float) -> Contrast:
    """Return a contrast whose liver, with its vessels and unnamed neighbours, has this mean."""
    means = list(contrast.means)
    difference = liver_hu - contrast.liver
    neighbours = range(Tissue.NEIGHBOUR, Tissue.NEIGHBOUR + N_NEIGHBOURS)
    for code in (*neighbours, Tissue.LIVER, Tissue.VESSEL, Tissue.HEART):
        means[code] += difference
    return Contrast(means, contrast.ct, contrast.phase)
