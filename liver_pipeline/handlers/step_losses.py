"""The loss of each training step as a number, without making a GPU wait for whoever wants to know it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step.

    Attributes:
        epoch: From 1.
        iteration: From 1, over all epochs.
        value: May be nan or infinite.
        batch: What the trainer was given.
    """

    epoch: int
    iteration: int
    value: float
    batch: Any


_Waiting = tuple[int, int, torch.Tensor, "torch.cuda.Event | None", Any]


class StepLosses:
    """Reads the loss of each step: on a CPU before it is propagated back, on a GPU while the next step is computed.

    A number that is asked for at once makes the processor wait for the GPU, and then the GPU for the processor. So the
    loss is copied to the host without waiting, and read one step late, when it has long been there; that of the last
    step of an epoch is read when that step ends, before the epoch does.
    :func:`liver_pipeline.engines.training.run` attaches it.

    Attributes:
        readers: Called with each :class:`StepLoss`, in order; they may raise.
        epoch: The losses of the epoch that were read.
        last: The latest one, nan before the first.
    """

    def __init__(self) -> None:
        self.readers: list[Callable[[StepLoss], None]] = []
        self.epoch: list[float] = []
        self.last = math.nan
        self._waiting: deque[_Waiting] = deque()

    def attach(self, engine: Engine) -> None:
        """Follow the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._take)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _start(self) -> None:
        self.epoch = []
        self._waiting.clear()

    def _take(self, engine: Engine) -> None:
        loss = engine.state.output["loss"].detach()
        arrived = None
        if loss.is_cuda:
            loss = loss.to("cpu", non_blocking=True)  # into pinned memory
            arrived = torch.cuda.current_stream().record_event()
        self._waiting.append((engine.state.epoch, engine.state.iteration, loss, arrived, engine.state.batch))
        self._read_down_to(0 if arrived is None else 1)

    def _end(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0:
            self._read_down_to(0)

    def _read_down_to(self, left: int) -> None:
        """Read all but the latest ``left`` losses."""
        while len(self._waiting) > left:
            epoch, iteration, loss, arrived, batch = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            self.last = float(loss)
            self.epoch.append(self.last)
            for reader in self.readers:
                reader(StepLoss(epoch, iteration, self.last, batch))
