"""The demo, shortened: once, again, and after it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner, Result

import liver_pipeline as lp
from liver_pipeline.cli import main
from liver_pipeline.commands import demo


def short_training(run: Path, layers: dict[str, str], **options: Any) -> Path:
    options["overrides"] |= {"max_epochs": 1, "val_interval": 1, "network_def::channels": [4, 8], "n_phantoms": 4}
    return lp.train(run, layers, **options)


@pytest.fixture
def run_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(demo, "train", short_training)

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["demo", str(tmp_path / "demo"), *words])

    return run


def test_a_demo_that_is_there_is_shown_again_and_one_that_was_stopped_goes_on(run_demo: Any, tmp_path: Path) -> None:
    with mock.patch.object(demo, "evaluate", side_effect=KeyboardInterrupt):
        assert run_demo().exit_code == 1  # stopped before the scores
    folder = tmp_path / "demo"
    masks = {path: path.stat().st_mtime_ns for path in (folder / "masks").glob("*.nii.gz")}
    first = run_demo()
    assert first.exit_code == 0, first.output
    assert masks == {path: path.stat().st_mtime_ns for path in masks} and len(masks) == 3
    written = {path: path.stat().st_mtime_ns for path in (folder / "evaluation").glob("*.csv")}
    again = run_demo()
    assert again.exit_code == 0, again.output
    figures = [line for line in first.output.splitlines() if "_dice" in line]
    assert len(figures) == 2 and all(line in again.output for line in figures)
    assert written == {path: path.stat().st_mtime_ns for path in written}
    anew = run_demo("--overwrite")
    assert anew.exit_code == 0, anew.output
    assert (folder / "run/earlier/1/models/model.pt").is_file()
