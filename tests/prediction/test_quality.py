"""Judged masks: the quality in record, ledger and table; masks stay as they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset, MetaTensor

from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.folder_run import FolderRun
from liver_pipeline.prediction.plan import find_scans
from liver_pipeline.prediction.segmenter import Segmenter
from liver_pipeline.transforms.load import LoadScand
from tests.prediction.test_folder_run import TinyInferer, TinyNetwork, clean, files, masks_of, rows, write_scan


class JudgedInferer(TinyInferer):
    """Says that passes agree by so much."""

    def __init__(self, quality: bool = True) -> None:
        super().__init__()
        self.quality = quality

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        pred = super().__call__(inputs, network)
        assert isinstance(pred, MetaTensor)
        if self.quality:
            pred.meta["inference"]["agreement"] = {"liver": 0.4, "most_tumor_ml": 0.0, "passes": 2}
        return pred


def runner(quality: bool, run: Path | None = None) -> CaseRunner:
    return CaseRunner(
        preprocessing=LoadScand("image"), inferer=JudgedInferer(quality), network=TinyNetwork(), postprocessing=clean,
        bundle_root=run, quality=quality,
    )  # fmt: skip


def predict(scans: Path, masks: Path, quality: bool, run: Path | None = None) -> None:
    dataset = Dataset(find_scans(scans))
    FolderRun(dataset=dataset, output_dir=masks, runner=runner(quality, run), progress=False).run()


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("a", "b/c"):
        write_scan(tmp_path / f"scans/{name}.nii.gz")
    return tmp_path / "scans"


def test_quality_is_in_record_ledger_and_table(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tmp_path / "masks"
    predict(scans, masks, quality=True)
    quality: dict[str, Any] = json.loads((masks / "b/c.json").read_text())["quality"]
    assert quality["flagged"]
    assert (quality["liver_agreement"], quality["tumor_agreement"]) == (0.4, None)
    assert {"LIVER_DISAGREEMENT", "LIVER_SMALL"} <= {reason["code"] for reason in quality["reasons"]}
    done = {row["case"]: row for row in rows(masks) if row["event"] == "done"}
    assert done["b/c"]["quality"] == quality
    assert done["b/c"]["intervals"] == json.loads((masks / "b/c.json").read_text())["intervals"]
    with (masks / "quality.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["liver_low_ml"] for row in table} == {""}  # no run, no validation cases
    assert [(row["case"], row["flagged"]) for row in table] == [("a", "True"), ("b/c", "True")]
    assert "2 of 2 masks that were judged are flagged" in capsys.readouterr().out
    assert Segmenter(runner(True))(scans / "b/c.nii.gz").record["quality"] == quality


def test_a_judgement_that_is_asked_for_later_is_made_and_masks_are_the_same(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    predict(scans, masks, quality=False)
    assert not (masks / "quality.csv").exists()
    assert json.loads((masks / "a.json").read_text())["quality"] is None
    before = masks_of(masks)
    predict(scans, masks, quality=True)
    assert masks_of(masks) == before and (masks / "quality.csv").exists()
    assert json.loads((masks / "a.json").read_text())["quality"]["flagged"]
    judged = files(masks)
    for quality in (True, False):  # nothing is run again
        predict(scans, masks, quality=quality)
        assert files(masks) == judged


def test_thresholds_of_the_run_decide(scans: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lenient = {"liver_agreement": 0.3, "min_liver_ml": 0, "max_hu_spread": 1000, "min_right_mm": -100, "min_hu": -200}
    (run / "quality.json").write_text(json.dumps({"thresholds": lenient}))
    predict(scans, tmp_path / "masks", quality=True, run=run)
    quality = json.loads((tmp_path / "masks/a.json").read_text())["quality"]
    assert {reason["code"] for reason in quality["reasons"]} <= {"SCAN_DOUBTFUL"}
    (run / "quality.json").write_text("{}")
    with pytest.raises(ValueError, match="thresholds"):
        runner(True, run)
