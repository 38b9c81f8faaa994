"""What the kept libraries lack: 2D networks that see volumes, ImageNet encoders from a file, a paper's 3D U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import FlexibleUNet
from torch import nn
from torchvision.models.segmentation import fcn_resnet50

from liver_pipeline.files import file_sha256


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
    """Give the heads of a deeply supervised network as a list in training, and the full-resolution one otherwise.

    MONAI's DynUNet stacks them in training, (B, H, K, X, Y, Z), and gives one in evaluation; nnU-Net's networks give
    a list in both. The list is what MONAI's DeepSupervisionLoss takes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Any:
        """Map (B, C, X, Y, Z) to (B, K, X, Y, Z), in training to a list of such, full resolution first."""
        logits = self.network(image)
        if isinstance(logits, torch.Tensor):
            return list(torch.unbind(logits, dim=1)) if self.training else logits
        return list(logits) if self.training else logits[0]


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


def place(network: nn.Module, device: torch.device | str, *, channels_last: bool = True) -> nn.Module:
    """Move a network to a device, its convolution weights in channels-last order or not; results are the same.

    On 2 CPU cores a training step took 0.26 (UNet3d, 8-16-32) to 0.89 (32-64-128) of the processor time that it took
    with PyTorch's default order, ResNet-34 U-Net 0.47. On GPUs tensor cores want this order as well.
    """
    orders = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
    for parameter in network.parameters():
        order = orders.get(parameter.dim(), torch.preserve_format)
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
    """Build a 2D network of segmentation_models_pytorch, (B, C, X, Y) to (B, K, X, Y).

    In DeepLab networks the norm behind the global pooling becomes a GroupNorm: BatchNorm sees one value per channel
    there, which fails in training on a single slice.

    Args:
        architecture: Such as ``unet`` or ``deeplabv3plus``.
        encoder_name: Such as ``resnet34``.
        in_channels: Channels of the image; pretrained first convolutions are adapted to it by the library.
        classes: Classes, background included.
        encoder_weights: See :func:`load_encoder_weights`.
        encoder_weights_path: See :func:`load_encoder_weights`.
        encoder_weights_sha256: See :func:`load_encoder_weights`.
        options: Other arguments of the architecture.

    Raises:
        ValueError: If the architecture or encoder is unknown; see also :func:`load_encoder_weights`.
        OSError: See :func:`load_encoder_weights`.
    """
    try:
        network: Any = smp.create_model(
            architecture, encoder_name, encoder_weights=None, in_channels=in_channels, classes=classes, **options
        )
    except KeyError as error:
        raise ValueError(str(error.args[0])) from None
    if architecture.lower() in ("deeplabv3", "deeplabv3plus"):
        for module in network.decoder.modules():
            if type(module).__name__ == "ASPPPooling":
                module[2] = nn.GroupNorm(32, module[2].num_features)
    load_encoder_weights(
        network.encoder, encoder_name, in_channels, encoder_weights, encoder_weights_path, encoder_weights_sha256
    )
    return network  # type: ignore[no-any-return]


def deconvolution_unet(
    backbone: str,
    *,
    in_channels: int,
    classes: int,
    encoder_weights: str | None = None,
    encoder_weights_path: str | None = None,
    encoder_weights_sha256: str | None = None,
) -> nn.Module:
    """Build a 2D U-Net with transposed convolutions and a 1x1 head on a ResNet; MONAI's FlexibleUNet.

    Args:
        backbone: ``resnet50``, ``resnet101`` or ``resnet152``; MONAI's smaller ones have shortcuts that cannot learn.
        in_channels: Channels of the image.
        classes: Classes, background included.
        encoder_weights: See :func:`load_encoder_weights`.
        encoder_weights_path: See :func:`load_encoder_weights`.
        encoder_weights_sha256: See :func:`load_encoder_weights`.

    Raises:
        ValueError: If the backbone is another one; see also :func:`load_encoder_weights`.
        OSError: See :func:`load_encoder_weights`.
    """
    if backbone not in ("resnet50", "resnet101", "resnet152"):
        raise ValueError(f"backbone is {backbone!r}; expected resnet50, resnet101 or resnet152")
    network = FlexibleUNet(in_channels, classes, backbone, spatial_dims=2, upsample="deconv")
    head: Any = network.segmentation_head
    head[0] = nn.Conv2d(head[0].in_channels, classes, kernel_size=1)
    load_encoder_weights(
        network.encoder, backbone, in_channels, encoder_weights, encoder_weights_path, encoder_weights_sha256
    )
    return network


