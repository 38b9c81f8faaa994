"""The networks of an ensemble: which there are, where they lie, and in which mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

Network = Callable[[torch.Tensor], torch.Tensor]


def members_of(network: Network | Sequence[Network]) -> list[Network]:
    """Return the networks of an ensemble; one network is an ensemble of one."""
    if isinstance(network, nn.ModuleList):
        return list(network)
    return [network] if callable(network) else list(network)


def device_of(network: Network) -> torch.device:
    """Return the device of a network's first parameter; the CPU if it has none."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


@contextmanager
def evaluating(networks: Sequence[Network]) -> Iterator[None]:
    """Put networks into eval mode and back."""
    training = [network for network in networks if isinstance(network, nn.Module) and network.training]
    for network in training:
        network.eval()
    try:
        yield
    finally:
        for network in training:
            network.train()


def on_cpu(network: Network) -> Network:
    """Return a copy of a network on the CPU."""
    return copy.deepcopy(network).cpu() if isinstance(network, nn.Module) else network
