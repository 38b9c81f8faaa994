"""When a trainer takes a step of its optimizer: after each batch, or after several whose gradients are added up."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler


def steps_an_epoch(batches: int, accumulate_steps: int = 1) -> int:
    """Return how many steps the optimizer takes in an epoch of so many batches; the last may be of fewer batches."""
    return -(-batches // accumulate_steps)


def schedule_length(each: str, max_epochs: int, loader: Sized, accumulate_steps: int = 1) -> int:
    """Return how often a learning rate moves in a training.

    Args:
        each: ``epoch`` or ``step`` (of the optimizer).
        max_epochs: Epochs.
        loader: Gives the batches of an epoch.
        accumulate_steps: Batches of a step.

    Raises:
        ValueError: If ``each`` is something else.
    """
    if each not in ("epoch", "step"):
        raise ValueError(f"lr_step_each is {each!r}; expected epoch or step")
    return max_epochs if each == "epoch" else max_epochs * steps_an_epoch(len(loader), accumulate_steps)


def is_step(engine: Engine, iteration: int) -> bool:
    """Tell whether MONAI's trainer takes a step in this iteration, counted from 1 over all epochs."""
    length: int = engine.state.epoch_length
    batch = (iteration - 1) % length + 1
    accumulate_steps: int = getattr(engine, "accumulation_steps", 1)
    return batch == length or batch % accumulate_steps == 0


STEP_COMPLETED = Events.ITERATION_COMPLETED(event_filter=is_step)


def steps_done(engine: Engine) -> int:
    """Return how many steps were taken since the first epoch, the one just completed included."""
    length: int = engine.state.epoch_length
    accumulate_steps: int = getattr(engine, "accumulation_steps", 1)
    iteration: int = engine.state.iteration
    epochs, batch = divmod(iteration, length)
    return epochs * steps_an_epoch(length, accumulate_steps) + steps_an_epoch(batch, accumulate_steps)


class LrSchedule(LrScheduleHandler):
    """MONAI's LrScheduleHandler, moved on after each epoch or after each step of the optimizer.

    Args:
        lr_scheduler: Its length is counted in what ``each`` names.
        each: ``epoch`` or ``step``, as :func:`liver_pipeline.handlers.schedule.schedule_length` has it.
        options: Other arguments of LrScheduleHandler.
    """

    def __init__(self, lr_scheduler: Any, each: str = "epoch", **options: Any) -> None:
        super().__init__(lr_scheduler, print_lr=False, **options)
        self.each = each

    def attach(self, engine: Engine) -> None:
        """Move the schedule on."""
        engine.add_event_handler(Events.EPOCH_COMPLETED if self.each == "epoch" else STEP_COMPLETED, self)
