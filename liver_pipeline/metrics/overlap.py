"""Voxel counts of two label maps, and the overlap figures that follow from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import joint_box
from liver_pipeline.labels import LIVER, LIVER_OR_TUMOR, TUMOR, IntArray, LabelMap
from liver_pipeline.metrics.arrays import check_pair

WHOLE_LIVER = (LIVER, TUMOR)  # LiTS's reading: tumor is part of the liver
PARENCHYMA = (LIVER,)  # nnU-Net's and the Medical Segmentation Decathlon's reading of label 1
TUMORS = (TUMOR,)


def as_told(pred: LabelMap, label: LabelMap) -> tuple[LabelMap, LabelMap, bool]:
    """Return both maps as far as the reference tells classes apart, and whether it tells tumors from liver.

    A reference that holds ``LIVER_OR_TUMOR`` does not: tumor counts as liver then, in both. Others stay as they are.
    """
    if not (label == LIVER_OR_TUMOR).any():
        return pred, label, True
    return np.minimum(pred, np.uint8(LIVER)), np.minimum(label, np.uint8(LIVER)), False


def confusion_matrix(pred: LabelMap, label: LabelMap, *, n_classes: int = 3) -> IntArray:
    """Count voxels by reference class (rows) and predicted class (columns).

    Args:
        pred: Predicted labels, shape (X, Y, Z), values below ``n_classes``.
        label: Reference labels of the same shape.
        n_classes: Number of classes, background included.

    Returns:
        Counts, shape (n_classes, n_classes); their sum is the number of voxels. Two empty maps fill item [0, 0] only.

    Raises:
        ValueError: If the shapes differ or a value is not below ``n_classes``.

    Example:
        >>> row = np.array([[[0, 1, 2, 2]]], dtype=np.uint8)
        >>> confusion_matrix(row, np.minimum(row, 1))
        array([[1, 0, 0],
               [0, 1, 2],
               [0, 0, 0]])
    """
    check_pair(pred, label)
    box = joint_box(pred, label)
    if box is None:
        matrix = np.zeros((n_classes, n_classes), dtype=np.int64)
        matrix[0, 0] = pred.size
        return matrix
    pred_box, label_box = pred[box], label[box]
    if max(int(pred_box.max()), int(label_box.max())) >= n_classes:
        raise ValueError(f"labels must be below {n_classes}, got {int(pred_box.max())} and {int(label_box.max())}")
    matrix = _pair_counts(pred_box, label_box, n_classes)
    matrix[0, 0] += pred.size - pred_box.size
    return matrix


def _pair_counts(pred: LabelMap, label: LabelMap, n_classes: int) -> IntArray:
    """Count label pairs plane by plane, so that no wide copy of the volume exists."""
    counts = np.zeros(n_classes * n_classes, dtype=np.int64)
    for z in range(pred.shape[2]):
        pairs = label[..., z].astype(np.intp) * n_classes + pred[..., z]
        counts += np.bincount(pairs.ravel(order="K"), minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes)


@dataclass(frozen=True)
class Counts:
    """Voxels of one region: true and false positives, false and true negatives.

    A figure whose denominator is zero is None: it is undefined, neither perfect nor bad.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of_region(cls, confusion: npt.NDArray[np.integer[Any]], classes: Collection[int]) -> Counts:
        """Count the region made of ``classes`` from a matrix with reference rows and predicted columns."""
        inside = np.isin(np.arange(len(confusion)), list(classes))
        return cls(
            tp=int(confusion[np.ix_(inside, inside)].sum()),
            fp=int(confusion[np.ix_(~inside, inside)].sum()),
            fn=int(confusion[np.ix_(inside, ~inside)].sum()),
            tn=int(confusion[np.ix_(~inside, ~inside)].sum()),
        )

    @property
    def n_pred(self) -> int:
        """Predicted voxels."""
        return self.tp + self.fp

    @property
    def n_label(self) -> int:
        """Reference voxels."""
        return self.tp + self.fn

    @property
    def emptiness(self) -> str | None:
        """``both_empty``, ``reference_empty`` or ``prediction_empty``; None where both hold voxels."""
        if self.n_pred and self.n_label:
            return None
        if not self.n_pred and not self.n_label:
            return "both_empty"
        return "reference_empty" if not self.n_label else "prediction_empty"

    def dice(self) -> float | None:
        """2 |P and R| / (|P| + |R|); 0 if one is empty, None if both are."""
        return ratio(2 * self.tp, self.n_pred + self.n_label)

    def iou(self) -> float | None:
        """|P and R| / |P or R| (Jaccard); 0 if one is empty, None if both are."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    def precision(self) -> float | None:
        """Share of predicted voxels that are right; None without a prediction."""
        return ratio(self.tp, self.n_pred)

    def recall(self) -> float | None:
        """Share of reference voxels that were found; None without a reference."""
        return ratio(self.tp, self.n_label)

    def accuracy(self) -> float | None:
        """Share of all voxels that are right; background dominates it."""
        return ratio(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn)

    def rvd(self) -> float | None:
        """Relative volume difference (|P| - |R|) / |R|, signed: positive is over-segmentation; None if R is empty."""
        return ratio(self.n_pred - self.n_label, self.n_label)


def ratio(numerator: float, denominator: float) -> float | None:
    """Return numerator / denominator, or None where the denominator is zero."""
    return None if denominator == 0 else numerator / denominator


def overlap_figures(counts: Counts) -> dict[str, float | None]:
    """Return Dice, IoU, VOE, signed and absolute RVD, precision, recall, F1 and accuracy of one region.

    VOE is 1 - IoU. F1 of voxels is Dice under its other name. None marks a figure that is undefined because a mask is
    empty; :attr:`Counts.emptiness` says which.
    """
    iou, rvd = counts.iou(), counts.rvd()
    return {
        "dice": counts.dice(),
        "iou": iou,
        "voe": None if iou is None else 1 - iou,
        "rvd": rvd,
        "rvd_abs": None if rvd is None else abs(rvd),
        "precision": counts.precision(),
        "recall": counts.recall(),
        "f1": counts.dice(),
        "accuracy": counts.accuracy(),
    }
