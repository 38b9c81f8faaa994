"""Stop a training at a loss that is no number, naming the cases of that step."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from liver_pipeline.io.files import write_json


class LossNotFiniteError(ValueError):
    """The loss of a batch is nan or infinite."""


class StopAtBadLoss:
    """Stop before the weights are changed by a loss that is nan or infinite, and save which cases gave it.

    Attach it to the trainer.

    Args:
        path: JSON file with epoch, iteration, loss, cases of the batch, and smallest and largest value of the images.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Look at each loss before it is propagated back."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        loss = engine.state.output["loss"].detach()
        if torch.isfinite(loss):
            return
        batch = engine.state.batch
        cases = list(dict.fromkeys(batch.get("case", [])))
        image = batch["image"]
        record = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": str(loss.item()),
            "cases": cases,
            "image_range": [str(image.min().item()), str(image.max().item())],
        }
        write_json(self.path, record)
        raise LossNotFiniteError(
            f"the loss is {loss.item()} in epoch {engine.state.epoch}, cases {', '.join(cases)} (see {self.path}); the "
            f"last checkpoint is from before; look at these cases, or lower learning_rate"
        )
