from __future__ import annotations

import numpy as np
import pytest

from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.lits import grouped_case, official_summary
from liver_pipeline.metrics.summaries import summarize_cases

SPACING = (1.0, 1.0, 2.0)


def scene(row: str) -> np.ndarray:
    """A row of tumor ('#') in liver; '_' is a layer of background."""
    labels = np.ones((3, 3, len(row)), dtype=np.uint8)
    for place, letter in enumerate(row):
        if letter == "_":
            labels[..., place] = 0
        elif letter == "#":
            labels[1, 1, place] = 2
    return labels


def test_figures_over_cases_are_the_challenges_where_each_lesion_has_one_partner() -> None:
    rows = {
        "a": ("_###..#..", "_####...."),
        "missed": (".........", "#.#......"),
        "invented": ("..####.##", "_........"),
        "right": ("_####..##", "_####..##"),
        "small": ("__#....__", "###..###_"),
    }
    pairs = {case: (scene(pred), scene(label)) for case, (pred, label) in rows.items()}
    meant = summarize_cases({case: case_figures(*pair, SPACING) for case, pair in pairs.items()})
    ours = meant["global"]
    for key, theirs in official_summary({case: grouped_case(*pair, SPACING) for case, pair in pairs.items()}).items():
        assert ours[key] == pytest.approx(theirs, rel=1e-9), key
        if key.startswith(("lesion_precision", "lesion_recall")):
            assert ours[key.replace("lesion", "lits_groups")] == ours[key]
    counted = {"iou>0": (4, 3, 3), "iou>0.5": (3, 4, 4)}  # right, invented and missed ones
    for name, (tp, fp, fn) in counted.items():
        found = meant["detection"][name]["all"]
        assert (found["tp_pred"], found["fp"], found["tp_label"], found["fn"]) == (tp, fp, tp, fn)
    assert ours["MAXERROR_Tumorburden"] == pytest.approx(6 / 72 - 1 / 45)
    assert ours["MAXABSERROR_Tumorburden"] == pytest.approx(6 / 81)  # of the invented ones: too much tumor
    free = meant["tumor_free"]
    assert (free["n_cases"], free["n_clean"], free["false_positive_ml"]["mean"]) == (1, 0, pytest.approx(6 * 2 / 1000))


def test_without_a_case_there_is_nothing_to_sum_up() -> None:
    for sum_up in (summarize_cases, official_summary):
        with pytest.raises(ValueError, match="no case was scored"):
            sum_up({})
