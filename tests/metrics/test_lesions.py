from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.detection import Detection, detect
from liver_pipeline.metrics.lesions import Group, components, find_lesions, match_lesions

SPACING = (1.0, 1.0, 1.0)


def row(text: str) -> np.ndarray:
    """A mask of one voxel row: '#' is tumor."""
    return np.array([[[letter == "#" for letter in text]]])


def groups_of(pred: str, label: str) -> list[Group]:
    return match_lesions(find_lesions(row(pred), row(label)))


def counts_at(pred: str, label: str, min_iou: float) -> Detection:
    lesions = find_lesions(row(pred), row(label))
    ids = range(1, lesions.n_pred + 1), range(1, lesions.n_label + 1)
    return detect(match_lesions(lesions), min_iou=min_iou, pred_ids=ids[0], label_ids=ids[1])


def test_empty_reference_counts_every_prediction_as_false() -> None:
    found = counts_at("##.#", "....", 0)
    assert found == Detection(tp_label=0, fn=0, tp_pred=0, fp=2)
    assert (found.precision(), found.recall(), found.f1()) == (0.0, None, 0.0)


def test_empty_prediction_misses_every_lesion() -> None:
    found = counts_at("....", "##.#", 0)
    assert found == Detection(tp_label=0, fn=2, tp_pred=0, fp=0)
    assert (found.precision(), found.recall(), found.f1()) == (None, 0.0, 0.0)


def test_no_lesion_on_either_side_leaves_detection_undefined() -> None:
    found = counts_at("....", "....", 0)
    assert found == Detection(0, 0, 0, 0)
    assert (found.precision(), found.recall(), found.f1()) == (None, None, None)


def test_one_voxel_lesion_that_is_hit_has_iou_one() -> None:
    assert groups_of(".#..", ".#..") == [Group((1,), (1,), 1, 1)]
    assert counts_at(".#..", ".#..", 0.5) == Detection(1, 0, 1, 0)


def test_merged_lesions_are_all_found_by_one_prediction() -> None:
    # 8 predicted voxels over references of 3 + 3: IoU 6 / 8; two references found, one prediction right
    assert groups_of("########", "###..###") == [Group((1,), (1, 2), 6, 8)]
    assert counts_at("########", "###..###", 0.5) == Detection(tp_label=2, fn=0, tp_pred=1, fp=0)


def test_bad_merge_misses_its_references_and_is_one_false_positive() -> None:
    # IoU 2 / 8 for the group of two single voxels
    assert counts_at("########", "#......#", 0.25) == Detection(tp_label=0, fn=2, tp_pred=0, fp=1)
    assert counts_at("########", "#......#", 0.1) == Detection(tp_label=2, fn=0, tp_pred=1, fp=0)


def test_split_lesion_is_one_found_reference_and_as_many_right_predictions_as_pieces() -> None:
    assert groups_of("###.###", "#######") == [Group((1, 2), (1,), 6, 7)]
    assert counts_at("###.###", "#######", 0.5) == Detection(tp_label=1, fn=0, tp_pred=2, fp=0)


def test_iou_of_exactly_one_half_is_a_miss_at_one_half() -> None:
    assert groups_of("##..", "####")[0].iou == 0.5
    assert counts_at("##..", "####", 0.5) == Detection(0, 1, 0, 1)
    assert counts_at("###.", "####", 0.5) == Detection(1, 0, 1, 0)


def test_lesions_that_touch_by_an_edge_are_two_and_by_a_face_one() -> None:
    mask = np.zeros((2, 2, 1), dtype=bool)
    mask[0, 0] = mask[1, 1] = True
    assert components(mask)[1] == 2
    mask[0, 1] = True
    assert components(mask)[1] == 1


def test_touching_references_are_one_lesion_and_the_prediction_of_one_half_is_measured_against_both() -> None:
    # two reference tumors side by side are one component of 6; the prediction covers its first half
    assert groups_of("###...", "######") == [Group((1,), (1,), 3, 6)]


def test_lesion_at_the_border_of_the_volume_is_a_lesion() -> None:
    assert counts_at("##....", "##....", 0.5) == Detection(1, 0, 1, 0)


def test_lesions_that_one_prediction_bridges_are_merged_even_if_one_is_barely_touched() -> None:
    # 4 predicted voxels cover 1 of the first and 2 of the second reference, and no other prediction covers either
    assert groups_of("...####.", "####.###") == [Group((1,), (1, 2), 3, 4 + 7 - 3)]


def test_reference_whose_only_prediction_belongs_elsewhere_is_missed() -> None:
    # prediction 1 covers 1 voxel of reference 1 but 4 of reference 2, which prediction 2 covers with 5
    pred, label = ".######.#####", "##.##########"
    assert groups_of(pred, label) == [Group((1, 2), (2,), 9, 6 + 5 + 10 - 9)]
    assert counts_at(pred, label, 0) == Detection(tp_label=1, fn=1, tp_pred=2, fp=0)


def test_prediction_that_covers_two_merged_references_equally_joins_them() -> None:
    # prediction 1 covers 3 voxels of each reference; of the second prediction 2 covers more
    assert groups_of("#######.####", "###.########") == [Group((1, 2), (1, 2), 10, 7 + 4 + 3 + 8 - 10)]


