"""Checkpoints, logs and Dice of the training."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from liver_pipeline.handlers.dice import dice_of_each_class, mean_class_dice
from liver_pipeline.handlers.early_stop import EarlyStop
from liver_pipeline.handlers.save_best import SaveBest
from liver_pipeline.io.checkpoints import load_checkpoint, save_checkpoint
from liver_pipeline.io.tables import write_table
from liver_pipeline.transforms.overlap import CountOverlapd


def run_metric(metric: Any, *pairs: tuple[list[int], list[int]]) -> float:
    """Validate cases of a few voxels: predicted and reference labels."""
    count = CountOverlapd(num_classes=3)
    engine = Engine(lambda _, pair: [count({"pred": as_volume(pair[0]), "label": as_volume(pair[1])})])
    metric.attach(engine, "dice")
    return float(engine.run(pairs).metrics["dice"])


def as_volume(labels: list[int]) -> torch.Tensor:
    return torch.tensor(labels, dtype=torch.uint8).reshape(1, -1, 1, 1)


SAME = ([0, 1, 1], [0, 1, 1])  # liver 1, no tumor: undefined
INVENTED = ([0, 1, 2], [0, 1, 1])  # liver 2 * 1 / (1 + 2) = 2/3, tumor 0
FOUND = ([1, 2, 2], [1, 1, 2])  # liver 2 * 1 / (1 + 2) = 2/3, tumor 2 * 1 / (2 + 1) = 2/3
EMPTY = ([0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize(
    ("pairs", "liver", "tumor"),
    [
        ([SAME], 1.0, None),
        ([SAME, INVENTED], 5 / 6, None),  # no reference holds tumor: there is none to find
        ([SAME, FOUND], 5 / 6, 2 / 3),  # the case without tumor is left out
        ([INVENTED, FOUND], 2 / 3, 1 / 3),  # one with a false alarm is not
        ([([0, 0, 0], [0, 1, 2])], 0.0, 0.0),
        ([EMPTY], None, None),
        ([([1, 1, 2], [0, 0, 0]), EMPTY], None, None),
    ],
)
def test_a_class_has_the_mean_dice_of_the_cases_where_it_is_defined_and_their_mean_is_over_classes(
    pairs: list[tuple[list[int], list[int]]], liver: float | None, tumor: float | None
) -> None:
    by_class = dice_of_each_class(3)
    defined = [value for value in (liver, tumor) if value is not None]
    for metric, expected in (
        (by_class["val_dice_liver"], liver),
        (by_class["val_dice_tumor"], tumor),
        (mean_class_dice([1]), liver),
        (mean_class_dice(), sum(defined) / len(defined) if defined else None),
    ):
        found = run_metric(metric, *pairs)
        assert math.isnan(found) if expected is None else found == pytest.approx(expected)


def test_a_validation_without_a_score_is_neither_best_nor_counted_by_the_patience(tmp_path: Path) -> None:
    trainer, engine = Engine(lambda *_: None), Engine(lambda *_: None)
    stop = EarlyStop(patience=2, score_function=lambda engine: float(engine.state.metrics["dice"]))
    stop.set_trainer(trainer)
    counted = []
    for score in (math.nan, 0.5, math.nan, 0.4, math.nan, 0.6):
        engine.state.metrics = {"dice": score}
        stop(engine)
        counted.append((stop.state_dict()["counter"], stop.state_dict()["best_score"]))
    assert counted == [(0, None), (0, 0.5), (0, 0.5), (1, 0.5), (1, 0.5), (0, 0.6)]


def test_without_any_score_the_last_weights_are_kept_and_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    handler = SaveBest(tmp_path / "model.pt", network)
    handler.keep_last(7)
    assert load_checkpoint(tmp_path / "model.pt")["epoch"] == 7
    assert "no validation gave a score" in capsys.readouterr().out
    handler.best = 0.0  # a score, and the worst
    handler.keep_last(8)
    assert load_checkpoint(tmp_path / "model.pt")["epoch"] == 7


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


def test_weights_that_are_there_yield_only_to_better_ones(tmp_path: Path) -> None:
    path, network = tmp_path / "model.pt", torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.6)
    save_checkpoint(path, {"model": network.state_dict(), "epoch": 9, "metric": 0.99})  # of other validation cases
    there = path.read_bytes()
    torch.nn.init.constant_(network.weight, 0.1)
    handler, validator = SaveBest(path, network), Engine(lambda *_: None)
    validator.state.key_metric_name = "dice"
    validator.add_event_handler(
        Events.COMPLETED, lambda engine: engine.state.metrics.update(dice=float(network.weight))
    )  # the score is the weight
    handler.attach(validator)
    validator.run = lambda: Engine.run(validator, [0])
    handler.defend(validator)
    assert float(network.weight) == pytest.approx(0.1)  # the training begins with its own
    assert validator.state.epoch == 0  # no epoch of it was validated
    for weight in (0.5, 0.6):
        torch.nn.init.constant_(network.weight, weight)
        validator.run()
        assert path.read_bytes() == there
    torch.nn.init.constant_(network.weight, 0.7)
    validator.run()
    assert load_checkpoint(path)["metric"] == pytest.approx(0.7)


def test_a_column_that_appears_later_is_blank_before(tmp_path: Path) -> None:
    write_table(tmp_path / "log.csv", [{"epoch": 1}, {"epoch": 2, "dice": 0.5}])
    with (tmp_path / "log.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"epoch": "1", "dice": ""}, {"epoch": "2", "dice": "0.5"}]
