"""Split conformal intervals: their coverage, and what they are at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from liver_pipeline.metrics.conformal import conformal_bound, volume_interval, volume_score

ML = st.floats(0.0, 5000.0)


@pytest.mark.parametrize(("n", "level"), [(20, 0.9), (37, 0.9), (25, 0.8)])
@pytest.mark.parametrize("bias", [1.0, 0.7])
def test_a_new_volume_lies_inside_as_often_as_promised(n: int, level: float, bias: float) -> None:
    """With continuous scores one more case is covered with probability ceil((n + 1) level) / (n + 1), exactly.

    Each trial draws its own validation cases and one more, so hits are binomial; a right method fails once in 10^6
    runs. A network that is biased, with errors that have heavy tails, is covered as well.
    """
    trials, rng = 4000, np.random.default_rng(7)
    truth = rng.lognormal(3.0, 1.5, (trials, n + 1))
    volumes = bias * truth * np.exp(0.2 * rng.standard_t(2, truth.shape))
    hits = 0
    for row, true in zip(volumes, truth, strict=True):
        bound = conformal_bound([volume_score(*pair) for pair in zip(row[:-1], true[:-1], strict=True)], level)
        assert bound is not None
        low, high = volume_interval(row[-1], bound)
        hits += low <= true[-1] <= high
    promised = math.ceil((n + 1) * level) / (n + 1)
    assert binom.ppf(5e-7, trials, promised) <= hits <= binom.ppf(1 - 5e-7, trials, promised)


@given(ML, ML, st.floats(0.0, 3.0))
def test_the_interval_holds_just_the_volumes_within_the_bound(volume: float, reference: float, bound: float) -> None:
    low, high = volume_interval(volume, bound)
    assert 0.0 <= low <= volume + 1e-9 and volume - 1e-9 <= high
    if abs(score := volume_score(volume, reference) - bound) > 1e-9:
        assert (low <= reference <= high) == (score < 0)


@given(ML, ML)
def test_the_score_does_not_mind_which_is_the_reference(one: float, other: float) -> None:
    assert volume_score(one, other) == pytest.approx(volume_score(other, one))
    assert volume_score(one, one) == 0.0


def test_no_tumor_where_some_is_has_a_finite_score() -> None:
    assert volume_score(0.0, math.e - 1.0) == pytest.approx(1.0)
    assert volume_interval(0.0, 1.0) == pytest.approx((0.0, math.e - 1.0))


@pytest.mark.parametrize(("n", "rank"), [(8, None), (9, 9), (19, 18), (20, 19), (99, 90)])
def test_the_bound_is_the_score_of_that_rank(n: int, rank: int | None) -> None:
    """ceil((n + 1) 0.9): with 8 cases the ninth of eight would be needed, so nothing can be said."""
    scores = [float(k) for k in range(n, 0, -1)]
    assert conformal_bound(scores, 0.9) == (None if rank is None else float(rank))
