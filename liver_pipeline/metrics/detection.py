"""Which lesions count as found, as partly found, and as not, and the counts of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from liver_pipeline.metrics.lesions import Group

FOUND_IOU = 0.5  # a lesion is found where the IoU of its group is above, as in LiTS


@dataclass(frozen=True)
class Detection:
    """Which lesions are found at one threshold.

    ``tp_label`` and ``fn`` count reference lesions, ``tp_pred`` and ``fp`` predicted ones: a merge finds several
    references with one prediction, a split one reference with several.
    """

    tp_label: int
    fn: int
    tp_pred: int
    fp: int

    def __add__(self, other: Detection) -> Detection:
        return Detection(
            self.tp_label + other.tp_label, self.fn + other.fn, self.tp_pred + other.tp_pred, self.fp + other.fp
        )

    def precision(self) -> float | None:
        """Share of predicted lesions that are real, in [0, 1]; None without predicted lesions."""
        return None if self.tp_pred + self.fp == 0 else self.tp_pred / (self.tp_pred + self.fp)

    def recall(self) -> float | None:
        """Share of reference lesions that are found, in [0, 1]; None without reference lesions."""
        return None if self.tp_label + self.fn == 0 else self.tp_label / (self.tp_label + self.fn)

    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; 0 if one of them is 0, None if one is undefined and neither is 0."""
        precision, recall = self.precision(), self.recall()
        if precision == 0 or recall == 0:
            return 0.0
        if precision is None or recall is None:
            return None
        return 2 * precision * recall / (precision + recall)


def passes(group: Group, min_iou: float) -> bool:
    """Whether a group counts as found: any overlap at 0, else an IoU strictly above (exactly 0.5 is a miss at 0.5)."""
    return group.iou > min_iou


def group_status(group: Group) -> str:
    """Return ``found`` for the lesions of a group that passes :data:`FOUND_IOU`, ``partial`` for those of another."""
    return "found" if passes(group, FOUND_IOU) else "partial"


def detect(
    groups: Iterable[Group],
    *,
    min_iou: float,
    pred_ids: Iterable[int],
    label_ids: Iterable[int],
) -> Detection:
    """Count lesions in passing groups as found and all others as missed or invented.

    Args:
        groups: Groups of :func:`liver_pipeline.metrics.lesions.match_lesions`.
        min_iou: A group passes if its IoU is strictly above; 0 means any overlap.
        pred_ids: Predicted lesions that count (all, or those of one size class).
        label_ids: Reference lesions that count.

    Returns:
        The counts; zeros without lesions.
    """
    passing = [group for group in groups if passes(group, min_iou)]
    found_preds = {i for group in passing for i in group.pred_ids}
    found_labels = {i for group in passing for i in group.label_ids}
    preds, labels = set(pred_ids), set(label_ids)
    return Detection(
        tp_label=len(labels & found_labels),
        fn=len(labels - found_labels),
        tp_pred=len(preds & found_preds),
        fp=len(preds - found_preds),
    )
