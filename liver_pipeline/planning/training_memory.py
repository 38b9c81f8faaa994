"""How much memory a training step takes, counted without taking it: the network runs on tensors that hold nothing.

PyTorch's fake tensors have shape, type and device but no memory, also on a machine without a GPU. A forward pass with
them shows every tensor that autograd keeps for the backward pass, under mixed precision as without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from liver_pipeline.networks.shapes import forward_heads

ADAM_BYTES = 16  # a parameter: weight, gradient and two moments in 32 bits; SGD with momentum takes 12
LOSS_TENSORS = 4  # of the size of the logits in 32 bits that softmax, one-hot labels and the loss keep
BACKWARD_TENSORS = 2  # of the largest size: gradients of a layer's input and output at the same time


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step takes: ``fixed``, and ``per_window`` for each window of ``roi_size``."""

    fixed: float
    per_window: float
    roi_size: tuple[int, ...]

    def windows(self, budget: float, roi_size: Sequence[int]) -> int:
        """Return how many windows of another size fit into ``budget`` bytes: layers keep bytes per voxel."""
        one = self.per_window * _product(roi_size) / _product(self.roi_size)
        return max(0, int((budget - self.fixed) // one))

    def bytes(self, windows: int, roi_size: Sequence[int]) -> float:
        """Return what a step with so many windows of this size takes."""
        return self.fixed + windows * self.per_window * _product(roi_size) / _product(self.roi_size)


def training_memory(
    network: nn.Module, roi_size: Sequence[int], in_channels: int, *, device: str = "cuda", amp: bool = True
) -> TrainingMemory:
    """Count the memory of a training step.

    What is counted: weights, gradients and Adam's moments; every tensor kept for the backward pass; the tensors of the
    loss; two gradients of the largest kept tensor. What is not: the CUDA context, cuDNN's workspaces, fragmentation,
    and what a layer that recomputes its activations (``use_checkpoint``) takes while it does so.

    Args:
        network: As built from its config; its weights stay as they are.
        roi_size: Window, in voxels.
        in_channels: Channels of the image.
        device: "cuda" or "cpu", of which neither has to be there.
        amp: float16 where CUDA's autocast takes it; not for "cpu".

    Returns:
        The model: counts with one and with two windows, and the line through them.
    """
    one, two = (_step_bytes(network, windows, roi_size, in_channels, device, amp) for windows in (1, 2))
    fixed = ADAM_BYTES * sum(p.numel() for p in network.parameters())
    return TrainingMemory(fixed + 2 * one - two, two - one, tuple(roi_size))


def _step_bytes(
    network: nn.Module, windows: int, roi_size: Sequence[int], in_channels: int, device: str, amp: bool
) -> float:
    """Bytes that a step takes beside weights, gradients and moments."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), _autocast(amp and device == "cuda"):
        image = torch.empty(windows, in_channels, *roi_size, device=device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            heads = forward_heads(network, image)
    sizes = [storage.nbytes() for storage in kept.values()]
    loss = LOSS_TENSORS * 4 * sum(head.numel() for head in heads)
    return float(sum(sizes) + BACKWARD_TENSORS * max(sizes) + loss)


class _autocast:
    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __enter__(self) -> None:
        self.before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", self.enabled)
        torch.set_autocast_dtype("cuda", torch.float16)  # what amp of MONAI's trainers takes

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_enabled("cuda", self.before[0])
        torch.set_autocast_dtype("cuda", self.before[1])
        torch.clear_autocast_cache()


def _product(sizes: Sequence[int]) -> int:
    return int(torch.Size(sizes).numel())