class FcnResNet50(nn.Module):
    """torchvision's FCN on a dilated ResNet-50 (Long et al. 2015), without its auxiliary head, any image size.

    Args:
        in_channels: Channels of the image.
        classes: Classes, background included.
        encoder_weights: See :func:`load_encoder_weights`.
        encoder_weights_path: See :func:`load_encoder_weights`.
        encoder_weights_sha256: See :func:`load_encoder_weights`.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder_weights: str | None = None,
        encoder_weights_path: str | None = None,
        encoder_weights_sha256: str | None = None,
    ) -> None:
        super().__init__()
        # both None: the second one's default downloads
        self.network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=False)
        self.network.backbone.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        load_encoder_weights(
            self.network.backbone,
            "resnet50",
            in_channels,
            encoder_weights,
            encoder_weights_path,
            encoder_weights_sha256,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, C, X, Y) to logits (B, K, X, Y)."""
        logits: torch.Tensor = self.network(image)["out"]
        return logits


def residual_encoder_unet(
    in_channels: int,
    classes: int,
    channels: Sequence[int] = (32, 64, 128, 256, 320, 320),
    blocks: Sequence[int] = (1, 3, 4, 6, 6, 6),
    deep_supervision: bool = True,
) -> nn.Module:
    """Build nnU-Net's 3D residual encoder U-Net (Isensee et al. 2024) with its own initialisation.

    The defaults are those of the ResEnc-L preset, 102 M parameters. TorchScript needs tracing (``ckpt_export
    --use_trace True --input_shape ...``).

    Args:
        in_channels: Channels of the image.
        classes: Classes, background included.
        channels: Features of each stage; each stage but the first halves the resolution, so the sides of the input are
            multiples of ``2 ** (len(channels) - 1)``, in training at least twice that.
        blocks: Residual blocks of each stage.
        deep_supervision: Whether training sees a head at each stage but the lowest.

    Raises:
        ImportError: If the extra ``resenc`` is not installed.
    """
    try:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    except ImportError:
        raise ImportError("the network resenc_unet needs an extra: pip install 'liver-pipeline[resenc]'") from None
    network = ResidualEncoderUNet(
        input_channels=in_channels,
        n_stages=len(channels),
        features_per_stage=list(channels),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (len(channels) - 1),
        n_blocks_per_stage=list(blocks),
        num_classes=classes,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
    )
    network.apply(network.initialize)
    return DeepSupervised(network) if deep_supervision else network


def load_encoder_weights(
    encoder: nn.Module,
    encoder_name: str,
    in_channels: int,
    encoder_weights: str | None,
    encoder_weights_path: str | None,
    encoder_weights_sha256: str | None,
) -> None:
    """Give an encoder its pretrained weights, in place; without ``encoder_weights`` and a file it stays as it is.

    Args:
        encoder: With torchvision's key names.
        encoder_name: The same encoder in segmentation_models_pytorch, which downloads and adapts the weights.
        in_channels: Channels of the image; for one channel the weights of the first convolution are summed.
        encoder_weights: ``imagenet`` downloads the library's weights (a pinned revision); None starts from noise.
        encoder_weights_path: A local file of encoder weights (torchvision's or the library's key names, ``.pth`` or
            ``.safetensors``) used instead of a download.
        encoder_weights_sha256: Hash that the local file must have; required with ``encoder_weights_path``.

    Raises:
        ValueError: If ``encoder_weights`` or the hash is wrong, or the file belongs to another encoder.
        OSError: If the download fails; the message says what to do.
    """
    if encoder_weights_path is not None:
        source = smp.encoders.get_encoder(encoder_name)
        _load_encoder(source, Path(encoder_weights_path), encoder_weights_sha256)
        source.set_in_channels(in_channels, pretrained=True)
    elif encoder_weights is not None:
        source = _downloaded_encoder(encoder_name, in_channels, encoder_weights)
    else:
        return
    encoder.load_state_dict(source.state_dict())


def _downloaded_encoder(encoder_name: str, in_channels: int, encoder_weights: str) -> nn.Module:
    try:
        return smp.encoders.get_encoder(encoder_name, in_channels, weights=encoder_weights)  # type: ignore[no-any-return]
    except KeyError as error:
        raise ValueError(str(error.args[0])) from None
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
