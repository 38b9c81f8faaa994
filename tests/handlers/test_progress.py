"""What is shown of a training: share of waiting, time left, curves, learning rates."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ignite.engine import Engine

import liver_pipeline as lp
from liver_pipeline.cli import main
from liver_pipeline.handlers.progress import Curves, Progress, duration
from liver_pipeline.handlers.step_losses import StepLosses
from liver_pipeline.visualize.curves import draw_training
from tests.small import UNET3D, make_phantoms

PNG = b"\x89PNG"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def train(clock: Clock, wait_s: float, step_s: float, epochs: int, steps: int = 4) -> tuple[Progress, Engine]:
    """Run an engine whose batches take ``wait_s`` and whose steps take ``step_s`` on the clock."""

    def batches() -> Any:
        while True:
            clock.now += wait_s
            yield 0

    def step(engine: Engine, batch: int) -> list[dict[str, float]]:
        clock.now += step_s
        return [{"loss": 0.0}]

    engine, validator = Engine(step), SimpleNamespace(state=SimpleNamespace(metrics={}, key_metric_name="dice"))
    progress = Progress(validator, StepLosses(), clock)
    progress.attach(engine)
    engine.run(batches(), max_epochs=epochs, epoch_length=steps)
    return progress, engine


def test_the_share_of_waiting_is_that_of_the_clock(capsys: pytest.CaptureFixture[str]) -> None:
    _, engine = train(Clock(), wait_s=1.0, step_s=3.0, epochs=3)
    assert engine.state.data_wait_share == pytest.approx(0.25)
    assert capsys.readouterr().out.count("25% of the time went by waiting for data") == 1  # said once


def test_a_loader_that_keeps_up_is_not_complained_of(capsys: pytest.CaptureFixture[str]) -> None:
    _, engine = train(Clock(), wait_s=0.1, step_s=3.0, epochs=3)
    assert engine.state.data_wait_share == pytest.approx(0.1 / 3.1)
    assert "waiting" not in capsys.readouterr().out


def test_time_left_is_the_pace_times_what_is_left() -> None:
    progress, engine = train(Clock(), wait_s=1.0, step_s=3.0, epochs=2)
    engine.state.max_epochs = 5
    assert progress.seconds_left(engine) == pytest.approx(3 * 4 * 4.0)
    assert [duration(s) for s in (45, 720, 12000, 187200)] == ["45s", "12m", "3h20m", "2d4h"]


def test_curves_are_drawn_also_for_epochs_without_validation(tmp_path: Path) -> None:
    row = {"train_loss": 1.0, "learning_rate": 1e-3}
    draw_training(tmp_path / "a.png", [{**row, "epoch": 1, "val_mean_dice": None}])
    scored = {"val_mean_dice": 0.5, "val_loss": 3.0}
    draw_training(tmp_path / "b.png", [{**row, "epoch": 1}, {**row, "epoch": 2, **scored}])
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("a.png", "b.png"))


def test_drawing_takes_at_most_a_fiftieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = Clock(), []

    def draw(path: Path, rows: object) -> None:
        drawn.append(clock.now)
        clock.now += 1.0

    monkeypatch.setattr("liver_pipeline.handlers.progress.draw_training", draw)
    log: Any = SimpleNamespace(rows=[{}])
    curves = Curves(tmp_path / "c.png", log, clock)
    for _ in range(100):
        curves(Engine(lambda *_: None))
        clock.now += 3.0
    assert len(drawn) == 6  # 300 s of epochs, one drawing second in 51
    assert all(b - a >= 51 for a, b in pairwise(drawn))


def test_find_lr_suggests_a_rate_and_leaves_the_run_untrained(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 4)
    settings = {"dataset_dir": str(data), "split_fractions": [0.5, 0.25, 0.25]}
    run = lp.compose(tmp_path / "run", {}, overrides={**UNET3D, **settings})
    result = CliRunner().invoke(main, ["find-lr", str(run), "--steps", "40"])
    assert result.exit_code == 0, result.output
    found = float(result.output.split("fastest at ")[1].split()[0])
    assert 1e-6 < found < 1.0
    assert (run / "find_lr/curve.png").read_bytes().startswith(PNG)
    assert list((run / "models").iterdir()) == []
    assert CliRunner().invoke(main, ["find-lr", str(tmp_path)]).exit_code == 2
    for expected in (found, None):  # the advice works before and after the training
        advice = result.output.split("take it with: liver-pipeline ")[1].split()
        assert ("--restart" in advice) is (expected is None)
        assert CliRunner().invoke(main, advice).exit_code == 0
        rate = yaml.safe_load((run / "configs/train.yaml").read_text())["learning_rate"]
        assert rate == float(advice[-1].removeprefix("learning_rate="))
        result = CliRunner().invoke(main, ["find-lr", str(run), "--steps", "40"])
