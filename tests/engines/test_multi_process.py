"""Training on several processes: the same course as one process with as many cases in a batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import run_workflow
from tests.small import COARSE, NETWORKS, make_phantoms
from tests.waiting import PATIENCE_S

# Group normalization and cross-entropy: the mean over two batches is the figure of both together. Plain SGD:
# Adam blows up what rounding leaves of a gradient that should be zero.
OPTIONS = {
    **NETWORKS["segresnet"],
    **COARSE,
    "network_def::dropout_prob": None,
    "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "lambda_dice": 0.0},
    "crops_per_case": 1,
    "network_graph": False,
    "max_epochs": 3,
    "num_workers": 0,
    "split_fractions": [0.6, 0.4, 0.0],
    "learning_rate": 0.01,
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate"},
}


def compose(run: Path, data: Path, batch_size: int) -> Path:
    overrides = {**OPTIONS, "dataset_dir": str(data), "batch_size": batch_size}
    return lp.compose(run, {"network": "segresnet"}, overrides=overrides)


def losses(run: Path) -> list[float]:
    with (run / "log.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 7)
    one, two = compose(tmp_path / "one", data, 2), compose(tmp_path / "two", data, 1)
    run_workflow(one, "train")
    configs = [str(two / "configs" / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", str(two)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert finished.returncode == 0, finished.stderr[-3000:]

    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    first, second = (torch.load(run / "models/last.ckpt", weights_only=True)["model"] for run in (one, two))
    assert first.keys() == second.keys()  # written without the wrapper's prefix, so that predict reads it
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in (two / "models").iterdir()) == ["last.ckpt", "model.pt", "previous.ckpt"]
    assert len(list((two / "logs").glob("events*"))) == 1  # of the first process only
