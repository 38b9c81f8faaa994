"""What the tests share to train in seconds, or not at all: shrunk networks, a coarse grid, small phantoms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import liver_pipeline as lp
from liver_pipeline.data.phantoms import make_phantom_dataset

# What it takes to shrink each network, and a window that suits it; the number of classes stays the real one.
NETWORKS: dict[str, dict[str, Any]] = {
    "unet3d": {"network_def::channels": [4, 8], "roi_size": [16, 16, 16]},
    "segresnet": {"network_def::init_filters": 8, "roi_size": [16, 16, 16]},
    "dynunet": {"network_def::network::filters": [4, 4, 8, 8, 8], "roi_size": [32, 32, 32]},
    "swin_unetr": {"network_def::feature_size": 12, "roi_size": [64, 64, 64]},
    "attention_unet": {"network_def::channels": [4, 8], "network_def::strides": [2], "roi_size": [16, 16, 16]},
    "resnet34_unet": {"roi_size": [32, 32, 1]},
    "resnet34_unet_deconv": {"roi_size": [32, 32, 1]},
    "resnet50_unet": {"roi_size": [32, 32, 1]},
    "resnet50_unet_deconv": {"roi_size": [32, 32, 1]},
    "deeplabv3plus_resnet101": {"roi_size": [32, 32, 1]},
    "vgg16_unet": {"roi_size": [32, 32, 1]},
    "fcn_resnet50": {"roi_size": [32, 32, 1]},
    "unet2d": {"network_def::network::features": [4, 4, 8, 8, 8, 4], "roi_size": [32, 32, 1]},
    "resenc_unet": {"network_def::channels": [4, 8, 8], "network_def::blocks": [1, 1, 1], "roi_size": [16, 16, 16]},
    "plain_unet": {"network_def::features_per_stage": [4, 4, 8, 8, 8], "roi_size": [32, 32, 32]},
    "cascade": {
        "network_def::channels": [4, 8],
        "roi_size": [16, 16, 16],
        "liver_network_def::channels": [4, 8],
        "liver_roi_size": [16, 16, 16],
        "liver_grid_size": [16, 16, 16],
        "liver_spacing": None,
    },
}
# One epoch of three phantoms, one for each part of the split.
BRIEF: dict[str, Any] = {
    "max_epochs": 1,
    "val_interval": 1,
    "batch_size": 1,
    "crops_per_case": 2,
    "num_workers": 0,
    "encoder_weights": None,
    "network_graph": False,
    "split_fractions": [0.34, 0.33, 0.33],
}
COARSE = {"spacing": [12.0, 12.0, 12.0]}  # mm; a phantom is 4 x 3 x 3 dm
# A 3D U-Net on the processor, the same everywhere.
UNET3D = {**BRIEF, **COARSE, **NETWORKS["unet3d"], "device": "cpu"}


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Return them as a command takes them: JSON, and text as it is."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def make_phantoms(folder: Path, count: int = 3) -> Path:
    """Draw phantoms of a few thousand voxels in LiTS layout."""
    return make_phantom_dataset(folder, count, shape=(32, 26, 16), spacing=(12.0, 12.0, 19.0), noise_hu=5.0)


def threshold_run(
    run: Path, *, liver_from: float, tumor_from: float, spacing_mm: float = 8.0, slicewise: bool = False
) -> Path:
    """Write a run whose network looks at one voxel: liver and tumor begin at a value in HU, from -175 to 250."""
    network = "{_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 3, kernel_size: 1}"
    if slicewise:
        network = f"{{_target_: liver_pipeline.networks.Slicewise, network: {network.replace('3d', '2d')}}}"
    run.parent.mkdir(parents=True, exist_ok=True)
    layer = run.with_name("one_voxel.yaml")
    layer.write_text(
        f"network_def: {network}\nroi_size: {[16, 16, 1 if slicewise else 16]}\ncrops_per_case: 1\nsw_batch_size: 1\n"
    )
    lp.compose(run, {"network": str(layer)}, overrides={"spacing": [spacing_mm] * 3, "device": "cpu"})
    one, two = ((hu + 175) / 425 for hu in (liver_from, tumor_from))
    weight = torch.tensor([0.0, 100.0, 200.0]).reshape(3, 1, *([1] * (2 if slicewise else 3)))
    bias = torch.tensor([0.0, -100 * one, -100 * one - 100 * two])  # lines that cross at the two thresholds
    (run / "models").mkdir(exist_ok=True)
    prefix = "network." if slicewise else ""
    torch.save({f"{prefix}weight": weight, f"{prefix}bias": bias}, run / "models" / "model.pt")
    return run
