"""The liver that a cascade's first stage found, and whether it can be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from liver_pipeline.geometry.boxes import Box, bounding_box
from liver_pipeline.labels import LabelMap
from liver_pipeline.transforms.postprocessing import keep_largest_liver


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
