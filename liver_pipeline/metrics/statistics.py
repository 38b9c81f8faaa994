"""Means with intervals, pooled ratios, and Bland-Altman agreement over cases."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from liver_pipeline.labels import FloatArray, IntArray

RESAMPLES = 2000
BOOTSTRAP_SEED = 20170904  # fixed, so that the same cases give the same interval
LEVEL = 0.95


@dataclass(frozen=True)
class FigureSummary:
    """One figure over cases: n, mean with its bootstrap 95 % interval, median, SD (n - 1), extremes.

    All but ``n`` are None where there is no value; ``sd`` and the interval need two.
    """

    n: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    median: float | None
    sd: float | None
    minimum: float | None
    maximum: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields by name."""
        return asdict(self)


def summarize(values: Sequence[float | None], groups: Sequence[Hashable] | None = None) -> FigureSummary:
    """Sum up one figure over cases; None marks a case where it is undefined, which lowers ``n``.

    Args:
        values: One value per case.
        groups: Patient of each case; None takes every case for another patient.

    Returns:
        The summary. The interval is the percentile bootstrap over patients, :data:`RESAMPLES` times, with a fixed seed.

    Example:
        >>> summarize([0.5, None, 1.0]).mean
        0.75
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return FigureSummary(0, None, None, None, None, None, None, None)
    owners = range(len(values)) if groups is None else groups
    low, high = bootstrap_ratio(*group_sums(known, [g for g, v in zip(owners, values, strict=True) if v is not None]))
    return FigureSummary(
        n=len(known),
        mean=math.fsum(known) / len(known),
        ci_low=low,
        ci_high=high,
        median=float(np.median(known)),
        sd=float(known.std(ddof=1)) if len(known) > 1 else None,
        minimum=float(known.min()),
        maximum=float(known.max()),
    )


def group_sums(values: Sequence[float] | FloatArray, groups: Sequence[Hashable]) -> tuple[FloatArray, FloatArray]:
    """Sum and count the values of each group, groups in the order in which they first come.

    Example:
        >>> group_sums([1.0, 2.0, 5.0], ["a", "b", "a"])
        (array([6., 2.]), array([2., 1.]))
    """
    numbers = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    place = [numbers[group] for group in groups]
    sums: FloatArray = np.bincount(place, weights=np.asarray(values, dtype=np.float64)).astype(np.float64)
    return sums, np.bincount(place).astype(np.float64)


def bootstrap_ratio(
    numerators: Sequence[float] | FloatArray, denominators: Sequence[float] | FloatArray
) -> tuple[float | None, float | None]:
    """Bootstrap 95 % interval of sum(numerators) / sum(denominators), cases drawn with replacement.

    Args:
        numerators: One per case, e.g. found lesions.
        denominators: One per case, e.g. lesions; ones give the interval of a mean.

    Returns:
        Lower and upper bound; None, None for fewer than two cases or if every denominator is zero. Draws whose
        denominators sum to zero are left out.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(top) < 2 or not bottom.any():
        return None, None
    draws = _draws(len(top))
    bottoms = bottom[draws].sum(axis=1)
    ratios = top[draws].sum(axis=1)[bottoms != 0] / bottoms[bottoms != 0]
    low, high = np.percentile(ratios, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _draws(n: int) -> IntArray:
    """Case numbers of each resample, shape (RESAMPLES, n); the same for the same ``n``."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(0, n, size=(RESAMPLES, n))


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman agreement of two measurements: n, mean difference (bias), SD and 95 % limits (bias +- 1.96 SD)."""

    n: int
    bias: float | None
    sd: float | None
    lower: float | None
    upper: float | None


def bland_altman(measured: Sequence[float], reference: Sequence[float]) -> Agreement:
    """Agreement of ``measured`` with ``reference`` (measured minus reference, same unit); SD and limits need two pairs.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> bland_altman([11.0, 13.0], [10.0, 10.0]).bias
        2.0
    """
    if len(measured) != len(reference):
        raise ValueError(f"{len(measured)} measured values, {len(reference)} reference values; give one of each a case")
    differences = np.asarray(measured, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if not len(differences):
        return Agreement(0, None, None, None, None)
    bias = float(differences.mean())
    if len(differences) < 2:
        return Agreement(len(differences), bias, None, None, None)
    sd = float(differences.std(ddof=1))
    return Agreement(len(differences), bias, sd, bias - 1.96 * sd, bias + 1.96 * sd)
