"""nnU-Net's residual encoder U-Net."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from liver_pipeline.networks.deep_supervision import DeepSupervised


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

    """
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

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
