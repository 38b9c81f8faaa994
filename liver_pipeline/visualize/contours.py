"""Outlines of masks, and where probabilities pass 0.2 and 0.8: how far a border may be off; in axial slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.labels import LIVER, TUMOR, LabelMap, Mask
from liver_pipeline.visualize.colours import CLASS_RGB

PASSED = (0.2, 0.8)  # labels 1 and 2 of the lines


def outline(mask: Mask) -> Mask:
    """Return the pixels of a mask (X, Y) with a neighbour outside it; the picture's edge is no outline."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def draw_outlines(picture: npt.NDArray[np.uint8], labels: LabelMap) -> None:
    """Draw the outlines of liver with tumor, and of tumor, into a picture (X, Y, 3) of labels (X, Y)."""
    for mask, colour in ((labels >= LIVER, CLASS_RGB[LIVER]), (labels == TUMOR, CLASS_RGB[TUMOR])):
        picture[outline(mask)] = colour


def slice_contours(planes: Mapping[str, LabelMap]) -> LabelMap:
    """Return the lines around what is tumor, and what is liver or tumor, with so much probability.

    Args:
        planes: round(255 p) of "liver" and "tumor", or of one of them, in one slice (X, Y).

    Returns:
        Same shape: 1 on the inner border of p >= 0.2, 2 of p >= 0.8, which wins where they meet; else 0. Where nothing
        is that probable there is no line.
    """
    wide = {name: levels.astype(np.uint16) for name, levels in planes.items()}
    regions = [wide["tumor"]] if "tumor" in wide else []
    if "liver" in wide:
        regions.append(np.sum(list(wide.values()), axis=0, dtype=np.uint16))
    lines: LabelMap = np.zeros(regions[0].shape, dtype=np.uint8)
    for label, share in enumerate(PASSED, 1):
        for region in regions:
            passed = region >= round(share * LEVELS)
            if passed.any():
                lines[outline(passed)] = label
    return lines


def contour_lines(classes: Mapping[str, LabelMap]) -> LabelMap:
    """Return :func:`slice_contours` of every axial slice.

    Args:
        classes: round(255 p) by class, shape (X, Y, Z), axes along right, anterior, superior.
    """
    one = next(iter(classes.values()))
    lines = np.zeros(one.shape, dtype=np.uint8, order="F")
    for z in range(one.shape[2]):
        lines[:, :, z] = slice_contours({name: levels[:, :, z] for name, levels in classes.items()})
    return lines
