"""Post-processing chosen on a run's validation cases: read one at a time, written into its configs."""

from __future__ import annotations

import gc
import gzip
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.commands import tune_postprocessing as tune
from liver_pipeline.evaluation.postprocessing_search import choose_postprocessing
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
    with mock.patch.object(tune, "choose_postprocessing", side_effect=choose_postprocessing) as searched:
        assert tune.tune_postprocessing(trained) == choice
        assert (trained / "tuning/masks/ledger.jsonl").read_bytes() == ledger  # nothing was segmented again,
        assert searched.call_count == 0  # nor looked for,
        assert not (trained / "earlier/2").exists()  # nor written
        assert tune.tune_postprocessing(trained, min_gain=2.0).steps == []
        assert searched.call_count == 1
        assert tune.tune_postprocessing(trained) == choice
        label = Path(ConfigParser(load_config(trained, "evaluate")).get_parsed_content("split")["val"][0]["label"])
        label.write_bytes(gzip.compress(gzip.decompress(label.read_bytes()), 1))
        assert tune.tune_postprocessing(trained) == choice
        assert searched.call_count == 3  # a reference is another file
    assert (trained / "tuning/masks/ledger.jsonl").read_bytes() == ledger
