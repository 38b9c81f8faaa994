"""Instance normalisation in single steps, for programs whose own adds a million numbers up one after the other."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm


def spell_out_instance_norms(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose instance normalisations are sums and products, with the same result.

    Those that keep running statistics stay: in eval mode they add nothing up.
    """
    spelled_out = copy.deepcopy(network)
    for parent in list(spelled_out.modules()):
        for name, child in list(parent._modules.items()):  # named_children passes over one that is there twice
            if isinstance(child, _InstanceNorm) and not child.track_running_stats:
                setattr(parent, name, _SpelledOut(child))
    return spelled_out


class _SpelledOut(nn.Module):
    """(x - mean) / sqrt(variance + eps) of each channel of (B, C, ...), then its weight and bias."""

    def __init__(self, norm: _InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.affine, self.eps = norm.weight, norm.bias, norm.affine, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - _mean(x)
        normal = centred * torch.rsqrt(_mean(centred.square()) + self.eps)
        if not self.affine:
            return normal
        per_channel = [-1, *[1] * (x.dim() - 2)]
        return normal * self.weight.reshape(per_channel) + self.bias.reshape(per_channel)


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel, (B, C, 1, ...).

    It goes axis by axis, so that no sum has more than a few hundred terms. OpenVINO merges three means into one, which
    is as inexact as its own norm; sums with a product between them it leaves.
    """
    for axis in range(x.dim() - 1, 1, -1):
        x = x.sum(axis, keepdim=True) * (1 / x.shape[axis])
    return x
