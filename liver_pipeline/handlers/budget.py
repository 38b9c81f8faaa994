"""A training that ends by the clock: its learning rate falls with the time that has passed, and then it stops."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm


class CosineBudget(LRScheduler):
    """A cosine from the full learning rate to a small share of it, over a number of steps or a time.

    What has passed is the greater of both shares, so whichever budget ends first rules. Time counts from
    :meth:`start`; what earlier runs of the same training took is in the checkpoint. Move it on after each step.

    Args:
        optimizer: Its learning rate is the greatest one.
        max_steps: Of the optimizer.
        max_seconds: Of training and validation, or None for no limit.
        warmup_steps: Over which the rate grows linearly to what it would be.
        final_share: Of the full rate, at the end.

    Raises:
        ValueError: If a budget is not positive.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        max_steps: int,
        max_seconds: float | None = None,
        warmup_steps: int = 60,
        final_share: float = 0.01,
    ) -> None:
        if max_steps < 1 or (max_seconds is not None and max_seconds <= 0):
            raise ValueError(f"max_steps and max_seconds must be positive, got {max_steps} and {max_seconds}")
        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.warmup_steps, self.final_share = warmup_steps, final_share
        self._earlier, self._started = 0.0, math.nan
        super().__init__(optimizer)

    def start(self) -> None:
        """Let the time run from now on."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """What the training took so far, in all its runs."""
        return self._earlier + (0.0 if math.isnan(self._started) else time.monotonic() - self._started)

    @property
    def share(self) -> float:
        """What of the budget is used, 0 to 1."""
        timed = 0.0 if self.max_seconds is None else self.seconds / self.max_seconds
        return min(1.0, max(timed, self.last_epoch / self.max_steps))

    def get_lr(self) -> list[float]:  # type: ignore[override]  # PyTorch's may hold tensors
        """Return the rate of each group of parameters."""
        warm = min(1.0, (self.last_epoch + 1) / (self.warmup_steps + 1))
        wave = 0.5 * (1 + math.cos(math.pi * self.share))
        return [float(rate) * warm * (self.final_share + (1 - self.final_share) * wave) for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the steps taken and the seconds used."""
        return {"last_epoch": self.last_epoch, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.last_epoch, self._earlier = state_dict["last_epoch"], state_dict["seconds"]


class StopInTime:
    """End a training after the last epoch that its time allows, an epoch being taken to last as long as the one before.

    Attach it to the trainer, behind the handlers of an epoch's end: the last epoch is validated and saved.

    Args:
        budget: Its time is started with the training.
    """

    def __init__(self, budget: CosineBudget) -> None:
        self.budget, self._epoch_started = budget, math.nan

    def attach(self, engine: Engine) -> None:
        """Watch the clock."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self.budget.start()
        if self.budget.share >= 0.99:  # a training that is finished and was started again
            self._stop(engine)

    def _start_epoch(self) -> None:
        self._epoch_started = self.budget.seconds

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        limit, now = self.budget.max_seconds, self.budget.seconds
        if limit is not None and now + (now - self._epoch_started) > limit:
            self._stop(engine)

    def _stop(self, engine: Engine) -> None:
        tqdm.write(
            f"time is up after epoch {engine.state.epoch}: {self.budget.seconds:.0f} s; raise max_seconds to go on"
        )
        engine.terminate()
