"""Post-processing chosen on a run's validation cases: read one at a time, written into its configs."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

import liver_pipeline as lp
from liver_pipeline.commands import tune_postprocessing as tune
from tests.small import UNET3D, make_phantoms


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    data = make_phantoms(folder / "data", 5)
    values = {**UNET3D, "dataset_dir": str(data), "split_fractions": [0.4, 0.4, 0.2]}
    lp.train(folder / "run", {}, overrides=values)
    return folder / "run"


def test_cases_are_read_one_at_a_time_and_the_choice_is_written(trained: Path) -> None:
    held: list[Any] = []

    class Watched(tune.SegmentedCases):
        def __getitem__(self, index: Any) -> Any:
            gc.collect()
            assert sum(case() is not None for case in held) <= 1  # those before the last are gone
            case = super().__getitem__(index)
            held.append(weakref.ref(case.pred))
            return case

    (trained / "tuning").mkdir()
    (trained / "tuning/notes.txt").write_text("mine")
    before = (trained / "configs/inference.yaml").read_text()
    with mock.patch.object(tune, "SegmentedCases", Watched):
        choice = tune.tune_postprocessing(trained)
    assert len(held) >= 4  # of two cases, each asked for in each round
    assert (trained / "tuning/notes.txt").read_text() == "mine"
    assert (trained / "earlier/1/configs/inference.yaml").read_text() == before
    for workflow in ("inference", "evaluate"):
        config = yaml.safe_load((trained / f"configs/{workflow}.yaml").read_text())
        assert config["postprocessing"]["transforms"] == [dict(step) for step in choice.steps]
    assert [dict(step) for step in choice.steps] != yaml.safe_load(before)["postprocessing"]["transforms"]
    ledger = (trained / "tuning/masks/ledger.jsonl").read_bytes()
    assert tune.tune_postprocessing(trained) == choice
    assert (trained / "tuning/masks/ledger.jsonl").read_bytes() == ledger  # nothing was segmented again
