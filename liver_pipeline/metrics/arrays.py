"""Array types of the metrics, and boxes: every figure is computed inside the box that holds both masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from liver_pipeline.labels import Mask, Spacing


def as_mask(array: npt.NDArray[np.generic]) -> Mask:
    """Return ``array`` as a C-ordered boolean mask of shape (X, Y, Z), without a copy where it is one already."""
    return np.ascontiguousarray(array, dtype=bool)


def check_pair(pred: npt.NDArray[np.generic], label: npt.NDArray[np.generic]) -> None:
    """Raise ValueError unless both arrays have the same three-dimensional shape."""
    if pred.ndim != 3 or pred.shape != label.shape:
        raise ValueError(f"pred has shape {pred.shape}, label {label.shape}; both must share one shape (X, Y, Z)")


def check_spacing(spacing: Spacing) -> tuple[float, float, float]:
    """Return ``spacing`` as three Python floats in mm; raise ValueError unless all are finite and positive."""
    values = [float(value) for value in spacing]
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing must be three positive lengths in mm, got {list(spacing)}")
    return values[0], values[1], values[2]
