"""A 2D network that sees volumes slice by slice."""

from __future__ import annotations

import torch
from torch import nn


class Slicewise(nn.Module):
    """A 2D network applied to every axial slice of a volume.

    With a window of one slice (``roi_size: [256, 256, 1]``) sampling, sliding windows, metrics and export are those of
    a 3D network.

    Args:
        network: Maps (B, C, X, Y) to (B, K, X, Y).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, C, X, Y, Z) to (B, K, X, Y, Z), slice by slice."""
        b, c, x, y, z = image.shape
        slices = image.permute(0, 4, 1, 2, 3).reshape(b * z, c, x, y)
        logits: torch.Tensor = self.network(slices)
        return logits.reshape(b, z, logits.shape[1], x, y).permute(0, 2, 3, 4, 1)
