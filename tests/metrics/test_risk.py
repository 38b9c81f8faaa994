"""Risk over coverage: worked values, and what holds for any trust."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.metrics.risk import risk_coverage

CASES = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.6, 0.9]), st.floats(0, 1)), min_size=1, max_size=12)


def test_worked_curve() -> None:
    """Kept in the order 0.9, 0.5, 0.2: risks 0.1, 0.4, 0.4; means 0.1, 0.25, 0.3."""
    curve = risk_coverage([0.5, 0.9, 0.2], [0.4, 0.1, 0.4])
    assert curve is not None
    np.testing.assert_allclose(curve.coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.risk, [0.1, 0.25, 0.3])
    assert curve.area == pytest.approx(0.65 / 3)
    assert curve.best == pytest.approx(curve.area)
    assert curve.random == pytest.approx(0.3)


def test_trust_that_is_the_same_for_all_says_nothing() -> None:
    curve = risk_coverage([0.7] * 4, [0.0, 0.2, 0.4, 1.0])
    assert curve is not None
    np.testing.assert_allclose(curve.risk, [0.4] * 4)
    assert curve.area == pytest.approx(curve.random)


@given(CASES)
def test_any_trust_lies_between_the_best_and_the_worst_order(cases: list[tuple[float, float]]) -> None:
    trust, risk = [one for one, _ in cases], [bad for _, bad in cases]
    curve = risk_coverage(trust, risk)
    worst = risk_coverage(risk, risk)
    assert curve is not None
    assert worst is not None
    assert curve.best - 1e-9 <= curve.area <= worst.area + 1e-9
    assert curve.risk[-1] == pytest.approx(curve.random)


@given(CASES)
def test_the_order_of_cases_and_the_scale_of_trust_do_not_matter(cases: list[tuple[float, float]]) -> None:
    trust, risk = np.array([one for one, _ in cases]), np.array([bad for _, bad in cases])
    curve, turned = (
        risk_coverage(trust.tolist(), risk.tolist()),
        risk_coverage((trust[::-1] ** 3).tolist(), risk[::-1].tolist()),
    )
    assert curve is not None
    assert turned is not None
    np.testing.assert_allclose(curve.risk, turned.risk)


def test_without_cases_there_is_no_curve() -> None:
    assert risk_coverage([], []) is None


@pytest.mark.parametrize(("trust", "risk"), [([0.1], []), ([np.nan], [0.1]), ([0.1], [np.inf])])
def test_what_is_undefined_is_refused(trust: list[float], risk: list[float]) -> None:
    with pytest.raises(ValueError, match=r"trust"):
        risk_coverage(trust, risk)
