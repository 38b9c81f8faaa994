"""What MONAI Label 0.8.5 asks of a bundle's training; the program itself is run by scripts/check_monai_label.sh."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import load_config
from tests.commands.test_export import make_run
from tests.small import UNET3D, make_phantoms


def ask_to_train(bundle: Path, data: Path, epochs: int, learning_rate: float) -> list[dict[str, str]]:
    """Train as its ``BundleTrainTask`` does: the overrides of 0.8.5, a loader of weights first among the handlers."""
    config = bundle / "configs" / "train.yaml"
    handlers: list[dict[str, Any]] = ConfigParser.load_config_file(config)["train"]["handlers"]
    assert not [one for one in handlers if one.get("_target_") == "CheckpointLoader"]
    weights = {"load_path": str(bundle / "models" / "model.pt"), "load_dict": {"model": "$@network"}, "strict": False}
    items = [
        {"image": str(data / f"volume-{n}.nii.gz"), "label": str(data / f"segmentation-{n}.nii.gz")} for n in range(3)
    ]
    overrides: dict[str, Any] = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": items[:2],
        "device": "cpu",
        "learning_rate": learning_rate,
        "train#handlers": [{"_target_": "CheckpointLoader", **weights}, *handlers],
        "validate#dataset#data": items[2:],
    }
    monai.bundle.run(
        run_id="run", init_id=None, final_id=None, meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(config), **overrides,
    )  # fmt: skip
    with (bundle / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_request_trains_so_many_epochs_more_from_the_weights_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_phantoms(tmp_path / "data")
    lp.train(tmp_path / "run", {}, overrides={**UNET3D, "dataset_dir": str(data), "max_epochs": 3, "val_interval": 3})
    lp.export(tmp_path / "run", tmp_path / "bundle", file_format="bundle")
    begun_with: list[dict[str, torch.Tensor]] = []
    load = torch.nn.Module.load_state_dict

    def spy(module: torch.nn.Module, state: Any, *args: Any, **options: Any) -> Any:
        begun_with.append(dict(state))
        return load(module, state, *args, **options)

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", spy)
    model = tmp_path / "bundle" / "models" / "model.pt"
    for request, learning_rate in ((1, 1e-3), (2, 1e-12)):  # so little moves no label: no better than what is there
        there = model.read_bytes()
        weights = torch.load(model, weights_only=True)["model"]
        begun_with.clear()
        rows = ask_to_train(tmp_path / "bundle", data, epochs=2, learning_rate=learning_rate)
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert float(rows[0]["learning_rate"]) > float(rows[1]["learning_rate"]) > 0  # a schedule of its own
        assert all(torch.equal(begun_with[0][name], weights[name]) for name in weights)
        earlier = tmp_path / "bundle" / "earlier" / str(request) / "models" / "model.pt"
        assert earlier.read_bytes() == there
        assert not rows[0]["val_mean_dice"]  # val_interval is 3, and yet the last epoch is validated
        said = re.search(r"the weights that are there score (\S+);", capsys.readouterr().out)
        assert said
        better = float(rows[-1]["val_mean_dice"]) > float(said[1]) + 5e-4  # said with three digits
        assert better or model.read_bytes() == there
    assert not better


def test_a_cascade_s_inferer_has_its_first_network_s_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "cascade")
    parser = ConfigParser(load_config(run, "inference", {"device": "cpu"}))
    network = parser.get_parsed_content("inferer").liver_network  # all that such a program builds besides network_def
    assert not network.training
    given = network.state_dict()
    trained = torch.load(run / "liver" / "models" / "model.pt", weights_only=True)["model"]
    assert all(torch.equal(given[name], trained[name]) for name in trained)
