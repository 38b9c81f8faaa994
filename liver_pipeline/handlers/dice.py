"""Dice as the validation sees it: of each class, and the mean over classes; what is undefined is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ignite.metrics import Metric

from liver_pipeline.distributed import is_main_process, sum_over_processes
from liver_pipeline.labels import CLASS_NAMES, IntArray
from liver_pipeline.metrics.overlap import Counts


def class_dice(confusions: Sequence[IntArray], index: int) -> float | None:
    """Return the mean Dice of a class over the cases where it has one; None if no reference holds the class.

    A case where reference and prediction are empty has none and is left out, as in ``evaluate``; an empty reference
    with a prediction counts 0, but where all are empty there is nothing to find, and no score either. A case whose
    reference does not know the class is left out.

    Args:
        confusions: One a case, reference rows and predicted columns, shape (K, K), or (2, 2) where the reference tells
            background and liver apart, but not liver and tumor.
        index: Of the class.
    """
    counts = [Counts.of_region(confusion, (index,)) for confusion in confusions if index < len(confusion)]
    if not any(one.n_label for one in counts):
        return None
    defined = [dice for one in counts if (dice := one.dice()) is not None]
    return math.fsum(defined) / len(defined)


class _Score(Metric):  # type: ignore[misc]  # ignite tells no types
    """A figure of the confusion matrices that ``CountOverlapd`` left in a validation's output; nan is undefined.

    Processes that train together all get the figure of the first, whose weights are kept.
    """

    def __init__(self, figure: Callable[[Sequence[IntArray]], float | None]) -> None:
        self.figure = figure
        self.confusions: list[IntArray] = []
        super().__init__()

    def reset(self) -> None:
        """Forget all cases."""
        self.confusions = []

    def update(self, output: Sequence[dict[str, Any]]) -> None:
        """Take the cases of a batch."""
        self.confusions += [item["confusion"] for item in output]

    def compute(self) -> float:
        """Return the figure."""
        value = self.figure(self.confusions) if is_main_process() else 0.0
        return float(sum_over_processes(np.array([math.nan if value is None else value]))[0])


def mean_class_dice(classes: Sequence[int] | None = None) -> Metric:
    """Return the mean of some classes' Dice (:func:`class_dice`), of those that have one; nan if none has.

    Args:
        classes: Their indices; None: all but background.
    """

    def mean(confusions: Sequence[IntArray]) -> float | None:
        counted = range(1, max(map(len, confusions), default=1)) if classes is None else classes
        found = [class_dice(confusions, index) for index in counted if confusions]
        defined = [dice for dice in found if dice is not None]
        return math.fsum(defined) / len(defined) if defined else None

    return _Score(mean)


def dice_of_each_class(num_classes: int) -> dict[str, Metric]:
    """Return :func:`class_dice` of each foreground class, under ``val_dice_liver`` and ``val_dice_tumor``."""

    def of_class(index: int) -> Metric:
        return _Score(lambda confusions: class_dice(confusions, index))

    names = [CLASS_NAMES[i] if i < len(CLASS_NAMES) else str(i) for i in range(num_classes)]
    return {f"val_dice_{names[i]}": of_class(i) for i in range(1, num_classes)}


def scores_of_each_validation(num_classes: int) -> dict[str, Metric]:
    """Return :func:`dice_of_each_class`, and ``val_foreground_accuracy``: :func:`foreground_accuracy`."""
    return {**dice_of_each_class(num_classes), "val_foreground_accuracy": _Score(foreground_accuracy)}


def foreground_accuracy(confusions: Sequence[IntArray]) -> float | None:
    """Return the share of liver and tumor voxels, over all cases, that are labelled as what they are; None without any.

    Args:
        confusions: As for :func:`class_dice`.
    """
    found = sum(int(np.diag(confusion)[1:].sum()) for confusion in confusions)
    there = sum(int(confusion[1:].sum()) for confusion in confusions)
    return found / there if there else None
