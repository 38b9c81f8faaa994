"""Checkpoints, logs and Dice of the training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from liver_pipeline.handlers.dice import dice_of_each_class, mean_dice
from liver_pipeline.handlers.save_best import SaveBest
from liver_pipeline.io.checkpoints import save_checkpoint
from liver_pipeline.io.tables import write_table


def run_metric(metric: object, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    engine = Engine(lambda _, pair: [{"pred": pair[0], "label": pair[1]}])
    metric.attach(engine, "dice")  # type: ignore[attr-defined]
    return float(engine.run(pairs).metrics["dice"])


def one_hot(*labels: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), 3).T.reshape(3, -1, 1, 1).float()


def test_a_tumor_free_case_counts_one_when_predicted_so_and_zero_otherwise() -> None:
    same = (one_hot(0, 1, 1), one_hot(0, 1, 1))  # liver 1, tumor both empty: 1
    invented = (one_hot(0, 1, 2), one_hot(0, 1, 1))  # liver 2*1/(1+2) = 2/3, tumor 0
    assert run_metric(mean_dice(), [same]) == pytest.approx(1.0)
    assert run_metric(mean_dice(), [same, invented]) == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    by_class = dice_of_each_class(3)
    assert run_metric(by_class["val_dice_liver"], [same, invented]) == pytest.approx((1 + 2 / 3) / 2)
    assert run_metric(by_class["val_dice_tumor"], [same, invented]) == pytest.approx(0.5)


def test_a_checkpoint_is_the_old_one_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "models" / "model.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(2)}, "epoch": 1})

    def disk_full(contents: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"model": {"w": torch.zeros(2)}, "epoch": 2})
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


def test_only_a_better_validation_replaces_the_weights(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    handler = SaveBest(tmp_path / "model.pt", network)
    engine = Engine(lambda *_: None)
    engine.state.key_metric_name = "dice"
    for epoch, metric in enumerate([float("nan"), 0.0, 0.5, 0.3, 0.7, float("nan")], start=1):
        engine.state.metrics, engine.state.epoch = {"dice": metric}, epoch
        torch.nn.init.constant_(network.weight, epoch)
        handler(engine)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert (saved["epoch"], saved["metric"], float(saved["model"]["weight"])) == (5, 0.7, 5.0)


def test_a_column_that_appears_later_is_blank_before(tmp_path: Path) -> None:
    write_table(tmp_path / "log.csv", [{"epoch": 1}, {"epoch": 2, "dice": 0.5}])
    with (tmp_path / "log.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"epoch": "1", "dice": ""}, {"epoch": "2", "dice": "0.5"}]
