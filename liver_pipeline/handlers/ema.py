"""An exponential moving average of a network's weights, which is what is validated and kept when it is switched on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn

from liver_pipeline.handlers.schedule import STEP_COMPLETED, steps_done


class WeightAverage:
    """Follow a network with the average ``d * average + (1 - d) * weights`` after each step of the optimizer.

    ``d`` is ``min(decay, (1 + t) / (10 + t))`` in step t, so that the random weights of the start are soon forgotten.
    Buffers, such as the statistics of batch normalisation, are copied. Attach it to the trainer.

    Args:
        network: The network that is trained.
        decay: Between 0 and 1, such as 0.999; None switches the average off: ``network`` stands for itself.
    """

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"ema_decay is {decay}; it lies between 0 and 1, such as 0.999, or is null for no average")
        self.trained, self.decay = network, decay
        self.network = network if decay is None else copy.deepcopy(network).requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        """Average after each step."""
        if self.decay is not None:
            engine.add_event_handler(STEP_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        assert self.decay is not None
        step = steps_done(engine)
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        averages: list[torch.Tensor] = list(self.network.parameters())
        weights: list[torch.Tensor] = list(self.trained.parameters())
        torch._foreach_lerp_(averages, weights, rate)
        copies: list[torch.Tensor] = list(self.network.buffers())
        if copies:
            torch._foreach_copy_(copies, list(self.trained.buffers()))

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights; nothing when switched off."""
        return {} if self.decay is None else self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        if self.decay is not None:
            self.network.load_state_dict(state)
