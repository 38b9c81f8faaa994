from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.lits import LARGE, grouped_case, official_case, official_summary

SPACING = (1.0, 1.0, 1.0)


def scene(tumor: str, *, size: int | None = None) -> np.ndarray:
    """A slab of liver with a row of tumor: '#' is tumor."""
    labels = np.ones((3, 3, size or len(tumor)), dtype=np.int8)
    for place, letter in enumerate(tumor):
        if letter == "#":
            labels[1, 1, place] = 2
    return labels


def assert_same(ours: Any, theirs: Any, path: str = "") -> None:
    """Compare nested figures to 1e-9 relative."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), path
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{path}[{number}]")
    else:
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12), path


@pytest.mark.real_data
def test_worked_cases_are_reached_to_1e_9(real_data: Path) -> None:
    folder = real_data.parent / "lits_scoring"
    for case, figures in json.loads((folder / "expected.json").read_text())["cases"].items():
        images = [nib.load(folder / side / f"{case}.nii.gz") for side in ("pred", "truth")]
        pred, label = (np.asarray(image.dataobj).astype(np.int8) for image in images)
        spacing = images[1].header.get_zooms()
        assert_same(official_case(pred, label, spacing), figures["official"], f"{case}/official")
        assert_same(grouped_case(pred, label, spacing), figures["corrected"], f"{case}/corrected")


def test_perfect_prediction_scores_one_in_both_readings() -> None:
    label = scene("##.#...")
    for score in (official_case, grouped_case):
        figures = score(label, label, SPACING)
        assert figures["counts"]["iou>0.5"] == {"TP": 2, "FP": 0, "FN": 0}
        assert figures["detected_lesions"]["dice"] == [1.0, 1.0]
        assert figures["lesion_dice_per_case"] == figures["liver"]["dice"] == 1.0
        assert figures["tumor_burden_diff"] == 0.0


def test_failed_merge_costs_the_program_more_lesions_than_it_had_found() -> None:
    # one prediction over three far single voxels (IoU 3 / 11) and one good lesion: 2 groups - 3 = -1
    label, pred = scene("#....#....#..###"), scene("###########..###")
    official = official_case(pred, label, SPACING)
    assert official["counts"]["iou>0.5"] == {"TP": -1, "FP": 3, "FN": 5}
    assert official["detected_lesions"] == {}  # the good lesion is lost with them
    assert grouped_case(pred, label, SPACING)["counts"]["iou>0.5"] == {"TP": 1, "FP": 1, "FN": 3}
    meant = case_figures(pred.astype(np.uint8), label.astype(np.uint8), SPACING)["lesions"]["detection"]["iou>0.5"]
    assert (meant["all"]["tp_label"], meant["all"]["fn"], meant["all"]["tp_pred"], meant["all"]["fp"]) == (1, 3, 1, 1)


def test_program_takes_the_union_with_the_wrong_lesion_where_numberings_differ() -> None:
    # An early false positive makes the prediction number 2, the reference number 1: mask value 2 does not exist, so the
    # "union" is the reference alone: 2 of 3 voxels, a hit. True IoU: 2 of 6, a miss.
    label, pred = scene("....###..."), scene("#....#####")
    official, meant = official_case(pred, label, SPACING), grouped_case(pred, label, SPACING)
    assert official["counts"]["iou>0.5"]["TP"] == 1
    assert official["detected_lesions"]["jaccard"] == [pytest.approx(2 / 6)]
    assert meant["counts"]["iou>0.5"]["TP"] == 0


def test_official_counts_depend_on_the_orientation_and_the_meant_ones_do_not() -> None:
    label, pred = scene("....###..."), scene("#....#####")
    flipped = pred[..., ::-1], label[..., ::-1]
    assert official_case(*flipped, SPACING)["counts"]["iou>0.5"]["TP"] == 0
    assert grouped_case(*flipped, SPACING)["counts"] == grouped_case(pred, label, SPACING)["counts"]


def test_no_liver_voxel_of_value_one_scores_9001_officially_even_with_tumor() -> None:
    label = scene("##..")
    only_tumor = np.where(label == 2, 2, 0).astype(np.int8)
    figures = official_case(only_tumor, label, SPACING)
    assert figures["liver"]["assd"] == figures["liver"]["rvd"] == LARGE
    assert (figures["liver"]["dice"], figures["liver"]["voe"]) == (0, 1)
    assert figures["liver_voxels"] == {"intersection": 0, "sum": 36}
    assert figures["lesion_dice_per_case"] == 1.0
    assert figures["tumor_burden_diff"] == pytest.approx(2 / 36 - LARGE)


@pytest.mark.parametrize(
    ("pred", "label", "dice"), [("....", "....", 1.0), ("#...", "....", 0.0), ("....", "#...", 0.0)]
)
def test_dice_of_empty_tumors_is_one_only_if_both_are_empty(pred: str, label: str, dice: float) -> None:
    for score in (official_case, grouped_case):
        assert score(scene(pred), scene(label), SPACING)["lesion_dice_per_case"] == dice


def test_reference_without_liver_is_refused() -> None:
    empty = np.zeros((3, 3, 3), dtype=np.int8)
    with pytest.raises(ValueError, match="no liver"):
        official_case(scene("..."), empty, SPACING)


def test_more_than_255_lesions_wrap_officially_and_are_counted_otherwise() -> None:
    label = np.ones((33, 33, 1), dtype=np.int8)
    label[::2, ::2] = 2  # 17 x 17 = 289 single voxels
    official = official_case(label, label, SPACING)
    assert grouped_case(label, label, SPACING)["counts"]["iou>0.5"]["TP"] == 289
    assert official["n_reference_lesions"] == 289
    # value 256 is 0, 257..289 share the values 1..33 with the first lesions: those unions hold two lesions
    assert official["counts"]["iou>0.5"]["TP"] < 289


def test_summary_uses_the_challenges_keys_and_pools_lesions_over_cases() -> None:
    cases = {
        "a": official_case(scene("###.."), scene("###.."), SPACING),
        "b": official_case(scene("....."), scene("#.#.."), SPACING),
    }
    summary = official_summary(cases)
    assert summary["lesion_dice_per_case"] == 0.5
    assert summary["lesion_dice_global"] == pytest.approx(2 * 3 / (3 + 3 + 0 + 2))
    assert summary["lesion_recall"] == summary["lesion_recall_greater_zero"] == pytest.approx(1 / 3)
    assert summary["lesion_precision"] == 1.0
    assert summary["lesion_dice"] == 1.0  # over the one detected lesion
    assert summary["liver_dice"] == summary["liver_dice_per_case"] == summary["liver_dice_global"] == 1.0
    assert summary["RMSE_Tumorburden"] == pytest.approx(math.sqrt((2 / 45) ** 2 / 2))
    assert summary["MAXERROR_Tumorburden"] == pytest.approx(2 / 45)


def test_summary_gives_the_programs_defaults_where_nothing_is_detected() -> None:
    summary = official_summary({"a": official_case(scene("..."), scene("#.."), SPACING)})
    assert (summary["lesion_dice"], summary["lesion_voe"], summary["lesion_assd"]) == (0, 1, LARGE)
    assert (summary["lesion_precision"], summary["lesion_recall"]) == (0, 0)


def test_over_estimated_burden_never_shows_in_the_signed_maximum() -> None:
    summary = official_summary({"a": official_case(scene("####"), scene("...."), SPACING)})
    assert summary["MAXERROR_Tumorburden"] < 0
    assert summary["RMSE_Tumorburden"] == pytest.approx(4 / 36)


def test_lits_figures_are_equal_for_all_48_axis_orders_and_flips() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(3)
    field = ndimage.gaussian_filter(rng.normal(size=(20, 18, 12)), 1.5)
    other = field + 0.5 * ndimage.gaussian_filter(rng.normal(size=field.shape), 1.0)
    label = (1 + (field > 0.15)).astype(np.uint8)
    pred = (1 + (other > 0.15)).astype(np.uint8)
    spacing = (0.7, 0.8, 2.5)
    expected = case_figures(pred, label, spacing)["lits_groups"]
    for order in itertools.permutations(range(3)):
        turned = spacing[order[0]], spacing[order[1]], spacing[order[2]]
        for steps in itertools.product((1, -1), repeat=3):
            flip = tuple(slice(None, None, step) for step in steps)
            figures = grouped_case(pred.transpose(order)[flip], label.transpose(order)[flip], turned)
            assert figures["counts"] == expected["counts"]
            for key, values in expected["detected_lesions"].items():
                assert sorted(figures["detected_lesions"][key]) == pytest.approx(sorted(values), rel=1e-9)
