"""2D networks on ImageNet encoders, whose weights are downloaded or come from a file with its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import FlexibleUNet
from torch import nn

from liver_pipeline.io.checksums import file_sha256


@dataclass(frozen=True)
class EncoderWeights:
    """Where the pretrained weights of a 2D encoder come from.

    Attributes:
        name: ``imagenet`` downloads the library's weights (a pinned revision); None starts from noise.
        path: A local file of encoder weights (torchvision's or the library's key names, ``.pth`` or ``.safetensors``),
            used instead of a download.
        sha256: Hash that the local file must have; required with ``path``.
    """

    name: str | None = None
    path: str | None = None
    sha256: str | None = None

    def load(self, encoder: nn.Module, encoder_name: str, in_channels: int) -> None:
        """Give an encoder these weights, in place; without a name and a file it stays as it is.

        Args:
            encoder: With torchvision's key names.
            encoder_name: The same encoder in segmentation_models_pytorch, which downloads and adapts the weights.
            in_channels: Channels of the image; for one channel the weights of the first convolution are summed.

        Raises:
            ValueError: If name or hash is wrong, or the file belongs to another encoder.
            OSError: If the download fails; the message says what to do.
        """
        if self.path is not None:
            source = _encoder_library().encoders.get_encoder(encoder_name)
            _load_encoder(source, Path(self.path), self.sha256)
            source.set_in_channels(in_channels, pretrained=True)
        elif self.name is not None:
            source = _downloaded_encoder(encoder_name, in_channels, self.name)
        else:
            return
        encoder.load_state_dict(source.state_dict())


NO_WEIGHTS = EncoderWeights()


def encoder_network(
    architecture: str,
    encoder_name: str,
    *,
    in_channels: int,
    classes: int,
    pretrained: EncoderWeights = NO_WEIGHTS,
    transposed: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a 2D network of segmentation_models_pytorch, (B, C, X, Y) to (B, K, X, Y).

    In DeepLab networks the norm behind the global pooling becomes a GroupNorm: BatchNorm sees one value per channel
    there, which fails in training on a single slice.

    Args:
        architecture: Such as ``unet`` or ``deeplabv3plus``.
        encoder_name: Such as ``resnet34``.
        in_channels: Channels of the image; pretrained first convolutions are adapted to it by the library.
        classes: Classes, background included.
        pretrained: What the encoder starts with.
        transposed: A ``unet`` decodes by transposed convolutions that learn, in place of repeating voxels.
        options: Other arguments of the architecture.

    Raises:
        ValueError: If the architecture or encoder is unknown, or has no blocks that could decode so; see also
            :meth:`EncoderWeights.load`.
        OSError: See :meth:`EncoderWeights.load`.
    """
    try:
        network: Any = _encoder_library().create_model(
            architecture, encoder_name, encoder_weights=None, in_channels=in_channels, classes=classes, **options
        )
    except KeyError as error:
        raise ValueError(str(error.args[0])) from None
    if architecture.lower() in ("deeplabv3", "deeplabv3plus"):
        for module in network.decoder.modules():
            if type(module).__name__ == "ASPPPooling":
                module[2] = nn.GroupNorm(32, module[2].num_features)
    if transposed:
        if architecture.lower() != "unet":
            raise ValueError(f"architecture is {architecture!r}; only unet decodes by transposed convolutions")
        channels = [
            network.encoder.out_channels[-1],
            *(block.conv2[0].out_channels for block in network.decoder.blocks),
        ]
        network.decoder.blocks = nn.ModuleList(map(TransposedBlock, network.decoder.blocks, channels))
    pretrained.load(network.encoder, encoder_name, in_channels)
    built: nn.Module = network
    return built


class TransposedBlock(nn.Module):
    """A decoder block of segmentation_models_pytorch's U-Net behind a transposed convolution that doubles the size.

    Args:
        block: It still resizes to the size of its level, which changes nothing any more.
        channels: Of what comes from the level below.
    """

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.block = block

    def forward(
        self,
        feature_map: torch.Tensor,
        target_height: int,
        target_width: int,
        skip_connection: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map (B, C, X, Y) to (B, K, 2 X, 2 Y)."""
        decoded: torch.Tensor = self.block(self.up(feature_map), target_height, target_width, skip_connection)
        return decoded


def deconvolution_unet(
    backbone: str,
    *,
    in_channels: int,
    classes: int,
    pretrained: EncoderWeights = NO_WEIGHTS,
) -> nn.Module:
    """Build a 2D U-Net with transposed convolutions and a 1x1 head on a ResNet; MONAI's FlexibleUNet.

    Args:
        backbone: ``resnet50``, ``resnet101`` or ``resnet152``; MONAI's smaller ones have shortcuts that cannot learn.
        in_channels: Channels of the image.
        classes: Classes, background included.
        pretrained: What the encoder starts with.

    Raises:
        ValueError: If the backbone is another one; see also :meth:`EncoderWeights.load`.
        OSError: See :meth:`EncoderWeights.load`.
    """
    if backbone not in ("resnet50", "resnet101", "resnet152"):
        raise ValueError(f"backbone is {backbone!r}; expected resnet50, resnet101 or resnet152")
    network = FlexibleUNet(in_channels, classes, backbone, spatial_dims=2, upsample="deconv")
    head: Any = network.segmentation_head
    head[0] = nn.Conv2d(head[0].in_channels, classes, kernel_size=1)
    pretrained.load(network.encoder, backbone, in_channels)
    return network


class FcnResNet50(nn.Module):
    """torchvision's FCN on a dilated ResNet-50 (Long et al. 2015), without its auxiliary head, any image size.

    Args:
        in_channels: Channels of the image.
        classes: Classes, background included.
        pretrained: What the encoder starts with.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        pretrained: EncoderWeights = NO_WEIGHTS,
    ) -> None:
        super().__init__()
        from torchvision.models.segmentation import fcn_resnet50  # here: takes two seconds to import

        # both None: the second one's default downloads
        self.network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=False)
        self.network.backbone.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        pretrained.load(self.network.backbone, "resnet50", in_channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, C, X, Y) to logits (B, K, X, Y)."""
        logits: torch.Tensor = self.network(image)["out"]
        return logits


def _encoder_library() -> Any:
    """Import segmentation_models_pytorch: with timm a second, which only its networks are worth."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch


def _downloaded_encoder(encoder_name: str, in_channels: int, encoder_weights: str) -> nn.Module:
    try:
        encoder: nn.Module = _encoder_library().encoders.get_encoder(encoder_name, in_channels, weights=encoder_weights)
        return encoder
    except KeyError as error:
        raise ValueError(f"encoder_weights is {encoder_weights!r}: {error.args[0]}") from None
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"the {encoder_weights} weights of {encoder_name} could not be downloaded ({type(error).__name__}); "
            f"set encoder_weights_path=FILE and encoder_weights_sha256=HASH to use a local copy, "
            f"or encoder_weights=null to train from scratch"
        ) from None


def _load_encoder(encoder: nn.Module, path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no encoder weights at {path.resolve()}")
    digest = file_sha256(path)
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
