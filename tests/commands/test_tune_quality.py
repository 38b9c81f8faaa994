"""Thresholds of a run, chosen by its validation cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import liver_pipeline as lp
from liver_pipeline.commands.tune_quality import tune_quality
from liver_pipeline.evaluation.quality import QualityThresholds, read_thresholds
from tests.small import UNET3D, make_phantoms


def test_thresholds_are_written_into_the_run_and_used(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 4)
    values = {**UNET3D, "dataset_dir": str(data), "split_fractions": [0.5, 0.5, 0.0]}
    run = tmp_path / "run"
    lp.train(run, {}, overrides=values)
    (run / "quality.json").write_text('{"thresholds": {"max_hu": 400}}')
    chosen, cases = tune_quality(run)
    assert len(cases) == 2
    assert all(case["liver_agreement"] is not None for case in cases)
    assert chosen == QualityThresholds(max_hu=400.0)  # two cases are too few to choose by
    written = json.loads((run / "quality.json").read_text())
    assert written["cases"] == cases
    assert read_thresholds(run) == chosen
    record = json.loads((run / "tuning/quality/masks" / f"{cases[0]['case']}.json").read_text())
    assert record["quality"]["liver_agreement"] == cases[0]["liver_agreement"]
    with pytest.raises(ValueError, match="quality"):
        lp.train(run, {}, overrides={"quality": True})  # a training does not use it
