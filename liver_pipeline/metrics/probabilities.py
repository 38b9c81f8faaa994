"""Figures of probabilities, where a run saved them: AUC-ROC, Brier score, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from liver_pipeline.labels import FloatArray, Mask, Spacing
from liver_pipeline.metrics.arrays import check_spacing

BINS = 10
SHARES = ("confidence", "frequency")  # of each bin
FALSE_RATES = np.linspace(0.0, 1.0, 101)  # false-positive rates at which a ROC curve is kept
MARGIN_MM = 10.0  # how far around the liver calibration counts; far background is right by any network


@dataclass(frozen=True)
class Calibration:
    """Reliability in equal bins of probability: voxels, mean probability and share of true voxels of each; and ECE.

    Empty bins hold nan in ``confidence`` and ``frequency``.
    """

    voxels: npt.NDArray[np.int64]
    confidence: FloatArray
    frequency: FloatArray
    ece: float

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values; None in an empty bin."""
        shares = {key: [None if np.isnan(v) else float(v) for v in getattr(self, key)] for key in SHARES}
        return {"voxels": self.voxels.tolist(), **shares, "ece": self.ece}


def probability_figures(probability: npt.NDArray[np.floating[Any]], truth: Mask, region: Mask) -> dict[str, Any]:
    """Return ``auc_roc``, ``brier``, ``ece``, ``roc``, ``reliability`` and ``n_voxels`` of a class inside ``region``.

    Args:
        probability: Probability of the class, shape (X, Y, Z), in [0, 1].
        truth: Reference mask of the same shape.
        region: Voxels that count (see :func:`grown`).

    Returns:
        The figures; all None if the region is empty, and AUC and ROC None if it holds one class only.
    """
    chosen, real = probability[region].astype(np.float64), truth[region]
    if not len(chosen):
        return {"auc_roc": None, "brier": None, "ece": None, "roc": None, "reliability": None, "n_voxels": 0}
    bins = calibration(chosen, real)
    return {
        "auc_roc": auc_roc(chosen, real),
        "brier": float(np.mean((chosen - real) ** 2)),
        "ece": bins.ece,
        "roc": roc_curve(chosen, real),
        "reliability": bins.as_json(),
        "n_voxels": len(chosen),
    }


def auc_roc(probability: npt.NDArray[np.floating[Any]], truth: Mask) -> float | None:
    """Area under the ROC curve: the chance that a true voxel has the higher probability, ties counting half.

    Args:
        probability: Any monotone score, one-dimensional.
        truth: Whether each is of the class.

    Returns:
        The area; None if all or none are of the class.

    Example:
        >>> auc_roc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    steps = _steps(probability, truth)
    return None if steps is None else float(np.trapezoid(steps[1], steps[0]))


def roc_curve(probability: npt.NDArray[np.floating[Any]], truth: Mask) -> list[float] | None:
    """True-positive rates at the false-positive rates :data:`FALSE_RATES`, linear between thresholds.

    Args:
        probability: As for :func:`auc_roc`.
        truth: As for :func:`auc_roc`.

    Returns:
        101 rates, the highest where the curve is vertical; None if all or none are of the class.
    """
    steps = _steps(probability, truth)
    if steps is None:
        return None
    last = np.append(np.diff(steps[0]) > 0, True)  # of equal false-positive rates the highest true-positive one
    return [float(rate) for rate in np.interp(FALSE_RATES, steps[0][last], steps[1][last])]


def _steps(probability: npt.NDArray[np.floating[Any]], truth: Mask) -> tuple[FloatArray, FloatArray] | None:
    """False- and true-positive rates, both from 0 to 1, as the threshold falls; None if a class is absent."""
    n_true = int(truth.sum())
    n_false = len(truth) - n_true
    if n_true == 0 or n_false == 0:
        return None
    _, place = np.unique(probability, return_inverse=True)
    trues = np.bincount(place, weights=truth)[::-1]
    falses = np.bincount(place)[::-1] - trues
    return np.cumsum(np.append(0.0, falses)) / n_false, np.cumsum(np.append(0.0, trues)) / n_true


def calibration(probability: npt.NDArray[np.floating[Any]], truth: Mask, *, bins: int = BINS) -> Calibration:
    """Compare probabilities with frequencies in ``bins`` equal bins; ECE is their mean gap, weighted by voxels.

    Example:
        >>> calibration(np.array([0.25, 0.25, 0.75, 0.75]), np.array([False, False, True, True]), bins=2).ece
        0.25
    """
    place = np.minimum((probability * bins).astype(np.intp), bins - 1)
    voxels = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, weights=probability, minlength=bins) / voxels
        frequency = np.bincount(place, weights=truth, minlength=bins) / voxels
    filled = voxels > 0
    gaps = np.abs(confidence[filled] - frequency[filled])
    return Calibration(voxels, confidence, frequency, float((gaps * voxels[filled]).sum() / voxels.sum()))


def pooled_reliability(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the bins of several cases as those of one, and the ``ece`` over all their voxels.

    Args:
        cases: What :meth:`Calibration.as_json` gave, in the same bins.
    """
    voxels = np.array([case["voxels"] for case in cases])
    sums = {key: np.array([case[key] for case in cases], dtype=np.float64) * voxels for key in SHARES}
    total = voxels.sum(0)
    with np.errstate(invalid="ignore"):
        means = {key: np.nansum(values, axis=0) / total for key, values in sums.items()}
    filled = total > 0
    gaps = np.abs(means["confidence"] - means["frequency"])[filled]
    return Calibration(total, **means, ece=float(gaps @ total[filled] / total.sum())).as_json()


def grown(mask: Mask, spacing: Spacing, *, margin_mm: float = MARGIN_MM) -> Mask:
    """Grow a mask (X, Y, Z) by ``margin_mm`` along each axis, in whole voxels, rounded up; empty stays empty."""
    wider = mask.astype(np.uint8)
    for axis, size in enumerate(check_spacing(spacing)):
        wider = ndimage.maximum_filter1d(wider, 2 * int(np.ceil(margin_mm / size)) + 1, axis=axis, mode="constant")
    return np.asarray(wider > 0)
