"""Moving average of weights, weights of deep supervision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.losses import DeepSupervisionLoss

import liver_pipeline as lp
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.handlers.ema import WeightAverage
from liver_pipeline.io.checkpoints import load_checkpoint
from tests.small import UNET3D, make_phantoms


def test_the_average_is_that_of_the_formula() -> None:
    network = torch.nn.BatchNorm1d(1)
    torch.nn.init.constant_(network.weight, 0.0)
    average = WeightAverage(network, decay=0.5)
    engine = Engine(lambda *_: None)
    engine.state.epoch_length = 50
    for step in (1, 2, 100):
        torch.nn.init.constant_(network.weight, float(step))
        network.state_dict()["running_mean"].fill_(step)
        engine.state.iteration = step
        average(engine)
    first = 9 / 11 * 1  # d = 2/11 in step 1
    second = 3 / 12 * first + 9 / 12 * 2
    averaged = average.network.state_dict()
    assert float(averaged["weight"]) == pytest.approx(0.5 * second + 0.5 * 100)
    assert float(averaged["running_mean"]) == 100


def test_without_a_decay_the_network_stands_for_itself() -> None:
    network = torch.nn.Linear(1, 1)
    assert WeightAverage(network, None).network is network
    assert WeightAverage(network, None).state_dict() == {}
    with pytest.raises(ValueError, match="between 0 and 1"):
        WeightAverage(network, 1.0)


def test_a_run_with_an_average_keeps_it_and_continues_it(tmp_path: Path) -> None:
    settings = {
        **UNET3D,
        "dataset_dir": str(make_phantoms(tmp_path / "data")),
        "ema_decay": 0.9,
        "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@optimizer", "factor": 1.0},
    }
    lp.train(tmp_path / "a", {}, overrides={**settings, "max_epochs": 2})
    lp.train(tmp_path / "b", {}, overrides={**settings, "max_epochs": 1})
    first = load_checkpoint(tmp_path / "b/models/last.ckpt")
    kept = load_checkpoint(tmp_path / "b/models/model.pt")["model"]
    assert all(torch.equal(kept[key], first["average"][key]) for key in kept)
    assert any(not torch.equal(kept[key], first["model"][key]) for key in kept)
    lp.train(tmp_path / "b", {}, overrides={"max_epochs": 2})
    a, b = (load_checkpoint(tmp_path / name / "models/last.ckpt")["average"] for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("weights", "expected"), [(None, (1, 0.5, 0.25)), ([3, 2, 1], (3, 2, 1))])
def test_the_weights_of_deep_supervision_weigh_its_outputs(
    weights: list[float] | None, expected: tuple[float, ...]
) -> None:
    config = merge_layers({}, overrides={"deep_supervision_weights": weights})["train"]
    config["loss"] = {"_target_": "torch.nn.MSELoss"}
    loss: DeepSupervisionLoss = ConfigParser(config).get_parsed_content("train::loss")
    outputs = [torch.full((1, 1, n, n, n), value) for n, value in ((8, 1.0), (4, 2.0), (2, 3.0))]
    # the reference is zero, so that the loss of an output is its value squared
    total = sum(weight * value**2 for weight, value in zip(expected, (1, 2, 3), strict=True))
    assert float(loss(outputs, torch.zeros(1, 1, 8, 8, 8))) == pytest.approx(total)
