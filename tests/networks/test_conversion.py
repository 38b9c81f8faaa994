"""Networks as OpenVINO's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.jit._trace import TracerWarning

from liver_pipeline.networks.conversion import converted


class Branch(nn.Module):
    """A network that looks at values, as MONAI's U-Nets look at shapes."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``image`` doubled if its sum is positive."""
        return 2 * image if bool(image.sum() > 0) else image


def test_what_tracing_says_to_writers_of_networks_reaches_no_user(recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("openvino")
    converted(Branch(), (1, 1, 8, 8), (1, 1, 8, 8))
    told = [str(warned.message) for warned in recwarn if issubclass(warned.category, TracerWarning | FutureWarning)]
    assert told == []