def test_components_are_numbered_by_their_first_voxel_in_c_order() -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[2, 0, 0] = mask[0, 2, 2] = mask[1, 1, 1] = True
    numbers, count = components(np.asfortranarray(mask))
    assert count == 3
    assert (numbers[0, 2, 2], numbers[1, 1, 1], numbers[2, 0, 0]) == (1, 2, 3)


def test_small_components_can_be_left_out_on_both_sides() -> None:
    lesions = find_lesions(row("#.##.###"), row("##......"), min_voxels=2)
    assert lesions.pred_sizes.tolist() == [2, 3]
    assert lesions.label_sizes.tolist() == [2]
    assert len(lesions.overlap) == 0  # the single predicted voxel that touched is gone


MASKS = arrays(np.bool_, (4, 4, 3), elements=st.booleans())


def summary(pred: np.ndarray, label: np.ndarray) -> list[tuple[int, ...]]:
    lesions = find_lesions(pred, label)
    groups = match_lesions(lesions)
    return sorted((len(g.pred_ids), len(g.label_ids), g.intersection, g.union) for g in groups)


@settings(max_examples=60)
@given(MASKS, MASKS)
def test_groups_are_the_same_for_all_48_axis_orders_and_flips(pred: np.ndarray, label: np.ndarray) -> None:
    expected = summary(pred, label)
    for order in itertools.permutations(range(3)):
        for steps in itertools.product((1, -1), repeat=3):
            flip = tuple(slice(None, None, step) for step in steps)
            assert summary(pred.transpose(order)[flip], label.transpose(order)[flip]) == expected


@settings(max_examples=60)
@given(MASKS, MASKS)
def test_every_lesion_is_in_at_most_one_group_and_counts_add_up(pred: np.ndarray, label: np.ndarray) -> None:
    lesions = find_lesions(pred, label)
    groups = match_lesions(lesions)
    for side, count in ((0, lesions.n_pred), (1, lesions.n_label)):
        members = [i for group in groups for i in (group.pred_ids, group.label_ids)[side]]
        assert len(members) == len(set(members)) <= count
    for group in groups:
        in_pred, in_label = np.isin(lesions.pred_map, group.pred_ids), np.isin(lesions.label_map, group.label_ids)
        assert group.intersection == (in_pred & in_label).sum() > 0
        assert group.union == (in_pred | in_label).sum()


def test_case_figures_of_two_tumor_free_maps_are_open_but_liver_is_scored() -> None:
    label = np.ones((4, 4, 4), dtype=np.uint8)
    figures = case_figures(label, label, SPACING)
    assert figures["liver"]["dice"] == 1.0
    assert figures["tumor"]["dice"] is None
    assert figures["tumor"]["empty"] == "both_empty"
    assert figures["tumor"]["reason"] == "both masks are empty"
    assert figures["lits"]["lesion_dice_per_case"] == 1.0  # LiTS's rule for tumor-free cases
    assert figures["tumor_burden"] == {"prediction": 0.0, "reference": 0.0, "error": 0.0, "error_abs": 0.0}
    assert figures["lesion_list"] == []


def test_false_positive_on_a_tumor_free_case_has_a_volume() -> None:
    label = np.ones((4, 4, 4), dtype=np.uint8)
    pred = label.copy()
    pred[0, 0, :3] = 2
    figures = case_figures(pred, label, (10.0, 10.0, 10.0))
    assert figures["tumor"]["false_positive_ml"] == 3.0
    assert figures["tumor"]["dice"] == 0.0
    assert figures["lits"]["lesion_dice_per_case"] == 0.0
    assert [lesion["status"] for lesion in figures["lesion_list"]] == ["invented"]


def test_prediction_without_liver_is_scored_zero_without_9001() -> None:
    label = np.ones((4, 4, 4), dtype=np.uint8)
    figures = case_figures(np.zeros_like(label), label, SPACING)
    assert figures["liver"]["dice"] == 0.0
    assert figures["liver"]["assd_lits"] is None
    assert figures["liver"]["reason"] == "the prediction is empty"
    assert figures["lits"]["tumor_burden_diff"] is None
    assert 9001 not in figures["lits"]["liver"].values()


def test_lesion_rows_tell_size_place_and_match() -> None:
    label = np.ones((12, 12, 6), dtype=np.uint8)
    label[2:5, 2:6, 3] = 2  # 3 x 4 pixels of 1 mm: diagonal 5 mm
    label[9, 9, 1] = 2
    pred = np.ones_like(label)
    pred[2:5, 2:6, 3] = 2
    pred[0, 11, 5] = 2
    rows = case_figures(pred, label, (1.0, 1.0, 2.5))["lesion_list"]
    found, missed, invented, right = rows  # by kind, then in C order
    assert (found["kind"], found["status"], found["diameter_mm"], found["slice"]) == ("reference", "found", 5.0, 3)
    assert found["volume_ml"] == pytest.approx(12 * 2.5 / 1000)
    assert found["centroid_index"] == [3.0, 3.5, 3.0]
    assert found["matched_ids"] == [2]
    assert (missed["status"], missed["size_class"]) == ("missed", "<10mm")
    assert missed["diameter_mm"] == pytest.approx(2**0.5)  # a single pixel, corner to corner
    assert (right["kind"], right["status"]) == ("predicted", "found")
    assert (invented["status"], invented["box"]) == ("invented", [[0, 0], [11, 11], [5, 5]])
