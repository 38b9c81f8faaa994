"""A network for tests that is done at once, and kills its process where a scan asks for it."""

from __future__ import annotations

import os
import signal
import time

import torch

SLEEP = "STAND_IN_SLEEP"  # seconds a window, for tests that need time to kill something


class StandIn(torch.nn.Module):
    """Liver where the image is bright, tumor where it is brighter; what is brighter than any tissue kills."""

    def __init__(self, in_channels: int = 1, out_channels: int = 3) -> None:
        super().__init__()
        self.scale = torch.nn.Conv3d(in_channels, out_channels, 1)
        with torch.no_grad():
            self.scale.weight.copy_(torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1, 1))
            self.scale.bias.copy_(torch.tensor([0.0, -0.4, -1.1]))  # type: ignore[union-attr]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.device.type != "meta":
            time.sleep(float(os.environ.get(SLEEP, "0")))
            if float(image.max()) >= 1.0:  # the upper end of the HU window
                os.kill(os.getpid(), signal.SIGKILL)
        scores: torch.Tensor = self.scale(image)
        return scores
