"""A network that goes no further than a test lets it."""

from __future__ import annotations

import time
from pathlib import Path

import torch


class Gated(torch.nn.Module):
    """Liver everywhere; the file ``gate`` says how many windows may be done so far."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.gate, self.windows = Path(gate), 0
        self.scale = torch.nn.Conv3d(1, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.device.type != "meta":
            self.windows += 1
            while self.windows > int(self.gate.read_text() or 0):  # empty while the test writes it
                time.sleep(0.01)
        scores: torch.Tensor = self.scale(image)
        return scores
