"""Which windows a network takes and what it makes of them, found without computing: tensors have shapes, no memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

STEPS = (2, 4, 8, 16, 32, 64, 128)


def next_side(side: int, least: int) -> int:
    """Return the shortest side of a window, at least ``least`` voxels, that suits a network which takes ``side``.

    Networks halve a window a few times: what suits them are multiples of a power of two, of 32 at most.
    """
    step = math.gcd(side, 32)
    return max(1, -(-least // step)) * step


def roi_multiple(network: nn.Module, roi_size: Sequence[int], in_channels: int) -> int:
    """Return the factor by which a network reduces a window at its deepest: sides are multiples of it.

    Args:
        network: As built from its config.
        roi_size: A window that it takes, in voxels.
        in_channels: Channels of the image.
    """
    side = roi_size[0]
    sides = {side}

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() in (4, 5):
            sides.add(output.shape[2])

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        forward_heads(network, torch.empty(2, in_channels, *roi_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return side // min(n for n in sides if n > 1 and side % n == 0)  # 1: global pooling, which takes any size


def window_fault(network: nn.Module, roi_size: Sequence[int], in_channels: int, num_classes: int) -> str:
    """Say what is wrong with windows of a size for a network; "" if it maps them to a channel for each class.

    Args:
        network: As built from its config.
        roi_size: In voxels.
        in_channels: Channels of the image.
        num_classes: Classes, background included.
    """
    try:
        heads = forward_heads(network, torch.empty(2, in_channels, *roi_size, device="meta"))
    except Exception as error:  # whatever the network raises
        if isinstance(error, NotImplementedError | torch.OutOfMemoryError) or "meta tensor" in str(error):
            return ""  # a network whose operations need values cannot be looked at like this; memory is another matter
        return _window_hint(network, roi_size, in_channels) or f"fails: {' '.join(str(error).split())[:200]}"
    shape = tuple(heads[0].shape)
    wanted = (2, num_classes, *roi_size)
    return "" if shape == wanted else f"maps two windows to shape {shape}, not {wanted}"


def _window_hint(network: nn.Module, roi_size: Sequence[int], in_channels: int) -> str:
    """Name the sides that a network takes; "" if it is not the size that is wrong."""
    for step in STEPS:
        sides = [side if side == 1 else -(-side // step) * step for side in roi_size]
        try:
            multiple = roi_multiple(network, sides, in_channels)
        except Exception:  # noqa: S112  as above
            continue
        return f"takes multiples of {multiple}, such as {sides}"
    return ""


def head_count(network: nn.Module, roi_size: Sequence[int], in_channels: int) -> int:
    """Return how many outputs a network has in training; more than one with deep supervision."""
    return len(forward_heads(network, torch.empty(2, in_channels, *roi_size, device="meta")))


def forward_heads(network: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Run a network in training mode with parameters of the image's kind, such as "meta"; return its heads."""
    weights: dict[str, torch.Tensor] = {
        name: nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device=image.device), weight.requires_grad)
        for name, weight in network.named_parameters()
    }
    for name, buffer in network.named_buffers():
        weights[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=image.device)
    was_training = network.training
    output: Any = torch.func.functional_call(network.train(), weights, (image,))
    network.train(was_training)
    return list(output) if isinstance(output, list | tuple) else [output]
