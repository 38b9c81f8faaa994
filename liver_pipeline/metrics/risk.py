"""Risk over coverage: how bad the results are that are kept when the least trusted ones are looked at by people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from liver_pipeline.labels import FloatArray


@dataclass(frozen=True)
class RiskCoverage:
    """The curve, and what bounds it.

    Attributes:
        coverage: Share of the cases kept, 1/n to 1: the most trusted ones.
        risk: Their mean risk.
        area: Under the curve, the mean of ``risk``; less is better.
        best: The area if trust followed risk exactly.
        random: The area of trust that says nothing: the mean risk.
    """

    coverage: FloatArray
    risk: FloatArray
    area: float
    best: float
    random: float


def risk_coverage(trust: Sequence[float], risk: Sequence[float]) -> RiskCoverage | None:
    """Return the risk-coverage curve with its area (Jaeger et al., ICLR 2023; Zenk et al., MedIA 2025).

    Args:
        trust: Of each case; more is better. Cases of the same trust are taken in any order: their mean counts.
        risk: Of each case, such as 1 - Dice.

    Returns:
        The curve; None without cases.

    Raises:
        ValueError: If the lengths differ, or a value is not finite.

    Example:
        >>> risk_coverage([0.9, 0.5], [0.1, 0.7]).risk.round(3).tolist()
        [0.1, 0.4]
    """
    given, bad = np.asarray(trust, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    if given.shape != bad.shape or given.ndim != 1:
        raise ValueError(f"{given.shape} values of trust, {bad.shape} of risk; expected one of each a case")
    if not (np.isfinite(given).all() and np.isfinite(bad).all()):
        raise ValueError("trust and risk must be finite; leave cases out where they are undefined")
    if not len(bad):
        return None
    _, place = np.unique(-given, return_inverse=True)
    means = np.bincount(place, weights=bad) / np.bincount(place)
    kept = _selective(means[np.sort(place)])
    best = _selective(np.sort(bad))
    coverage = np.arange(1, len(bad) + 1) / len(bad)
    return RiskCoverage(coverage, kept, float(kept.mean()), float(best.mean()), float(bad.mean()))


def _selective(ordered: FloatArray) -> FloatArray:
    """Return the mean of the first 1, 2, ... values."""
    means: FloatArray = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return means
