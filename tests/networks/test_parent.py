"""Weights that fit are taken over, others are named; a frozen part does not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from liver_pipeline.networks.parent import freeze_part, take_over
from liver_pipeline.networks.unet3d import UNet3d


def network(classes: int = 3, seed: int = 0) -> UNet3d:
    torch.manual_seed(seed)
    return UNet3d(1, classes, channels=(4, 8))


def saved(path: Path, net: nn.Module) -> Path:
    torch.save(net.state_dict(), path)
    return path


def test_all_that_fits_is_taken_over_and_half_precision_grows(tmp_path: Path) -> None:
    parent = network(seed=1).half()
    child = network(seed=2)
    assert take_over(child, saved(tmp_path / "a.pt", parent)) == []
    for name, value in child.state_dict().items():
        assert torch.equal(value, parent.state_dict()[name].to(value.dtype))
        assert value.dtype != torch.float16


def test_another_number_of_classes_leaves_the_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    child = network(classes=2, seed=2)
    before = child.head.weight.clone()
    assert take_over(child, saved(tmp_path / "a.pt", network(seed=1))) == ["head.weight", "head.bias"]
    assert torch.equal(child.head.weight, before)
    assert "head.weight, head.bias" in caplog.text


def test_another_network_is_refused_and_unchanged(tmp_path: Path) -> None:
    child = network()
    before = {name: value.clone() for name, value in child.state_dict().items()}
    with pytest.raises(ValueError, match="belongs to another network"):
        take_over(child, saved(tmp_path / "a.pt", nn.Conv3d(1, 3, 3)))
    assert all(torch.equal(value, before[name]) for name, value in child.state_dict().items())


def test_a_frozen_encoder_has_no_gradients_and_keeps_its_statistics() -> None:
    net = network()
    assert freeze_part(net, "encoder") == ["encoder"]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    net.train()
    net(torch.randn(2, 1, 8, 8, 8)).square().mean().backward()
    optimizer.step()
    after = net.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("encoder.") for name in moved)


def test_a_network_without_an_encoder_says_so() -> None:
    with pytest.raises(ValueError, match="no part that is called an encoder"):
        freeze_part(nn.Sequential(nn.Conv3d(1, 2, 1)), "encoder")
    with pytest.raises(ValueError, match="expected encoder"):
        freeze_part(network(), "decoder")
