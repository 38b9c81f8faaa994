"""Stop a training at a loss that is no number, naming the cases of that step."""

from __future__ import annotations

import math
from pathlib import Path

from ignite.engine import Engine

from liver_pipeline.handlers.step_losses import StepLoss, StepLosses
from liver_pipeline.io.files import write_json


class LossNotFiniteError(ValueError):
    """The loss of a batch is nan or infinite."""


class StopAtBadLoss:
    """Stop when the loss of a step is nan or infinite, and save which cases gave it; no checkpoint knows that step.

    Attach it to the trainer.

    Args:
        path: JSON file with epoch, iteration, loss, cases of the batch, and smallest and largest value of the images.
        losses: Tells of each loss.
    """

    def __init__(self, path: str | Path, losses: StepLosses) -> None:
        self.path, self.losses = Path(path), losses

    def attach(self, engine: Engine) -> None:
        """Look at each loss as soon as it is read."""
        self.losses.readers.append(self)

    def __call__(self, step: StepLoss) -> None:  # noqa: D102 (attach says it)
        if math.isfinite(step.value):
            return
        cases = list(dict.fromkeys(step.batch.get("case", [])))
        image = step.batch["image"]
        record = {
            "epoch": step.epoch,
            "iteration": step.iteration,
            "loss": str(step.value),
            "cases": cases,
            "image_range": [str(image.min().item()), str(image.max().item())],
        }
        write_json(self.path, record)
        raise LossNotFiniteError(
            f"the loss is {step.value} in epoch {step.epoch}, cases {', '.join(cases)} (see {self.path}); the "
            f"last checkpoint is from before; look at these cases, or begin anew: --restart, with a lower learning_rate"
        )
