"""The box around a liver: found in a label map, judged, widened by a margin, cut out of a scan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from liver_pipeline.geometry import Affine, AxisMap
from liver_pipeline.postprocessing import LabelMap, keep_largest_liver

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # first voxel and the one behind the last, axis by axis


@dataclass(frozen=True)
class Limits:
    """What a plausible liver is.

    Attributes:
        min_ml: Least volume of the largest component.
        max_ml: Largest volume of it.
        min_share: Least share of all liver voxels that lie in the largest component.
    """

    min_ml: float = 0.0
    max_ml: float = float("inf")
    min_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing or everything can meet by mistake."""
        if not 0 <= self.min_ml < self.max_ml or not 0 <= self.min_share <= 1:
            raise ValueError(f"{self}: expected 0 <= min_ml < max_ml and 0 <= min_share <= 1")


@dataclass(frozen=True)
class Found:
    """The liver in a label map.

    Attributes:
        box: Around the largest component, on the grid of the label map; None where there is no plausible liver.
        liver_ml: Volume of the largest component.
        share: Of all liver voxels, those in the largest component; 0 without any.
        doubt: Why there is no box, "" if there is one.
    """

    box: Box | None
    liver_ml: float
    share: float
    doubt: str


def find_liver(label_map: LabelMap, spacing: Sequence[float], limits: Limits) -> Found:
    """Find the largest component of liver-or-tumor and judge whether it can be a liver.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.
        spacing: Voxel size in mm along X, Y, Z.
        limits: What is plausible.
    """
    largest = keep_largest_liver(label_map) > 0
    voxels, total = int(np.count_nonzero(largest)), int(np.count_nonzero(label_map))
    liver_ml = voxels * float(np.prod(spacing)) / 1000.0  # 1 ml = 1000 mm^3
    share = voxels / total if total else 0.0
    doubt = _doubt(liver_ml, share, limits)
    return Found(None if doubt else bounding_box(largest), round(liver_ml, 3), round(share, 4), doubt)


def _doubt(liver_ml: float, share: float, limits: Limits) -> str:
    if liver_ml == 0:
        return "no liver found"
    if liver_ml < limits.min_ml:
        return f"the liver has {liver_ml:.0f} ml, less than {limits.min_ml:g}"
    if liver_ml > limits.max_ml:
        return f"the liver has {liver_ml:.0f} ml, more than {limits.max_ml:g}"
    if share < limits.min_share:
        return f"the liver is in pieces: the largest is {share:.0%} of it, less than {limits.min_share:.0%}"
    return ""


def bounding_box(mask: npt.NDArray[np.bool_]) -> Box | None:
    """Return the smallest box that holds all of a mask (X, Y, Z); None for an empty one."""
    sides = []
    for others in ((1, 2), (0, 2), (0, 1)):
        filled = np.flatnonzero(mask.any(axis=others))
        if filled.size == 0:
            return None
        sides.append((int(filled[0]), int(filled[-1]) + 1))
    return sides[0], sides[1], sides[2]


def whole(shape: Sequence[int]) -> Box:
    """Return the box of a whole volume."""
    x, y, z = (int(n) for n in shape)
    return (0, x), (0, y), (0, z)


def widen(box: Box, margin_mm: float, spacing: Sequence[float], shape: Sequence[int]) -> Box:
    """Widen a box by at least ``margin_mm`` on each side, as far as the volume reaches.

    Raises:
        ValueError: If the margin is negative.
    """
    if not margin_mm >= 0:
        raise ValueError(f"margin_mm must be 0 or more, got {margin_mm}")
    margins = [int(np.ceil(round(margin_mm / edge, 6))) for edge in spacing]
    x, y, z = (
        (max(start - margin, 0), min(stop + margin, int(length)))
        for (start, stop), margin, length in zip(box, margins, shape, strict=True)
    )
    return x, y, z


ON_BORDER = 1e-6  # voxels; a centre on the border is inside, however the numbers were rounded


def box_on_scan(box: Box, grid: AxisMap) -> Box:
    """Return the scan voxels whose centres lie inside a box of the model grid, at least one along each axis.

    The same place of the patient is found however the scan's axes are stored.

    Args:
        box: On the model grid, whose voxels are cells around their centres.
        grid: Map between scan and model grid.

    Returns:
        The box along the scan's own axes.
    """
    sides = [(0, 0)] * 3
    for axis, (start, stop) in enumerate(box):
        length = grid.aligned_shape[axis]
        low, high = grid.to_aligned(axis, np.array([start - 0.5, stop - 0.5]))
        first = min(max(int(np.ceil(low - ON_BORDER)), 0), length - 1)
        behind = max(min(int(np.floor(high + ON_BORDER)) + 1, length), first + 1)
        sides[grid.order[axis]] = (length - behind, length - first) if grid.flipped[axis] else (first, behind)
    return sides[0], sides[1], sides[2]


def cut_out(volume: MetaTensor, box: Box) -> MetaTensor:
    """Return the part of a volume (C, X, Y, Z) inside a box: a view, with the affine of its own corner."""
    part = volume.as_tensor()[(slice(None), *(slice(start, stop) for start, stop in box))]
    affine = torch.as_tensor(shifted(np.asarray(volume.affine.cpu().numpy(), dtype=np.float64), box))
    return MetaTensor(part, affine=affine, meta={key: value for key, value in volume.meta.items() if key != "affine"})


def shifted(affine: Affine, box: Box) -> Affine:
    """Return the affine of a grid that begins with the first voxel of a box."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ [start for start, _ in box] + affine[:3, 3]
    return moved


def box_text(box: Box | None) -> str:
    """Return a box as the text that a case holds (a case is a dictionary of strings)."""
    return json.dumps(box)


def parse_box(text: str) -> Box | None:
    """Read what :func:`box_text` wrote."""
    sides = json.loads(text)
    if sides is None:
        return None
    (a, b), (c, d), (e, f) = sides
    return (a, b), (c, d), (e, f)
