from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from liver_pipeline.networks.parent import take_over
from liver_pipeline.networks.weights import save_half


def small() -> Any:
    return PlainConvUNet(
        1, 2, [4, 8], torch.nn.Conv3d, 3, [1, 2], 1, 3, 1, True, torch.nn.InstanceNorm3d, {"affine": True},
        nonlin=torch.nn.LeakyReLU,
    )  # fmt: skip


def test_weights_come_back_rounded_to_half_precision_and_shared_tensors_are_written_once(tmp_path: Path) -> None:
    network = small()
    save_half(tmp_path / "half.pt", network.state_dict())
    unique = {parameter.data_ptr(): parameter.numel() for parameter in network.state_dict().values()}
    assert (tmp_path / "half.pt").stat().st_size < 2 * sum(unique.values()) + 40_000  # bytes, and names

    loaded = small()
    assert take_over(loaded, tmp_path / "half.pt") == []
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[name].half().float())
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(network(image), loaded(image), atol=0.02)


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half precision"):
        save_half(tmp_path / "half.pt", {"weight": torch.tensor([1e6])})
    assert not (tmp_path / "half.pt").exists()
