"""Keep the weights of the best validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from liver_pipeline.distributed import is_main_process
from liver_pipeline.io.checkpoints import save_checkpoint


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
