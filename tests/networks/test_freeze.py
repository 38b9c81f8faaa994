"""Which of the networks in configs/network have an encoder that can be frozen."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.networks.parent import freeze_part
from tests.small import NETWORKS

WITHOUT = {"attention_unet", "cascade"}  # MONAI's nests its levels in each other; a cascade has two networks


def network(name: str) -> torch.nn.Module:
    overrides = {key: value for key, value in NETWORKS[name].items() if key.startswith("network_def")}
    config = merge_layers({"network": name}, overrides={**overrides, "encoder_weights": None})["train"]
    built = ConfigParser(config).get_parsed_content("network_def")
    assert isinstance(built, torch.nn.Module)
    return built


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - WITHOUT))
def test_an_encoder_is_frozen_and_what_follows_is_not(name: str) -> None:
    net = network(name)
    freeze_part(net, "encoder")
    frozen = sum(value.numel() for value in net.parameters() if not value.requires_grad)
    free = sum(value.numel() for value in net.parameters() if value.requires_grad)
    assert frozen > 0.15 * (frozen + free)
    assert free > 0
    last = list(net.parameters())[-1]
    assert last.requires_grad


def test_one_without_says_so() -> None:
    with pytest.raises(ValueError, match="no part that is called an encoder"):
        freeze_part(network("attention_unet"), "encoder")
