"""What a run knows of its masks: read, written, and refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from liver_pipeline.evaluation.run_quality import QualityThresholds, RunQuality, read_quality, write_quality
from liver_pipeline.io.findings import IntakeError

CASE = {"case": "a", "liver_ml": 1500.0, "liver_reference_ml": 1510.0, "tumor_ml": 0.0, "tumor_reference_ml": 0.0}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_quality(tmp_path) == read_quality(None) == RunQuality()
    found = RunQuality(QualityThresholds(liver_agreement=0.7), "by hand", [CASE], "w" * 64, "c" * 64, painted=True)
    write_quality(tmp_path, found)
    assert read_quality(tmp_path) == found


def test_a_file_with_thresholds_alone_leaves_the_rest_general(tmp_path: Path) -> None:
    (tmp_path / "quality.json").write_text('{"thresholds": {"max_hu": 300}}')
    assert read_quality(tmp_path) == RunQuality(QualityThresholds(max_hu=300.0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"thresholds": {"liver": 0.5}}, "no threshold liver"),
        ({"thresholds": {"max_hu": "high"}}, "max_hu is 'high'"),
        ({"thresholds": {"max_hu": True}}, "expected a number"),
        ({}, "no 'thresholds'"),
        ([], "no 'thresholds'"),
        ({"thresholds": {}, "weights_sha256": None}, "weights_sha256 is None"),
        ({"thresholds": {}, "painted": "yes"}, "painted is 'yes'"),
        ({"thresholds": {}, "cases": {"a": 1}}, "cases is"),
        ({"thresholds": {}, "cases": ["a"]}, "cases hold 'a'"),
        ({"thresholds": {}, "cases": [{**CASE, "liver_ml": -1.0}]}, "liver_ml of a case is -1.0"),
        ({"thresholds": {}, "cases": [{**CASE, "tumor_reference_ml": None}]}, "tumor_reference_ml of a case is None"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    (tmp_path / "quality.json").write_text(json.dumps(content))
    with pytest.raises(IntakeError, match=said) as refused:
        read_quality(tmp_path)
    assert refused.value.code == "QUALITY_FILE"


@pytest.mark.parametrize("text", ["", '{"thresholds": ', "\x00\x01"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "quality.json").write_text(text)
    with pytest.raises(IntakeError, match=r"quality\.json") as refused:
        read_quality(tmp_path)
    assert refused.value.code == "QUALITY_FILE"
