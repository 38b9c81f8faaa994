"""Statistics of a comparison: what wins, how sure that is, and what is left out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.comparisons import FIGURES, case_values, compare_experiments, holm, paired_test, wilcoxon_p
from liver_pipeline.metrics.statistics import group_sums, summarize


def rows(experiment: str, dice: dict[str, float | None], seed: int = 0, **patients: str) -> list[dict[str, Any]]:
    return [
        {"experiment": experiment, "seed": seed, "case": case, "patient": patients.get(case, case), "dice": value}
        for case, value in dice.items()
    ]


def test_a_planted_better_model_wins_with_an_interval_above_zero() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.uniform(0.5, 0.9, 20)  # cases differ far more than the models do
    names = [f"case{i}" for i in range(20)]
    good = dict(zip(names, hardness + 0.03 + rng.normal(0, 0.01, 20), strict=True))
    poor = dict(zip(names, hardness + rng.normal(0, 0.01, 20), strict=True))
    found = compare_experiments([*rows("good", good), *rows("poor", poor)], ["dice"])
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["n_patients"]) == ("good", "poor", 20)
    assert 0.02 < pair["ci_low"] < pair["mean"] < pair["ci_high"] < 0.04
    assert pair["p_holm"] < 0.001
    unpaired = [found["summary"][name]["dice"] for name in ("good", "poor")]
    assert unpaired[0]["ci_low"] < unpaired[1]["ci_high"]  # unpaired, nothing would have been seen


def test_equal_models_do_not_differ() -> None:
    values: dict[str, float | None] = {"a": 0.5, "b": 0.7, "c": 0.9}
    (pair,) = compare_experiments([*rows("x", values), *rows("y", values)], ["dice"])["pairs"]
    assert (pair["mean"], pair["ci_low"], pair["ci_high"], pair["p"]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),  # all of one sign: one of 2^6 patterns a side
        ([1, 2, 3, 4, 5, -6], 2 * 14 / 64),  # rank sum 6 of 21: 14 subsets of 1..6 add up to at most 6
        ([0.1, 0.0, 0.0], 1.0),  # one difference that counts: either sign is as likely
        ([0.0, 0.0], 1.0),
    ],
)
def test_signed_rank_test_by_hand(differences: list[float], expected: float) -> None:
    assert wilcoxon_p(differences) == pytest.approx(expected)


def test_signed_rank_test_counts_sign_patterns() -> None:
    differences = [0.3, -0.1, 0.7, 0.45, -0.2, 0.9, 0.05, 0.61]
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = min(ranks[np.array(differences) > 0].sum(), ranks[np.array(differences) < 0].sum())
    sums = [sum(chosen) for n in range(9) for chosen in itertools.combinations(ranks, n)]
    assert wilcoxon_p(differences) == pytest.approx(2 * np.mean([total <= seen for total in sums]))
    assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_differences_equal_but_for_rounding_are_ties() -> None:
    assert wilcoxon_p([0.3 - 0.2, 0.2 - 0.1, 0.9 - 0.8, 1e-15]) == wilcoxon_p([0.1, 0.1, 0.1])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_keeps_order_is_never_smaller_and_counts_only_tests(p_values: list[float | None]) -> None:
    known = [p for p in p_values if p is not None]
    corrected = holm(p_values)
    assert [p is None for p in corrected] == [p is None for p in p_values]
    pairs = [(p, c) for p, c in zip(p_values, corrected, strict=True) if p is not None and c is not None]
    assert all(p <= c <= 1 for p, c in pairs)
    assert all(c <= d for (p, c), (q, d) in itertools.product(pairs, pairs) if p < q)
    if known:
        smallest = min(pairs)
        assert smallest[1] == pytest.approx(min(1.0, smallest[0] * len(known)))  # as Bonferroni


def test_scans_of_one_patient_are_one_observation() -> None:
    pairs = [(0.9, 0.8), (0.9, 0.8), (0.9, 0.8), (0.5, 0.6)]
    test = paired_test([a for a, _ in pairs], [b for _, b in pairs], ["p", "p", "p", "q"])
    assert (test.n_cases, test.n_patients) == (4, 2)
    assert test.mean == pytest.approx(0.05)
    assert test.p == 1.0  # +0.1 against -0.1
    assert [test.ci_low, test.ci_high] == pytest.approx([-0.1, 0.1])  # one patient drawn twice
    sure = summarize([1.0, 1.0, 1.0, 0.0])
    grouped = summarize([1.0, 1.0, 1.0, 0.0], ["p", "p", "p", "q"])
    assert sure.mean == grouped.mean == 0.75
    assert (grouped.ci_low, grouped.ci_high) == (0.0, 1.0)


def test_group_sums_of_single_cases_leave_the_interval_as_it_was() -> None:
    values = [0.2, 0.9, 0.4, 0.6]
    assert summarize(values) == summarize(values, list("abcd"))
    assert [part.tolist() for part in group_sums(values, list("abab"))] == [[pytest.approx(0.6), 1.5], [2, 2]]


def test_a_case_undefined_in_one_run_is_undefined_and_counted() -> None:
    data = [
        *rows("x", {"a": 0.5, "b": None, "c": 0.7}, seed=0),
        *rows("x", {"a": 0.7, "b": 0.9, "c": 0.7}, seed=1),
        *rows("y", {"a": 0.4, "b": 0.4, "c": 0.4}),
    ]
    found = compare_experiments(data, ["dice"])
    summary = found["summary"]["x"]["dice"]
    assert (summary["n"], summary["n_undefined"], summary["mean"]) == (2, 1, pytest.approx(0.65))
    assert summary["seeds"] == {0: pytest.approx(0.6), 1: pytest.approx(2.3 / 3)}
    assert found["cases"]["x"]["b"]["dice"] is None
    (pair,) = found["pairs"]
    assert (pair["n_cases"], pair["mean"]) == (2, pytest.approx(0.25))


def test_experiments_are_compared_on_the_cases_that_both_have() -> None:
    data = [*rows("x", {"a": 0.5, "b": 0.6}), *rows("y", {"b": 0.5, "c": 0.1}), *rows("z", {"d": 0.3})]
    pairs = {(p["first"], p["second"]): p for p in compare_experiments(data, ["dice"])["pairs"]}
    assert (pairs["x", "y"]["n_cases"], pairs["x", "y"]["mean"]) == (1, pytest.approx(0.1))
    assert pairs["x", "y"]["ci_low"] is None  # one patient has no spread
    assert (pairs["x", "z"]["n_cases"], pairs["x", "z"]["p"], pairs["x", "z"]["p_holm"]) == (0, None, None)


def test_figures_of_a_case_come_by_their_names_and_none_stays_none() -> None:
    label = np.zeros((12, 12, 12), dtype=np.uint8)
    label[2:10, 2:10, 2:10] = 1
    pred = label.copy()
    label[4:6, 4:6, 4:6] = 2  # missed
    values = case_values(case_figures(pred, label, (1.0, 1.0, 1.0)))
    assert set(values) == set(FIGURES)
    assert (values["liver_dice"], values["tumor_dice"], values["lesion_recall"]) == (1.0, 0.0, 0.0)
    assert values["tumor_precision"] is values["tumor_hd95_mm"] is values["lesion_precision"] is None
    assert values["liver_auc_roc"] is None  # no probabilities
