"""Dice as the validation sees it: the mean over classes, and each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.metrics import Metric
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric

from liver_pipeline.labels import CLASS_NAMES


def _dice(pick: Callable[[Any], Any]) -> Metric:
    # ignore_empty=False: an empty reference counts 1 when the prediction is empty too, else 0; it is never dropped
    metric = DiceMetric(include_background=False, reduction="mean", ignore_empty=False)
    return IgniteMetricHandler(
        metric_fn=metric, output_transform=lambda output: pick(from_engine(["pred", "label"])(output))
    )


def mean_dice() -> Metric:
    """Return the mean Dice over cases and foreground classes; an empty reference counts 1 if found empty, else 0."""
    return _dice(lambda pair: pair)


def dice_of_each_class(num_classes: int) -> dict[str, Metric]:
    """Return one mean Dice per foreground class, under ``val_dice_liver`` and ``val_dice_tumor``."""

    def only(index: int) -> Callable[[Any], Any]:
        return lambda pair: [[one_hot[[0, index]] for one_hot in side] for side in pair]

    names = [CLASS_NAMES[i] if i < len(CLASS_NAMES) else str(i) for i in range(num_classes)]
    return {f"val_dice_{names[i]}": _dice(only(i)) for i in range(1, num_classes)}
