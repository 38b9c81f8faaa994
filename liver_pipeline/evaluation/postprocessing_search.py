"""Choose on validation cases which post-processing steps help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from monai.bundle import ConfigComponent

from liver_pipeline.io.screen import with_bar
from liver_pipeline.labels import FloatArray, LabelMap
from liver_pipeline.metrics.overlap import TUMORS, WHOLE_LIVER, Counts, as_told, confusion_matrix
from liver_pipeline.transforms.postprocessing import CleanLabelMapd

StepConfig: TypeAlias = Mapping[str, Any]  # an item of `postprocessing::transforms` as YAML has it

CANDIDATES: Final[tuple[StepConfig, ...]] = (
    {"_target_": "liver_pipeline.transforms.postprocessing.KeepLargestLiverd", "keys": "pred"},
    {"_target_": "liver_pipeline.transforms.postprocessing.FillLiverHolesd", "keys": "pred"},
    *(
        {
            "_target_": "liver_pipeline.transforms.postprocessing.DropTumorsOffLiverd",
            "keys": "pred",
            "max_distance_mm": distance_mm,
        }
        for distance_mm in (0.0, 5.0, 10.0)
    ),
    *(
        {
            "_target_": "liver_pipeline.transforms.postprocessing.DropSmallTumorsd",
            "keys": "pred",
            "min_volume_ml": volume_ml,
        }
        for volume_ml in (0.02, 0.1, 0.5)  # balls of 3.4, 5.8 and 9.8 mm; RECIST measures lesions from 10 mm
    ),
)


class ValidationCase(NamedTuple):
    """A predicted and a reference label map, (X, Y, Z) uint8 on one grid, and their voxel size in mm along X, Y, Z."""

    pred: LabelMap
    label: LabelMap
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Choice:
    """What :func:`choose_postprocessing` found.

    Attributes:
        steps: The chosen configs, in the order in which they run; empty where none helps.
        table: One row for each trial: ``round`` (0: the predictions as they are), ``step``, ``liver_dice``,
            ``tumor_dice`` (None where no case has a tumor), ``mean_dice``, ``gain`` over the steps chosen before,
            ``cases_better``, ``cases_worse``, ``tumor_both_empty``, ``tumor_reference_empty`` (false alarms),
            ``tumor_prediction_empty`` (missed) as numbers of cases, and ``chosen``.
    """

    steps: list[StepConfig]
    table: list[dict[str, Any]]


def choose_postprocessing(
    cases: Sequence[ValidationCase], candidates: Sequence[StepConfig] = CANDIDATES, *, min_gain: float = 0.001
) -> Choice:
    """Choose greedily the steps that raise the mean Dice of liver and tumor.

    Each round tries every candidate together with the steps chosen so far, and keeps the best if it gains enough. Steps
    run in the order of ``candidates``, not in that of their choice; of several with the same step name (one step
    with different thresholds) at most one is chosen, of equally good ones the first.

    Dice is counted per case: of the liver as LiTS reads it (label >= 1) and of the tumor. A region that is empty in
    both maps scores 1, in one of them 0, as in the LiTS ranking, so that all steps are judged on the same cases; the
    table says how many were empty. Tumors are left out of the mean where no case has one, predicted or real; where a
    reference does not tell them from liver, they count as empty in both.

    Args:
        cases: The validation cases. Each is asked for once a round, so a sequence may read them from disk.
        candidates: Configs of the transforms of :mod:`liver_pipeline.transforms.postprocessing`, in the order in which
            they would run.
        min_gain: Smallest rise of the mean Dice for which a step is kept: a step that gains less costs time and
            has most likely been fitted to these few cases.

    Returns:
        The chosen configs and the table of all trials.

    Raises:
        ValueError: If there is no case, no reference holds liver or tumor (whatever removes most would be chosen), a
            candidate is no cleaning transform, or two maps differ in shape.
    """
    if len(cases) == 0:
        raise ValueError("no validation cases; post-processing is chosen on cases that have a reference label map")
    steps = [_step(config) for config in candidates]
    chosen: list[int] = []
    current = _try_orders(cases, steps, [[]])[0]
    if not any(counts.n_label for counts in current.liver):
        raise ValueError("no validation reference holds liver (1) or tumor (2); are these the label maps?")
    with_tumor = any(counts.emptiness != "both_empty" for counts in current.tumor)
    table = [_row(0, "as predicted", current, current, with_tumor)]
    for number in count(1):
        taken = {steps[i].name for i in chosen}
        remaining = [i for i, step in enumerate(steps) if step.name not in taken]
        trials = _try_orders(cases, steps, [sorted([*chosen, i]) for i in remaining])
        rows = [
            _row(number, _title(candidates[i]), trial, current, with_tumor)
            for i, trial in zip(remaining, trials, strict=True)
        ]
        table += rows
        best = max(range(len(rows)), key=lambda k: float(rows[k]["gain"]), default=None)
        if best is None or rows[best]["gain"] < min_gain:
            break
        rows[best]["chosen"] = True
        chosen.append(remaining[best])
        current = trials[best]
    return Choice(steps=[candidates[i] for i in sorted(chosen)], table=table)


class _Trial(NamedTuple):
    """Voxel counts of liver and tumor, one item for each case."""

    liver: list[Counts]
    tumor: list[Counts]

    def case_dice(self, with_tumor: bool) -> FloatArray:
        """Return the Dice of each case: the mean of liver and tumor, or the liver's alone."""
        regions = (self.liver, self.tumor) if with_tumor else (self.liver,)
        dices: FloatArray = np.mean([_dices(counts) for counts in regions], axis=0)
        return dices


