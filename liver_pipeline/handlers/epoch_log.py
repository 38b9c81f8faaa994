"""One line an epoch in log.csv."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from liver_pipeline.distributed import is_main_process, process_count, sum_over_processes
from liver_pipeline.handlers.step_losses import StepLosses
from liver_pipeline.io.tables import write_table


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
        metrics = {name: _defined(self.validator.state.metrics[name]) if validated else None for name in names}
        self.rows.append({**row, **metrics})
        if not is_main_process():
            return
        write_table(self.path, self.rows)
        shown = " ".join(
            f"{name if name == 'val_loss' else name.removeprefix('val_')} {value:.3f}"
            for name, value in metrics.items()
            if value is not None
        )
        best = f" | best {self.best[0]:.3f} at epoch {self.best[1]}" if self.best else ""
        progress = f"epoch {epoch}/{engine.state.max_epochs} loss {row['train_loss']:.4f}"
        tqdm.write(f"{progress} {shown}{best} | {row['seconds']:.0f} s")


def _defined(value: Any) -> float | None:
    """Return a metric as a number, None if it is undefined."""
    return float(value) if math.isfinite(value) else None
