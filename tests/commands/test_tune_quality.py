"""What a run's validation cases say of its masks: thresholds, intervals, and when they say nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import betabinom

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.commands.tune_quality import tune_quality
from liver_pipeline.evaluation.run_quality import QualityThresholds, read_quality, write_quality
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.metrics.conformal import volume_interval, volume_score
from tests.small import UNET3D, make_phantoms


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with two validation cases, tuned, and its data."""
    folder = tmp_path_factory.mktemp("tuned")
    values = {**UNET3D, "dataset_dir": str(make_phantoms(folder / "data", 4)), "split_fractions": [0.5, 0.5, 0.0]}
    lp.train(folder / "run", {}, overrides=values)
    (folder / "run/quality.json").write_text('{"thresholds": {"max_hu": 400}}')
    tune_quality(folder / "run")
    return folder


@pytest.fixture
def seasoned(tuned: Path) -> Iterator[Path]:
    """The same run as if each validation case were eleven."""
    found = read_quality(tuned / "run")
    write_quality(tuned / "run", replace(found, cases=[*found.cases] * 11))
    yield tuned
    write_quality(tuned / "run", found)


def scan_of(folder: Path) -> Path:
    return sorted((folder / "data").rglob("*volume*"))[0]


def beside(mask: Path, ending: str) -> Any:
    return json.loads(mask.with_name(mask.name.replace(".nii.gz", ending)).read_text())


def test_thresholds_figures_and_hashes_are_written_into_the_run(tuned: Path) -> None:
    found = read_quality(tuned / "run")
    assert len(found.cases) == 2
    assert all(case["liver_agreement"] is not None for case in found.cases)
    assert found.thresholds == QualityThresholds(max_hu=400.0)  # two cases are too few to choose by
    record = beside(tuned / "run/tuning/quality/masks" / f"{found.cases[0]['case']}.nii.gz", ".json")
    assert record["quality"]["liver_agreement"] == found.cases[0]["liver_agreement"]
    assert sum(record["output"]["volume_ml"].values()) == pytest.approx(found.cases[0]["liver_ml"], abs=2e-3)
    with pytest.raises(ValueError, match="quality"):
        lp.train(tuned / "run", {}, overrides={"quality": True})  # a training does not use it