def _dices(counts: Sequence[Counts]) -> FloatArray:
    """Return the Dice of each case; 1 where both maps are empty."""
    dices = [case.dice() for case in counts]
    return np.array([1.0 if dice is None else dice for dice in dices])


def _step(config: StepConfig) -> CleanLabelMapd:
    """Build the transform that a config names."""
    step = ConfigComponent(config=dict(config)).instantiate()
    if not isinstance(step, CleanLabelMapd):
        raise ValueError(
            f"{config} is no step of liver_pipeline.transforms.postprocessing, but a {type(step).__name__}"
        )
    return step


def _title(config: StepConfig) -> str:
    """Return the name and thresholds of a step, such as ``DropSmallTumorsd(min_volume_ml=0.1)``."""
    options = [f"{key}={value}" for key, value in config.items() if key not in ("_target_", "keys")]
    return f"{config['_target_'].rpartition('.')[2]}({', '.join(options)})"


def _try_orders(
    cases: Sequence[ValidationCase], steps: Sequence[CleanLabelMapd], orders: Sequence[Sequence[int]]
) -> list[_Trial]:
    """Return the counts of all cases after each of several orders of steps; every case is read once."""
    trials = [_Trial([], []) for _ in orders]
    if not orders:
        return trials
    for pred, label, spacing in with_bar(cases, "Trying steps", "case"):
        for order, trial in zip(orders, trials, strict=True):
            cleaned = pred
            for i in order:
                cleaned = steps[i].clean(cleaned, spacing)
            confusion = confusion_matrix(*as_told(cleaned, label)[:2])
            trial.liver.append(Counts.of_region(confusion, WHOLE_LIVER))
            trial.tumor.append(Counts.of_region(confusion, TUMORS))
    return trials


def _row(number: int, title: str, trial: _Trial, before: _Trial, with_tumor: bool) -> dict[str, Any]:
    """Return a row of the table."""
    dices = trial.case_dice(with_tumor)
    gains = dices - before.case_dice(with_tumor)
    empties = [counts.emptiness for counts in trial.tumor]
    return {
        "round": number,
        "step": title,
        "liver_dice": float(_dices(trial.liver).mean()),
        "tumor_dice": float(_dices(trial.tumor).mean()) if with_tumor else None,
        "mean_dice": float(dices.mean()),
        "gain": float(gains.mean()),
        "cases_better": int(np.count_nonzero(gains > 0)),
        "cases_worse": int(np.count_nonzero(gains < 0)),
        **{f"tumor_{kind}": empties.count(kind) for kind in ("both_empty", "reference_empty", "prediction_empty")},
        "chosen": False,
    }
