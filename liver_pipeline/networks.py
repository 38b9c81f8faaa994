"""What the kept libraries lack: 2D networks that see volumes, ImageNet encoders from a file, a paper's 3D U-Net."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from monai.networks.blocks import Convolution
from torch import nn


class Slicewise(nn.Module):
    """A 2D network applied to every axial slice of a volume.

    With a window of one slice (``roi_size: [256, 256, 1]``) sampling, sliding windows, metrics and export are those of
    a 3D network.

    Args:
        network: Maps (B, C, X, Y) to (B, K, X, Y).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, C, X, Y, Z) to (B, K, X, Y, Z), slice by slice."""
        b, c, x, y, z = image.shape
        slices = image.permute(0, 4, 1, 2, 3).reshape(b * z, c, x, y)
        logits: torch.Tensor = self.network(slices)
        return logits.reshape(b, z, logits.shape[1], x, y).permute(0, 2, 3, 4, 1)


class DeepSupervised(nn.Module):
    """Turn the stacked heads that MONAI's DynUNet gives in training, (B, H, K, X, Y, Z), into a list of H tensors.

    In evaluation the network's one output passes through. The list is what MONAI's DeepSupervisionLoss takes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Any:
        """Map (B, C, X, Y, Z) to (B, K, X, Y, Z), in training to a list of such, full resolution first."""
        logits = self.network(image)
        return list(torch.unbind(logits, dim=1)) if self.training else logits


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


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to a device with its convolution weights in channels-last order; results are those of any order.

    On 2 CPU cores a training step took 0.26 (UNet3d, 8-16-32) to 0.89 (32-64-128) of the processor time that it took
    with PyTorch's default order, ResNet-34 U-Net 0.47. On GPUs tensor cores want this order as well.
    """
    for parameter in network.parameters():
        order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(parameter.dim(), torch.preserve_format)
        parameter.data = parameter.data.to(device, memory_format=order)
    return network.to(device)


def encoder_network(
    architecture: str,
    encoder_name: str,
    *,
    in_channels: int,
    classes: int,
    encoder_weights: str | None = None,
    encoder_weights_path: str | None = None,
    encoder_weights_sha256: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a 2D network of segmentation_models_pytorch.

    Args:
        architecture: Such as ``unet`` or ``deeplabv3plus``.
        encoder_name: Such as ``resnet34``.
        in_channels: Channels of the image; pretrained first convolutions are adapted to it by the library.
        classes: Classes, background included.
        encoder_weights: ``imagenet`` downloads the library's weights (a pinned revision); None starts from noise.
        encoder_weights_path: A local file of encoder weights (torchvision's or the library's key names, ``.pth`` or
            ``.safetensors``) used instead of a download.
        encoder_weights_sha256: Hash that the local file must have; required with ``encoder_weights_path``.
        options: Other arguments of the architecture.

    Raises:
        ValueError: If the architecture, encoder or hash is wrong, or the file belongs to another encoder.
        OSError: If the download fails; the message says what to do.
    """
    local = encoder_weights_path is not None
    try:
        network = smp.create_model(
            architecture,
            encoder_name,
            encoder_weights=None if local else encoder_weights,
            in_channels=3 if local else in_channels,
            classes=classes,
            **options,
        )
    except (OSError, RuntimeError) as error:
        if encoder_weights is None or local:
            raise
        raise OSError(
            f"the {encoder_weights} weights of {encoder_name} could not be downloaded ({type(error).__name__}); "
            f"set encoder_weights_path=FILE and encoder_weights_sha256=HASH to use a local copy, "
            f"or encoder_weights=null to train from scratch"
        ) from None
    except KeyError as error:
        raise ValueError(str(error.args[0])) from None
    if encoder_weights_path is not None:
        _load_encoder(network.encoder, Path(encoder_weights_path), encoder_weights_sha256)
        network.encoder.set_in_channels(in_channels, pretrained=True)
    return network  # type: ignore[no-any-return]


def _load_encoder(encoder: nn.Module, path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no encoder weights at {path.resolve()}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{path} has sha256 {digest}, encoder_weights_sha256 is {sha256}; check where the file is from"
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {key: value for key, value in weights.items() if not key.startswith(("fc.", "classifier."))}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} holds weights of another encoder: {str(error).splitlines()[1].strip()}") from error
