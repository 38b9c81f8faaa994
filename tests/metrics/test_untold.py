from __future__ import annotations

import copy

import numpy as np

from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.summaries import summarize_cases
from liver_pipeline.metrics.untold import REASON, without_tumors


def test_a_reference_without_tumors_outlined_says_nothing_of_tumors_and_all_of_the_liver() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[:2] = 1
    pred = np.roll(label, 1, axis=0)
    figures = case_figures(pred, label, (1.0, 1.0, 1.0))
    figures["probabilities"] = {"liver": {"brier": 0.1}, "tumor": {"brier": 0.2}}
    before = copy.deepcopy(figures)
    told = without_tumors(figures)
    assert figures == before
    assert set(figures) - set(told) == {"lits_groups"}
    assert told["liver"] == figures["liver"]
    for region in ("tumor", "parenchyma"):
        assert told[region].pop("reason") == REASON
        assert set(told[region].values()) == {None}
    assert set(told["tumor_burden"].values()) == {None}
    assert told["probabilities"] == {"liver": {"brier": 0.1}}
    assert told["confusion"] == [[16, 16], [16, 16]]

    beside = case_figures(label, label, (1.0, 1.0, 1.0))  # one that tells, and is right
    both = summarize_cases({"told": beside, "untold": without_tumors(before)})
    assert both["global"]["liver_dice"] == 0.75
    assert both["global"]["parenchyma_dice"] == both["global"]["lesion_dice_per_case"] == 1.0  # of one case
    assert both["summary"]["parenchyma_dice"]["n"] == both["tumor_free"]["n_cases"] == 1
    assert both["agreement"]["tumor"]["n"] == 1
