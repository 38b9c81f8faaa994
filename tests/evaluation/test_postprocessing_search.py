"""The choice of post-processing steps on cases where it is known which of them help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pytest
from monai.bundle import ConfigParser

from liver_pipeline.evaluation.postprocessing_search import (
    CANDIDATES,
    Choice,
    StepConfig,
    ValidationCase,
    choose_postprocessing,
)
from liver_pipeline.labels import LabelMap
from liver_pipeline.transforms.postprocessing import CleanLabelMapd

CM = (10.0, 10.0, 10.0)  # mm: a voxel is 1 ml
KEEP, FILL = CANDIDATES[:2]
ON_LIVER: StepConfig = {**CANDIDATES[2], "max_distance_mm": 0.0}


def drop_small(min_volume_ml: float) -> StepConfig:
    """Return the config that drops small tumors."""
    return {
        "_target_": "liver_pipeline.transforms.DropSmallTumorsd",
        "keys": "pred",
        "min_volume_ml": min_volume_ml,
    }


def liver() -> LabelMap:
    """Return a cube of 216 liver voxels."""
    label_map = np.zeros((12, 12, 12), dtype=np.uint8)
    label_map[1:7, 1:7, 1:7] = 1
    return label_map


def with_voxels(label_map: LabelMap, *voxels: tuple[int, int, int], label: int) -> LabelMap:
    """Return a copy in which some voxels have ``label``."""
    painted = label_map.copy()
    for voxel in voxels:
        painted[voxel] = label
    return painted


def names(choice: Choice) -> list[str]:
    """Return the class names of the chosen steps."""
    return [step["_target_"].rpartition(".")[2] for step in choice.steps]


def row_of(choice: Choice, title: str, number: int = 1) -> dict[str, Any]:
    """Return the row of a step in one round."""
    (row,) = [row for row in choice.table if row["step"].startswith(title) and row["round"] == number]
    return row


def test_steps_that_help_are_chosen_and_others_left() -> None:
    truth = liver()
    stray = with_voxels(truth, *[(9, y, z) for y in range(8, 11) for z in range(8, 11)], label=1)
    choice = choose_postprocessing([ValidationCase(stray, truth, CM)])
    assert names(choice) == ["KeepLargestLiverd"]
    # before: 2 * 216 / (216 + 225); a case without tumors counts its liver only
    assert choice.table[0]["mean_dice"] == pytest.approx(432 / 441)
    assert choice.table[0]["tumor_dice"] is None
    assert row_of(choice, "Keep")["gain"] == pytest.approx(1 - 432 / 441)
    assert row_of(choice, "Fill")["gain"] == 0


def test_steps_run_in_the_order_of_the_candidates_not_of_their_gain() -> None:
    truth = liver()
    pred = with_voxels(truth, (9, 9, 9), label=1)
    pred[2:6, 2:6, 2:6] = 0  # the hole costs more than the stray voxel, so it is chosen first
    choice = choose_postprocessing([ValidationCase(pred, truth, CM)], [KEEP, FILL])
    assert [row["step"] for row in choice.table if row["chosen"]] == ["FillLiverHolesd()", "KeepLargestLiverd()"]
    assert choice.steps == [KEEP, FILL]


def test_a_step_is_judged_at_its_place_among_those_chosen_before() -> None:
    truth, pred = np.zeros((2, 20, 20, 20), dtype=np.uint8)
    truth[1:9, 1:9, 1:9] = 1
    pred[1:9, 1:9, 1:9], pred[3:7, 3:7, 3:7] = 1, 0  # a hole in the liver
    pred[10:19, 10:19, 10:19], pred[11:18, 11:18, 11:18] = 1, 0  # a shell that would be larger than the liver if filled
    case = ValidationCase(pred, truth, CM)
    assert choose_postprocessing([case], [KEEP, FILL]).steps == [KEEP, FILL]
    assert choose_postprocessing([case], [FILL, KEEP]).steps == [KEEP]


def test_step_that_harms_is_not_chosen() -> None:
    truth = with_voxels(liver(), (3, 3, 3), label=2)  # real tumors of one voxel
    choice = choose_postprocessing([ValidationCase(truth, truth, CM)], [drop_small(2.0)])
    assert choice.steps == []
    row = row_of(choice, "DropSmall")
    assert row["tumor_dice"] == 0
    assert row["liver_dice"] == 1  # the dropped tumor is liver, which LiTS counts the same
    assert (row["cases_better"], row["cases_worse"], row["tumor_prediction_empty"]) == (0, 1, 1)


@pytest.mark.parametrize(("min_gain", "expected"), [(0.25, ["DropSmallTumorsd"]), (0.2501, [])])
def test_false_alarm_counts_zero_before_and_one_after_and_the_margin_is_inclusive(
    min_gain: float, expected: list[str]
) -> None:
    healthy = ValidationCase(with_voxels(liver(), (3, 3, 3), label=2), liver(), CM)
    ill_map = with_voxels(liver(), *[(x, 3, 3) for x in (2, 3, 4)], label=2)
    choice = choose_postprocessing(
        [healthy, ValidationCase(ill_map, ill_map, CM)], [drop_small(2.0)], min_gain=min_gain
    )
    # healthy: liver 1, tumor 0 -> 1; ill: 1 and 1: the mean of the four figures rises from 3/4 to 1
    assert choice.table[0]["mean_dice"] == pytest.approx(0.75)
    assert choice.table[0]["tumor_reference_empty"] == 1
    assert row_of(choice, "DropSmall")["gain"] == pytest.approx(0.25)
    assert row_of(choice, "DropSmall")["tumor_both_empty"] == 1
    assert names(choice) == expected


def test_references_that_hold_nothing_choose_nothing() -> None:
    with pytest.raises(ValueError, match="no validation reference holds liver"):
        choose_postprocessing([ValidationCase(liver(), np.zeros_like(liver()), CM)])


def test_removing_every_tumor_of_healthy_cases_is_judged_on_the_same_figures() -> None:
    healthy = ValidationCase(with_voxels(liver(), (3, 3, 3), label=2), liver(), CM)
    choice = choose_postprocessing([healthy], [drop_small(2.0)])
    assert row_of(choice, "DropSmall")["tumor_dice"] == 1
    assert row_of(choice, "DropSmall")["gain"] == pytest.approx(0.5)


def test_one_threshold_of_a_step_is_chosen_the_first_of_equals() -> None:
    truth = with_voxels(liver(), *[(x, 3, 3) for x in range(2, 6)], label=2)
    pred = with_voxels(truth, (2, 5, 5), label=2)
    steps = [drop_small(0.5), drop_small(2.0), drop_small(3.0), drop_small(9.0)]
    choice = choose_postprocessing([ValidationCase(pred, truth, CM)], steps)
    assert choice.steps == [drop_small(2.0)]
    assert {row["round"] for row in choice.table} == {0, 1}  # nothing remains to try


def test_gain_of_the_second_round_counts_from_the_first() -> None:
    truth = with_voxels(liver(), *[(x, 3, 3) for x in range(2, 6)], label=2)
    pred = with_voxels(truth, (10, 10, 10), (2, 5, 5), label=2)
    choice = choose_postprocessing([ValidationCase(pred, truth, CM)], [ON_LIVER, drop_small(2.0)])
    # Dropping small tumors mends both; the other step has nothing left to do.
    assert names(choice) == ["DropSmallTumorsd"]
    assert row_of(choice, "DropTumorsOff", 1)["gain"] > 0
    assert row_of(choice, "DropTumorsOff", 2)["gain"] == 0


def test_inputs_stay_and_the_choice_is_yaml() -> None:
    truth = liver()
    pred = with_voxels(truth, (9, 9, 9), label=2)
    before = pred.copy()
    choice = choose_postprocessing([ValidationCase(pred, truth, CM)])
    np.testing.assert_array_equal(pred, before)
    built = ConfigParser({"steps": [dict(step) for step in choice.steps]}).get_parsed_content("steps")
    assert built
    assert all(isinstance(step, CleanLabelMapd) for step in built)


class Counted(Sequence[ValidationCase]):
    """Cases that count how often they are read."""

    def __init__(self, cases: Sequence[ValidationCase]) -> None:
        self.cases, self.reads = cases, 0

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> ValidationCase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ValidationCase]: ...
    def __getitem__(self, index: int | slice) -> ValidationCase | Sequence[ValidationCase]:
        return self.cases[index]

    def __iter__(self) -> Iterator[ValidationCase]:
        for case in self.cases:
            self.reads += 1
            yield case


def test_cases_are_read_once_a_round() -> None:
    cases = Counted([ValidationCase(liver(), liver(), CM)] * 3)
    choice = choose_postprocessing(cases)
    assert choice.steps == []
    assert cases.reads == 3 * 2  # as predicted, and one round in which nothing helped


def test_what_cannot_be_chosen_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation cases"):
        choose_postprocessing([])
    case = ValidationCase(liver(), liver(), CM)
    with pytest.raises(ValueError, match="no step of"):
        choose_postprocessing([case], [{"_target_": "monai.transforms.FillHolesd", "keys": "pred"}])
    with pytest.raises(ValueError, match="shape"):
        choose_postprocessing([case._replace(label=liver()[:4])])
