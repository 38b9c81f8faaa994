from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from liver_pipeline.geometry.boxes import bounding_box, joint_box
from liver_pipeline.metrics.arrays import check_spacing
from liver_pipeline.metrics.overlap import PARENCHYMA, TUMORS, WHOLE_LIVER, Counts, confusion_matrix, overlap_figures

LABELS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2))


def test_hand_counted_pair_gives_the_figures_of_the_textbook() -> None:
    label = np.zeros((2, 5, 1), dtype=np.uint8)
    label[0, :4] = 1  # four liver voxels, the last of them tumor
    label[0, 3] = 2
    pred = np.zeros_like(label)
    pred[0, 2:] = 1  # three voxels, two of them right
    counts = Counts.of_region(confusion_matrix(pred, label), WHOLE_LIVER)
    assert counts == Counts(tp=2, fp=1, fn=2, tn=5)
    figures = overlap_figures(counts)
    assert figures["dice"] == pytest.approx(4 / 7)
    assert figures["iou"] == pytest.approx(2 / 5)
    assert figures["voe"] == pytest.approx(3 / 5)
    assert figures["rvd"] == pytest.approx(-1 / 4)
    assert figures["rvd_abs"] == pytest.approx(1 / 4)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(1 / 2)
    assert figures["accuracy"] == pytest.approx(7 / 10)


def test_tumor_taken_for_liver_is_right_in_lits_reading_and_wrong_in_msd_reading() -> None:
    label = np.full((1, 1, 4), 2, dtype=np.uint8)
    pred = np.full((1, 1, 4), 1, dtype=np.uint8)
    confusion = confusion_matrix(pred, label)
    assert Counts.of_region(confusion, WHOLE_LIVER).dice() == 1.0
    assert Counts.of_region(confusion, PARENCHYMA).dice() == 0.0
    assert Counts.of_region(confusion, TUMORS).recall() == 0.0


@pytest.mark.parametrize(
    ("n_pred", "n_label", "kind", "dice", "precision", "recall", "rvd"),
    [
        (0, 0, "both_empty", None, None, None, None),
        (3, 0, "reference_empty", 0.0, 0.0, None, None),
        (0, 3, "prediction_empty", 0.0, None, 0.0, -1.0),
    ],
)
def test_empty_masks_are_named_and_leave_undefined_figures_open(
    n_pred: int,
    n_label: int,
    kind: str,
    dice: float | None,
    precision: float | None,
    recall: float | None,
    rvd: float | None,
) -> None:
    counts = Counts(tp=0, fp=n_pred, fn=n_label, tn=10)
    assert counts.emptiness == kind
    assert (counts.dice(), counts.precision(), counts.recall(), counts.rvd()) == (dice, precision, recall, rvd)
    assert counts.accuracy() == 10 / (10 + n_pred + n_label)


@given(LABELS, LABELS)
def test_confusion_matrix_counts_every_pair_of_labels(pred: np.ndarray, label: np.ndarray) -> None:
    matrix = confusion_matrix(pred, label)
    for row in range(3):
        for column in range(3):
            assert matrix[row, column] == ((label == row) & (pred == column)).sum()


@given(LABELS)
def test_bounding_box_is_tight(labels: np.ndarray) -> None:
    box = bounding_box(labels)
    if box is None:
        assert not labels.any()
        return
    for axis, edge in enumerate(np.argwhere(labels).T):
        assert (box[axis].start, box[axis].stop) == (edge.min(), edge.max() + 1)


def test_joint_box_holds_both_masks() -> None:
    one, other = np.zeros((9, 9, 9), dtype=bool), np.zeros((9, 9, 9), dtype=bool)
    one[1, 2, 3] = other[7, 0, 3] = True
    assert joint_box(one, other) == (slice(1, 8), slice(0, 3), slice(3, 4))
    assert joint_box(one & other, other & one) is None


def test_unknown_label_and_other_shape_are_refused() -> None:
    known = np.arange(3, dtype=np.uint8).reshape(3, 1, 1)
    for pair in ((known + 1, known), (known, known + 1)):  # beside labels that are known, and on one side alone
        with pytest.raises(ValueError, match="below 3"):
            confusion_matrix(*pair)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, float("nan"), 1.0)])
def test_spacing_must_be_three_positive_lengths(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        check_spacing(spacing)
