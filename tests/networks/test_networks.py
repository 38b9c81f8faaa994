"""Networks that the libraries lack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from liver_pipeline.networks.acceleration import place
from liver_pipeline.networks.deep_supervision import DeepSupervised
from liver_pipeline.networks.encoders import EncoderWeights, FcnResNet50, deconvolution_unet, encoder_network
from liver_pipeline.networks.resenc import residual_encoder_unet
from liver_pipeline.networks.slicewise import Slicewise
from liver_pipeline.networks.unet3d import UNet3d


class MeanAndChannels(nn.Module):
    """A 2D network whose output tells which slice and channel it saw."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image[:, :1] * 2, image.mean(dim=(2, 3), keepdim=True)[:, :1].expand_as(image[:, :1])], dim=1)


def test_slicewise_gives_each_slice_what_the_2d_network_gives_it() -> None:
    image = torch.rand(2, 3, 8, 6, 5)
    logits = Slicewise(MeanAndChannels())(image)
    assert logits.shape == (2, 2, 8, 6, 5)
    for b in range(2):
        for z in range(5):
            torch.testing.assert_close(logits[b, ..., z], MeanAndChannels()(image[b : b + 1, ..., z])[0])


def test_unet3d_has_the_papers_levels_and_maps_to_one_channel_per_class() -> None:
    network = UNet3d(1, 3).eval()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    # two convolutions in each of 4 encoder and 3 decoder blocks, and the head
    assert [c.out_channels for c in convolutions] == [32, 32, 64, 64, 128, 128, 256, 256, 128, 128, 64, 64, 32, 32, 3]
    assert sum(isinstance(m, nn.Dropout3d) for m in network.modules()) == 7
    assert network(torch.rand(1, 1, 16, 8, 24)).shape == (1, 3, 16, 8, 24)


