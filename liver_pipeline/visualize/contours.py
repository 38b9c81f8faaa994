"""Where probabilities pass 0.2 and 0.8: how far a border may be off, drawn as lines in each axial slice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.labels import LabelMap
from liver_pipeline.visualize.pictures import outline

PASSED = (0.2, 0.8)  # labels 1 and 2 of the lines


def contour_lines(classes: Mapping[str, LabelMap]) -> LabelMap:
    """Return the lines around what is tumor, and what is liver or tumor, with so much probability.

    Args:
        classes: round(255 p) of "liver" and "tumor", or of one of them, shape (X, Y, Z), axes along right, anterior,
            superior.

    Returns:
        Same shape: 1 on the inner border of p >= 0.2, 2 of p >= 0.8, which wins where they meet; else 0. Where nothing
        is that probable there is no line.
    """
    one = next(iter(classes.values()))
    lines = np.zeros(one.shape, dtype=np.uint8, order="F")
    for z in range(one.shape[2]):
        planes = {name: levels[:, :, z].astype(np.uint16) for name, levels in classes.items()}
        regions = [planes["tumor"]] if "tumor" in planes else []
        if "liver" in planes:
            regions.append(np.sum(list(planes.values()), axis=0, dtype=np.uint16))
        for label, share in enumerate(PASSED, 1):
            for region in regions:
                passed = region >= round(share * LEVELS)
                if passed.any():
                    lines[:, :, z][outline(passed)] = label
    return lines
