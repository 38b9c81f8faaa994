"""A training that begins with the weights of another one: what fits is taken over, a part may stay as it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from liver_pipeline.networks.weights import read_weights

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.5  # of a network's values that must fit: else the weights are another network's
# What the encoder is called in the networks of configs/network: in MONAI, segmentation_models_pytorch, torchvision,
# dynamic_network_architectures and our own.
ENCODERS = ("encoder", "swinViT", "convInit", "down_layers", "input_block", "downsamples", "conv_0", "down_1", "down_2",
            "down_3", "down_4", "backbone")  # fmt: skip


def take_over(network: nn.Module, path: str | Path) -> list[str]:
    """Put those weights of a file into a network that fit by name and shape; half precision becomes the network's own.

    Args:
        network: Changed in place.
        path: See :func:`~liver_pipeline.networks.weights.load_weights`.

    Returns:
        Names of the network's weights that the file has not, or in another shape: they stay as they are, and are named
        in the log.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be used, or less than half of the network would come from it.
    """
    state = read_weights(Path(path))[1]
    left = not_fitting(network, state)
    own = network.state_dict()
    values = {key: tensor.numel() for key, tensor in own.items()}
    if sum(values[key] for key in left) > LEAST_SHARE * sum(values.values()):
        raise ValueError(
            f"{path} belongs to another network: {len(left)} of its {len(own)} weights do not fit (first {left[0]}); "
            f"use the network_def it was trained with"
        )
    if left:
        logger.warning("not taken over from %s, they begin with random values: %s", path, ", ".join(left))
    network.load_state_dict({**own, **{key: state[key] for key in own if key not in left}})
    return left


def not_fitting(network: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Return the names of a network's weights that a state dict has not, or in another shape."""
    own = network.state_dict()
    return [key for key, tensor in own.items() if key not in state or state[key].shape != tensor.shape]


def freeze_part(network: nn.Module, part: str) -> list[str]:
    """Keep a part of a network as it is in a training: its weights, and its running statistics.

    Args:
        network: Changed in place.
        part: "encoder".

    Returns:
        Names of the modules that are frozen.

    Raises:
        ValueError: If the network has no such part, or another one is named.
    """
    if part != "encoder":
        raise ValueError(f"freeze is {part!r}; expected encoder")
    names = [name for name, _ in network.named_modules(remove_duplicate=False) if name.rpartition(".")[2] in ENCODERS]
    if not names:
        raise ValueError(f"{type(network).__name__} has no part that is called an encoder; train without freeze")
    for name in names:
        module = network.get_submodule(name)
        module.requires_grad_(False)
        for leaf in module.modules():
            if not list(leaf.children()):
                leaf.register_forward_pre_hook(_stay)
    return names


def _stay(module: nn.Module, inputs: Any) -> None:
    """Keep normalisation and dropout as at inference."""
    module.eval()
