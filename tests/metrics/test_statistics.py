from __future__ import annotations

import numpy as np
import pytest

from liver_pipeline.metrics.statistics import bland_altman, bootstrap_ratio, summarize


def test_summary_of_known_values() -> None:
    summary = summarize([1.0, None, 2.0, 6.0])
    assert (summary.n, summary.mean, summary.median) == (3, 3.0, 2.0)
    assert (summary.minimum, summary.maximum) == (1.0, 6.0)
    assert summary.sd == pytest.approx(np.sqrt((4 + 1 + 9) / 2))


def test_values_that_are_all_undefined_give_no_mean() -> None:
    summary = summarize([None, None])
    assert (summary.n, summary.mean, summary.ci_low, summary.sd) == (0, None, None, None)


def test_one_case_has_a_mean_but_no_interval() -> None:
    summary = summarize([0.7])
    assert (summary.n, summary.mean, summary.ci_low, summary.ci_high, summary.sd) == (1, 0.7, None, None, None)


def test_interval_of_a_mean_agrees_with_the_normal_approximation_for_many_cases() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, size=400)
    summary = summarize(values.tolist())
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert summary.ci_low == pytest.approx(values.mean() - half, abs=0.03)
    assert summary.ci_high == pytest.approx(values.mean() + half, abs=0.03)


def test_interval_is_the_same_each_time() -> None:
    assert summarize([0.1, 0.5, 0.9]) == summarize([0.1, 0.5, 0.9])


def test_patients_are_drawn_not_their_scans() -> None:
    """Two scans of one patient that say the same tell no more than one."""
    alone = summarize([0.1, 0.5, 0.9, 0.4])
    twice = summarize([None, 0.1, 0.1, 0.5, 0.5, 0.9, 0.9, 0.4, 0.4], groups=["d", *"aabbccdd"])
    assert twice.n == 8
    assert twice.mean == pytest.approx(alone.mean)
    assert (twice.ci_low, twice.ci_high) == pytest.approx((alone.ci_low, alone.ci_high))


def test_equal_cases_have_an_interval_of_no_width() -> None:
    assert bootstrap_ratio([2.0, 2.0, 2.0], [4.0, 4.0, 4.0]) == (0.5, 0.5)


def test_ratio_without_denominators_has_no_interval() -> None:
    assert bootstrap_ratio([0.0, 0.0], [0.0, 0.0]) == (None, None)


def test_limits_of_agreement_are_bias_plus_and_minus_1_96_sd() -> None:
    agreement = bland_altman([12.0, 14.0, 19.0], [10.0, 10.0, 10.0])
    sd = np.std([2.0, 4.0, 9.0], ddof=1)
    assert (agreement.n, agreement.bias) == (3, 5.0)
    assert agreement.sd == pytest.approx(sd)
    assert agreement.lower == pytest.approx(5 - 1.96 * sd)
    assert agreement.upper == pytest.approx(5 + 1.96 * sd)


def test_agreement_of_one_case_is_its_difference_alone() -> None:
    agreement = bland_altman([3.0], [1.0])
    assert (agreement.bias, agreement.sd, agreement.lower) == (2.0, None, None)


def test_agreement_needs_pairs() -> None:
    with pytest.raises(ValueError, match="2 measured"):
        bland_altman([1.0, 2.0], [1.0])
