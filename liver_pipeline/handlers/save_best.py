"""Keep the weights of the best validation, or the last ones where no validation gave a score."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from liver_pipeline.distributed import is_main_process
from liver_pipeline.io.checkpoints import save_checkpoint
from liver_pipeline.networks.weights import load_weights


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
            self._save(engine.state.epoch)

    def defend(self, validator: Engine) -> None:
        """Validate the weights that are at ``path``, if any: only better ones replace them. The network stays as it is.

        Raises:
            ValueError: If they belong to another network.
        """
        if not self.path.is_file():
            return
        own = copy.deepcopy(self.network.state_dict())
        load_weights(self.network, self.path)
        self.best = math.inf  # nothing is better: they stay as they are
        validator.run()
        self.network.load_state_dict(own)
        validator.state.epoch = 0  # it was none of the training's
        metric = float(validator.state.metrics[validator.state.key_metric_name])
        self.best = metric if math.isfinite(metric) else None
        if self.best is not None:
            tqdm.write(f"the weights that are there score {metric:.3f}; only better ones replace them")

    def keep_last(self, epoch: int) -> None:
        """Save the weights as they are at the end of a training in which no validation gave a score, and say so."""
        if self.best is None:
            self._save(epoch)
            tqdm.write(
                f"no validation gave a score (none was due, there are no validation cases, or no reference holds liver "
                f"or tumor): {self.path} holds the weights of the last epoch, {epoch}"
            )

    def _save(self, epoch: int) -> None:
        if is_main_process():
            weights = {"model": self.network.state_dict(), "epoch": epoch, "metric": self.best}
            save_checkpoint(self.path, weights)
