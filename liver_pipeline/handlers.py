"""Ignite handlers that YAML names: checkpoints that are whole or absent, a readable log, Dice."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.metrics import Metric
from monai.handlers import EarlyStopHandler, IgniteMetricHandler, LrScheduleHandler, from_engine
from monai.metrics import DiceMetric
from tqdm import tqdm

from liver_pipeline.checkpoints import save_checkpoint
from liver_pipeline.files import whole_file
from liver_pipeline.processes import is_main_process, process_count, sum_over_processes
from liver_pipeline.step_losses import StepLosses
from liver_pipeline.steps import STEP_COMPLETED

CLASS_NAMES = ("background", "liver", "tumor")


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; a key that only some rows have is blank in the others."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


class SaveBest:
    """Keep the weights of the validation with the best key metric, under ``{"model", "epoch", "metric"}``.

    Attach it to the evaluator.
    """

    def __init__(self, path: str | Path, network: torch.nn.Module) -> None:
        self.path, self.network = Path(path), network
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        """Save after each validation that is the best so far; a metric that is not a number never is."""
        engine.add_event_handler(Events.COMPLETED, self)

    def state_dict(self) -> dict[str, Any]:
        """Return the best metric so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.best = state["best"]

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        metric = float(engine.state.metrics[engine.state.key_metric_name])
        if metric > (-float("inf") if self.best is None else self.best):
            self.best = metric
            if is_main_process():
                save_checkpoint(
                    self.path, {"model": self.network.state_dict(), "epoch": engine.state.epoch, "metric": metric}
                )


class EarlyStop(EarlyStopHandler):
    """MONAI's EarlyStopHandler with a state that a checkpoint can hold."""

    @property
    def _ignite(self) -> EarlyStopping:
        handler: EarlyStopping | None = self._handler
        assert handler is not None, "set_trainer comes first"
        return handler

    def state_dict(self) -> dict[str, Any]:
        """Return the validations since the best one, and its score."""
        best = self._ignite.best_score
        return {"counter": self._ignite.counter, "best_score": None if best is None else float(best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; call ``set_trainer`` first."""
        self._ignite.counter, self._ignite.best_score = state["counter"], state["best_score"]


class LrSchedule(LrScheduleHandler):
    """MONAI's LrScheduleHandler, moved on after each epoch or after each step of the optimizer.

    Args:
        lr_scheduler: Its length is counted in what ``each`` names.
        each: ``epoch`` or ``step``, as :func:`liver_pipeline.steps.schedule_length` has it.
        options: Other arguments of LrScheduleHandler.
    """

    def __init__(self, lr_scheduler: Any, each: str = "epoch", **options: Any) -> None:
        super().__init__(lr_scheduler, print_lr=False, **options)
        self.each = each

    def attach(self, engine: Engine) -> None:
        """Move the schedule on."""
        engine.add_event_handler(Events.EPOCH_COMPLETED if self.each == "epoch" else STEP_COMPLETED, self)


class EpochLog:
    """One row of ``log.csv`` and one printed line an epoch: loss, learning rate, validation metrics, seconds.

    Attach it to the trainer, after the handler that validates.

    Args:
        path: Of ``log.csv``.
        validator: Has the metrics.
        optimizer: Has the learning rate.
        losses: Have those of the epoch.
    """

    def __init__(
        self, path: str | Path, validator: Engine, optimizer: torch.optim.Optimizer, losses: StepLosses
    ) -> None:
        self.path, self.validator, self.optimizer, self.losses = Path(path), validator, optimizer, losses
        self.rows: list[dict[str, Any]] = []
        self.started, self.learning_rate = time.monotonic(), math.nan

    def attach(self, engine: Engine) -> None:
        """Write after each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows written so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the file is written anew after the next epoch."""
        self.rows = list(state["rows"])

    @property
    def best(self) -> tuple[float, int] | None:
        """The best validation Dice and its epoch; the first of equals."""
        scored = [(row["val_mean_dice"], row["epoch"]) for row in self.rows if row.get("val_mean_dice") is not None]
        return max(scored, key=lambda pair: pair[0], default=None)

    def _start(self, engine: Engine) -> None:
        self.started = time.monotonic()
        self.learning_rate = self.optimizer.param_groups[0]["lr"]

    def _write(self, engine: Engine) -> None:
        epoch, losses = engine.state.epoch, self.losses.epoch
        row: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": float(sum_over_processes(np.array(sum(losses) / len(losses)))) / process_count(),
            "learning_rate": float(self.learning_rate),
            "seconds": round(time.monotonic() - self.started, 2),
            "data_wait_share": round(getattr(engine.state, "data_wait_share", 0.0), 3),
        }
        names = ["val_mean_dice", *(name for name in self.validator.state.metrics if name != "val_mean_dice")]
        validated = self.validator.state.epoch == epoch and self.validator.state.metrics
        metrics = {name: float(self.validator.state.metrics[name]) if validated else None for name in names}
        self.rows.append({**row, **metrics})
        if not is_main_process():
            return
        write_table(self.path, self.rows)
        shown = " ".join(
            f"{name.removeprefix('val_')} {value:.3f}" for name, value in metrics.items() if value is not None
        )
        best = f" | best {self.best[0]:.3f} at epoch {self.best[1]}" if self.best else ""
        progress = f"epoch {epoch}/{engine.state.max_epochs} loss {row['train_loss']:.4f}"
        tqdm.write(f"{progress} {shown}{best} | {row['seconds']:.0f} s")


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
