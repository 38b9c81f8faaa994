"""Keep single batches from throwing the weights far: gradients are scaled down to a greatest norm."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn


class ClipGradients:
    """Scale the gradients of a step down where their norm exceeds a limit. Attach it to the trainer.

    Args:
        network: Whose gradients.
        max_norm: Greatest Euclidean norm over all of them; None never scales.

    Raises:
        ValueError: If ``max_norm`` is not positive.
    """

    def __init__(self, network: nn.Module, max_norm: float | None) -> None:
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_gradient_norm is {max_norm}; expected a positive number, or null for no limit")
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Scale after each backward pass."""
        if self.max_norm is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        scaler = engine.scaler
        if scaler is not None and scaler.is_enabled():
            scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), float(self.max_norm or 0))
