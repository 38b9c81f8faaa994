"""The 3D U-Net of Srivastava and Pandey 2025."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import nn


class UNet3d(nn.Module):
    """3D U-Net as described by Srivastava and Pandey (2025).

    Blocks are Conv-BatchNorm-LeakyReLU-Dropout-Conv-BatchNorm-LeakyReLU; levels are joined by max-pooling and
    transposed convolutions. Each side of the input must be a multiple of ``2 ** (len(channels) - 1)``.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes, background included.
        channels: Features of each level, top first.
        dropout: Probability of Dropout3d inside each block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, channels: Sequence[int] = (32, 64, 128, 256), dropout: float = 0.2
    ) -> None:
        super().__init__()
        ins = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(_block(i, o, dropout) for i, o in zip(ins, channels, strict=True))
        self.pool = nn.MaxPool3d(2)
        deep_first = list(channels[::-1])
        pairs = list(pairwise(deep_first))
        self.upsample = nn.ModuleList(nn.ConvTranspose3d(deep, top, kernel_size=2, stride=2) for deep, top in pairs)
        self.decoder = nn.ModuleList(_block(2 * top, top, dropout) for _, top in pairs)
        self.head = nn.Conv3d(channels[0], out_channels, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, C, X, Y, Z) to logits (B, K, X, Y, Z)."""
        features: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            image = block(image if level == 0 else self.pool(image))
            features.append(image)
        image = features.pop()
        for upsample, block in zip(self.upsample, self.decoder):  # noqa: B905 (TorchScript knows no strict=)
            image = block(torch.cat([features.pop(), upsample(image)], dim=1))
        logits: torch.Tensor = self.head(image)
        return logits


def _block(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    activation = ("leakyrelu", {"negative_slope": 0.01, "inplace": True})
    first = Convolution(
        3, in_channels, out_channels, adn_ordering="NAD", act=activation, norm="batch", dropout=dropout, dropout_dim=3
    )
    second = Convolution(3, out_channels, out_channels, adn_ordering="NA", act=activation, norm="batch")
    return nn.Sequential(first, second)
