"""Networks with several outputs, as one tensor in evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class DeepSupervised(nn.Module):
    """Give the heads of a deeply supervised network as a list in training, and the full-resolution one otherwise.

    MONAI's DynUNet stacks them in training, (B, H, K, X, Y, Z), and gives one in evaluation; nnU-Net's networks give
    a list in both. The list is what MONAI's DeepSupervisionLoss takes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Any:
        """Map (B, C, X, Y, Z) to (B, K, X, Y, Z), in training to a list of such, full resolution first."""
        logits = self.network(image)
        if isinstance(logits, torch.Tensor):
            return list(torch.unbind(logits, dim=1)) if self.training else logits
        return list(logits) if self.training else logits[0]