def test_unet3d_survives_torchscript() -> None:
    network = UNet3d(1, 2, channels=(4, 8)).eval()
    image = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_deep_supervision_is_a_list_in_training_and_one_tensor_otherwise() -> None:
    class Stacked(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.stack([image, image + 1], dim=1) if self.training else image

    network = DeepSupervised(Stacked())
    image = torch.rand(2, 3, 4, 4, 4)
    first, second = network.train()(image)
    torch.testing.assert_close(first, image)
    torch.testing.assert_close(second, image + 1)
    assert network.eval()(image) is image


def test_a_local_file_of_encoder_weights_is_loaded_and_adapted_to_one_channel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor: Any = encoder_network("unet", "resnet18", in_channels=3, classes=2)
    path = tmp_path / "resnet18.pth"
    torch.save({**donor.encoder.state_dict(), "fc.weight": torch.zeros(1)}, path)
    network: Any = encoder_network(
        "unet",
        "resnet18",
        in_channels=1,
        classes=2,
        pretrained=EncoderWeights(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest()),
    )
    torch.testing.assert_close(network.encoder.layer4[1].conv2.weight, donor.encoder.layer4[1].conv2.weight)
    # a grey image in one channel gives what it gave in three
    torch.testing.assert_close(network.encoder.conv1.weight, donor.encoder.conv1.weight.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("build", [partial(deconvolution_unet, "resnet50"), FcnResNet50])
def test_networks_of_other_libraries_take_the_same_encoder_weights(
    build: Callable[..., nn.Module], in_channels: int, tmp_path: Path
) -> None:
    donor: Any = torchvision.models.resnet50(weights=None).eval()
    for norm in (m for m in donor.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    path = tmp_path / "resnet50.pth"
    torch.save(donor.state_dict(), path)  # as torchvision gives it, with the classifier
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pretrained = EncoderWeights(path=str(path), sha256=digest)
    network: Any = build(in_channels=in_channels, classes=2, pretrained=pretrained).eval()
    encoder = network.encoder if hasattr(network, "encoder") else network.network.backbone
    grey = torch.rand(1, 1, 64, 64)
    theirs = donor.maxpool(donor.relu(donor.bn1(donor.conv1(grey.expand(-1, 3, -1, -1)))))
    ours = encoder.bn1(encoder.conv1(grey.expand(-1, in_channels, -1, -1))).relu()
    torch.testing.assert_close(donor.maxpool(ours), theirs, atol=1e-4, rtol=1e-4)
    deep = encoder.layer4[2].conv3.weight
    torch.testing.assert_close(deep, donor.layer4[2].conv3.weight)


@pytest.mark.parametrize("build", [partial(deconvolution_unet, "resnet50"), FcnResNet50])
def test_without_a_connection_all_networks_say_the_same(
    build: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_connection(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", no_connection)
    with pytest.raises(OSError, match=r"encoder_weights_path=FILE .* encoder_weights=null"):
        build(in_channels=1, classes=2, pretrained=EncoderWeights("imagenet"))


def test_the_deconvolution_unet_ends_in_a_1x1_convolution_and_upsamples_by_transposed_ones() -> None:
    network = deconvolution_unet("resnet50", in_channels=1, classes=2)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert (convolutions[-1].kernel_size, convolutions[-1].out_channels) == ((1, 1), 2)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in network.modules()) == 5
    with pytest.raises(ValueError, match="expected resnet50"):
        deconvolution_unet("resnet34", in_channels=1, classes=2)


def test_transposed_convolutions_that_repeat_voxels_make_the_plain_decoder() -> None:
    torch.manual_seed(0)
    plain: Any = encoder_network("unet", "resnet18", in_channels=3, classes=2).eval()
    network: Any = encoder_network("unet", "resnet18", in_channels=3, classes=2, transposed=True).eval()
    network.encoder.load_state_dict(plain.encoder.state_dict())
    network.segmentation_head.load_state_dict(plain.segmentation_head.state_dict())
    for block, theirs in zip(network.decoder.blocks, plain.decoder.blocks, strict=True):
        block.block.load_state_dict(theirs.state_dict())
        channels = block.up.in_channels
        block.up.weight.data = torch.eye(channels)[..., None, None].expand(channels, channels, 2, 2).clone()
        block.up.bias.data.zero_()
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(network(image), plain(image))
    with pytest.raises(ValueError, match="only unet decodes"):
        encoder_network("fpn", "resnet18", in_channels=1, classes=2, transposed=True)


@pytest.mark.parametrize("architecture", ["deeplabv3", "deeplabv3plus"])
def test_deeplab_trains_on_a_single_slice(architecture: str) -> None:
    network = encoder_network(architecture, "resnet18", in_channels=1, classes=2).train()
    assert network(torch.rand(1, 1, 64, 64)).shape == (1, 2, 64, 64)


def test_the_residual_encoder_unet_gives_its_heads_in_training_and_one_tensor_otherwise() -> None:
    network = residual_encoder_unet(1, 3, channels=(4, 8, 8), blocks=(1, 1, 1))
    image = torch.rand(1, 1, 16, 16, 16)
    heads = network.train()(image)
    assert [tuple(head.shape[1:]) for head in heads] == [(3, 16, 16, 16), (3, 8, 8, 8)]
    assert network.eval()(image).shape == (1, 3, 16, 16, 16)


def test_a_file_with_another_hash_or_of_another_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1)}, path)
    network: Any = encoder_network("unet", "resnet18", in_channels=1, classes=2)
    with pytest.raises(ValueError, match="has sha256"):
        EncoderWeights(path=str(path), sha256="0" * 64).load(network.encoder, "resnet18", 1)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="of another encoder: Missing key"):
        EncoderWeights(path=str(path), sha256=digest).load(network.encoder, "resnet18", 1)


def test_without_a_connection_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", no_connection)
    with pytest.raises(OSError, match=r"encoder_weights_path=FILE .* encoder_weights=null") as caught:
        encoder_network("unet", "resnet18", in_channels=1, classes=2, pretrained=EncoderWeights("imagenet"))
    assert "\n" not in str(caught.value)


def test_an_unknown_encoder_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="resnet35"):
        encoder_network("unet", "resnet35", in_channels=1, classes=2)


@pytest.mark.parametrize("network", [UNet3d(1, 3, (4, 8)), Slicewise(nn.Conv2d(1, 3, 3, padding=1))])
def test_placing_a_network_changes_the_order_of_its_weights_and_not_its_output(network: nn.Module) -> None:
    image = torch.rand(1, 1, 8, 8, 8)
    before = network.eval()(image)
    placed = place(network, "cpu")
    torch.testing.assert_close(placed(image), before)
    first = next(p for p in placed.parameters() if p.dim() > 3)
    order = torch.channels_last_3d if first.dim() == 5 else torch.channels_last
    assert first.is_contiguous(memory_format=order)
