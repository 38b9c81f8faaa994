"""A run's network in a stock MONAI inference bundle, as the model zoo writes them: what our masks are compared with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import yaml

from liver_pipeline.bundle.workflow import load_config


def stock_config(run: Path, scan: Path, masks: Path) -> dict[str, Any]:
    """Return the whole bundle config; the network, its grid and its HU window are the run's own."""
    own = load_config(run, "inference")
    low, high = own["hu_window"]
    network = {key: own[key] for key in ("num_classes", "in_channels", "network_def")}
    return {
        "imports": ["$import torch"],
        **network,
        "device": "$torch.device('cpu')",
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
                {"_target_": "Spacingd", "keys": "image", "pixdim": own["spacing"], "mode": "bilinear"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high}
                | {"b_min": 0.0, "b_max": 1.0, "clip": True},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": [{"image": str(scan)}], "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": own["roi_size"],
            "sw_batch_size": own["sw_batch_size"],
            "overlap": own["overlap"],
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
                | {"nearest_interp": False, "to_tensor": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": str(masks), "output_postfix": ""}
                | {"separate_folder": False, "output_dtype": "$torch.uint8", "resample": False},
            ],
        },
        "handlers": [
            {"_target_": "CheckpointLoader", "load_path": str(run / "models" / "model.pt")}
            | {"load_dict": {"model": "@network"}, "map_location": "@device"}
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', False)"],
        "run": ["$@evaluator.run()"],
    }


def run_stock_bundle(run: Path, scan: Path, folder: Path) -> npt.NDArray[np.uint8]:
    """Run the stock bundle by `python -m monai.bundle run` in ``folder``; return its mask on the scan's grid."""
    configs = folder / "configs"
    configs.mkdir(parents=True)
    (configs / "inference.yaml").write_text(yaml.safe_dump(stock_config(run, scan, folder / "masks"), sort_keys=False))
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs / "inference.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (mask,) = (folder / "masks").glob("*.nii.gz")
    return np.asarray(nib.load(mask).dataobj)
