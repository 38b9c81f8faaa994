"""Validation streams as inference does, and says nothing where there is nothing to say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.metrics import DiceMetric
from monai.networks import one_hot

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cli import main
from liver_pipeline.commands.folds import folds_summary
from liver_pipeline.io.checkpoints import LAST, load_checkpoint
from tests.small import UNET3D, make_phantoms, words_of

HALVES = {"train": ["volume-0", "volume-1"], "val": ["volume-2", "volume-3"], "test": []}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four phantoms; the last has no tumor."""
    return make_phantoms(tmp_path / "data", 4)


def relabel(data: Path, number: int, most: int) -> None:
    """Turn the labels above ``most`` of a case into ``most``."""
    path = data / f"segmentation-{number}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.minimum(np.asarray(image.dataobj), np.uint8(most)), image.affine, image.header), path)


def train(run: Path, data: Path, split: dict[str, list[str]] | None = None, **options: Any) -> list[dict[str, str]]:
    """Train; return the log."""
    overrides = {**UNET3D, "dataset_dir": str(data), **options}
    lp.train(run, {}, overrides=overrides, split=None if split is None else {"cases": split})
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_score_is_that_of_whole_volumes_of_probabilities(tmp_path: Path, data: Path) -> None:
    run = lp.compose(tmp_path / "run", {}, overrides={**UNET3D, "dataset_dir": str(data), "seed": 3})
    (run / "split.json").write_text(json.dumps({"cases": {"train": ["volume-3"], "val": ["volume-0", "volume-1"]}}))
    parser = ConfigParser(load_config(run, "train"))
    evaluator = parser.get_parsed_content("validate::evaluator")
    network = parser.get_parsed_content("network").eval()
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():  # large ones, so that the labels vary
        weight.data.normal_(generator=generator)
    parser.get_parsed_content("validate::early_stop").set_trainer(evaluator)
    evaluator.run(1)
    stock = DiceMetric(include_background=False, reduction="mean", ignore_empty=False)
    infer = SlidingWindowInferer(UNET3D["roi_size"], sw_batch_size=1, overlap=0.5, mode="gaussian")
    classes = set()
    for item in parser.get_parsed_content("validate::dataset"):
        with torch.no_grad():
            logits = infer(item["image"].as_tensor()[None], network)
        assert isinstance(logits, torch.Tensor)
        pred = logits.argmax(1, keepdim=True)
        label = item["label"].as_tensor()[None]
        classes |= set(np.unique(label).tolist()) & set(np.unique(pred).tolist())
        stock(one_hot(pred, 3), one_hot(label, 3))
    assert len(classes) > 1  # found and missed, so that there is something to compare
    assert evaluator.state.metrics["val_mean_dice"] == pytest.approx(
        float(torch.as_tensor(stock.aggregate())), abs=1e-6
    )
    assert evaluator.state.output[0]["pred"].dtype == torch.uint8


def test_where_no_reference_holds_anything_the_last_weights_are_kept(tmp_path: Path, data: Path) -> None:
    for number in (2, 3):
        relabel(data, number, 0)
    run = tmp_path / "run"
    rows = train(run, data, HALVES, max_epochs=3, early_stop_patience=1)
    assert [row["val_mean_dice"] for row in rows] == ["", "", ""]  # and the patience is not used up
    weights, last = (load_checkpoint(run / "models" / name) for name in ("model.pt", LAST))
    assert (weights["epoch"], weights["metric"]) == (3, None)
    assert all(torch.equal(weights["model"][key], last["model"][key]) for key in last["model"])
    rows = train(run, data, HALVES, max_epochs=4, early_stop_patience=1)
    assert load_checkpoint(run / "models/model.pt")["epoch"] == 4


def test_training_on_background_alone_is_refused_and_a_class_that_is_missing_is_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        relabel(data, number, 1)
    train(tmp_path / "liver", data, HALVES)
    said = capsys.readouterr().out
    assert "no case of train holds tumor (2), which cannot be learned" in said
    assert "no case of val" not in said
    relabel(data, 0, 0)
    train(tmp_path / "one", data, HALVES)
    assert "1 of 2 training cases hold neither liver (1) nor tumor (2)" in capsys.readouterr().out
    relabel(data, 1, 0)
    with pytest.raises(ValueError) as caught:
        train(tmp_path / "none", data, HALVES)
    assert "no training case holds liver (1) or tumor (2); are these the label maps" in str(caught.value)


def test_a_class_that_no_reference_holds_has_no_score_and_does_not_enter_the_mean(tmp_path: Path, data: Path) -> None:
    relabel(data, 2, 1)
    (row,) = train(tmp_path / "run", data, HALVES)
    assert row["val_dice_tumor"] == ""
    assert row["val_mean_dice"] == row["val_dice_liver"] != ""


@pytest.mark.parametrize(
    "options",
    [{"split_fractions": [1, 0, 0]}, {"max_epochs": 2, "train::handlers::3::interval": "$3 * @val_interval"}],
    ids=str,
)
def test_a_training_without_validation_ends_with_the_weights_that_it_names(
    tmp_path: Path, data: Path, options: dict[str, Any]
) -> None:
    words = words_of({**UNET3D, **options, "dataset_dir": str(data)})
    result = CliRunner().invoke(main, ["train", str(tmp_path / "run"), *words])
    assert result.exit_code == 0, result.output
    assert "no validation gave a score" in result.output
    named = Path(result.output.split("weights: ")[1].split(";")[0])
    assert load_checkpoint(named)["metric"] is None


def test_folds_without_a_score_are_left_out_of_mean_and_deviation(tmp_path: Path, data: Path) -> None:
    for number in (0, 2, 3):
        relabel(data, number, 0 if number == 2 else 1)
    for fold in range(3):
        parts = {"train": [f"volume-{n}" for n in range(4) if n != fold], "val": [f"volume-{fold}"], "test": []}
        train(tmp_path / f"fold{fold}", data, parts)
    rows = {row["fold"]: row for row in folds_summary(tmp_path)}
    assert rows["2"] == {"fold": "2", "epoch": None}
    livers = [rows[fold]["val_dice_liver"] for fold in "01"]
    assert rows["mean"]["val_dice_liver"] == pytest.approx(sum(livers) / 2)
    assert rows["mean"]["val_dice_tumor"] == rows["1"]["val_dice_tumor"]  # fold 0 validates a case without tumor
    assert "val_dice_tumor" not in rows["sd"]