def test_a_mask_has_its_interval_in_record_ledger_table_and_description(seasoned: Path, tmp_path: Path) -> None:
    """With 22 validation cases the 21st score, ceil(23 * 0.9), bounds the volume both ways."""
    lp.predict(seasoned / "run", scan_of(seasoned), tmp_path / "m", overrides={"quality": True, "describe": True})
    (mask,) = (tmp_path / "m").glob("*.nii.gz")
    told = beside(mask, ".json")["intervals"]
    cases = read_quality(seasoned / "run").cases
    scores = sorted(volume_score(case["liver_ml"], case["liver_reference_ml"]) for case in cases)
    volume = told["liver_ml"]["volume"]
    low, high = volume_interval(volume, scores[20])
    assert told["liver_ml"] == {"volume": volume, "low": round(low, 3), "high": round(high, 3), "cases": 22}
    assert json.loads((tmp_path / "m/ledger.jsonl").read_text().splitlines()[-1])["intervals"] == told
    with (tmp_path / "m/quality.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["liver_high_ml"]) == told["liver_ml"]["high"]
    described = beside(mask, ".description.json")["liver"]["intervals"]
    assert described == {key: value for key, value in told.items() if key != "reasons"}


def test_confidence_is_calibrated_and_masks_stay(tuned: Path, tmp_path: Path) -> None:
    """The temperature is that of the validation cases; mask and file of probabilities do not know it."""
    temperature = read_quality(tuned / "run").temperature
    assert temperature is not None and temperature > 0
    plain: dict[str, Any] = {"probabilities": True, "describe": True}
    lp.predict(tuned / "run", scan_of(tuned), tmp_path / "a.nii.gz", overrides=plain)
    told = beside(tmp_path / "a.nii.gz", ".json")
    assert told["confidence"] == {"temperature": temperature, "reason": None}
    assert beside(tmp_path / "a.nii.gz", ".description.json")["calibration"] == told["confidence"]
    lp.predict(tuned / "run", scan_of(tuned), tmp_path / "b.nii.gz", overrides={**plain, "tta": [0]})
    assert beside(tmp_path / "b.nii.gz", ".json")["confidence"]["reason"]["code"] == "OTHER_SETTINGS"
    assert "other settings" in beside(tmp_path / "b.nii.gz", ".description.json")["calibration"]["reason"]
    (tuned / "run/quality.json").rename(tmp_path / "aside.json")
    lp.predict(tuned / "run", scan_of(tuned), tmp_path / "c.nii.gz", overrides=plain)
    (tmp_path / "aside.json").rename(tuned / "run/quality.json")
    for ending in (".nii.gz", ".probabilities.nii.gz"):
        assert (tmp_path / f"c{ending}").read_bytes() == (tmp_path / f"a{ending}").read_bytes()


def test_other_settings_and_other_weights_have_no_interval(seasoned: Path, tmp_path: Path) -> None:
    weights = torch.load(seasoned / "run/models/model.pt", weights_only=True)
    next(iter(weights["model"].values())).mul_(1.01)
    torch.save(weights, tmp_path / "other.pt")
    changes: dict[str, dict[str, Any]] = {
        "": {"probabilities": True},
        "OTHER_SETTINGS": {"tta": [0]},
        "OTHER_WEIGHTS": {"ckpt_path": str(tmp_path / "other.pt")},
    }
    for code, overrides in changes.items():
        mask = tmp_path / f"m{code}.nii.gz"
        lp.predict(seasoned / "run", scan_of(seasoned), mask, overrides=overrides)
        told = beside(mask, ".json")["intervals"]
        assert told["reasons"].get("liver_ml", {}).get("code", "") == code
        assert (told["liver_ml"] is None) == bool(code)


def test_a_run_without_validation_cases_is_refused(tuned: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("configs", "models"):
        (run / name).symlink_to(tuned / "run" / name)
    split = json.loads((tuned / "run/split.json").read_text())
    everything = {"train": [case for cases in split["cases"].values() for case in cases], "val": [], "test": []}
    (run / "split.json").write_text(json.dumps({**split, "cases": everything}))
    with pytest.raises(IntakeError) as refused:
        tune_quality(run)
    assert refused.value.code == "NO_VALIDATION"
    assert not (run / "quality.json").exists()


@pytest.mark.slow
def test_held_out_phantoms_are_covered(tmp_path: Path) -> None:
    """Validated on 40, tested on 60. The bound is the 37th of 40 scores: hits are beta-binomial(60, 37, 4).

    Split conformal says so of any network; with fewer hits than asked here it would be wrong once in 10^4 runs.
    """
    values = {**UNET3D, "max_epochs": 20, "val_interval": 20, "split_fractions": [10 / 110, 40 / 110, 60 / 110]}
    data = make_phantoms(tmp_path / "data", 110)
    lp.train(tmp_path / "run", {}, overrides={**values, "dataset_dir": str(data)})
    assert len(tune_quality(tmp_path / "run").cases) == 40
    _, metrics = run_workflow(tmp_path / "run", "evaluate", {"protocol": "plain"})
    for region in ("liver", "tumor"):
        hits = 0
        for case, figures in metrics["cases"].items():
            interval = beside(tmp_path / f"run/evaluation/masks/{case}.nii.gz", ".json")["intervals"][f"{region}_ml"]
            hits += interval["low"] <= figures[region]["reference_volume_ml"] <= interval["high"]
        assert hits >= betabinom.ppf(1e-4, len(metrics["cases"]), 37, 4)
