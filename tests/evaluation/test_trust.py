"""Judged masks against their references: what is read, what is left out, how flagged ones fare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.evaluation.trust import judged_cases, trust_curves, with_quality
from tests.commands.test_evaluate import folders, scene, schema


def figures(dice: float | None, agreement: float | None, flagged: bool = False) -> dict[str, Any]:
    quality: dict[str, Any] = {"flagged": flagged, "liver_agreement": agreement, "tumor_agreement": None, "codes": []}
    volumes = {"volume_ml": 1500.0, "reference_volume_ml": 1600.0}
    return {"liver": {"dice": dice, **volumes}, "tumor": {"dice": 0.5, **volumes}, "quality": quality}


def test_curve_groups_and_what_is_left_out() -> None:
    results = {
        "a": figures(0.9, 0.95),
        "b": figures(0.5, 0.6, flagged=True),
        "empty": figures(None, 0.9),
        "unknown": figures(0.9, None),
        "not judged": {"liver": {"dice": 0.1}, "tumor": {"dice": 0.1}},
    }
    curves = trust_curves(results)
    assert list(curves) == ["liver"]  # no tumor agreement is known
    liver = curves["liver"]
    assert (liver["n"], liver["n_left_out"]) == (2, 2)
    np.testing.assert_allclose(liver["risk"], [0.1, 0.3])
    assert liver["area"] == pytest.approx(0.2)
    assert liver["flagged"] == {"n": 1, "risk": 0.5}
    assert liver["not_flagged"] == {"n": 1, "risk": pytest.approx(0.1)}
    judged = judged_cases(results)
    assert [case["case"] for case in judged] == ["a", "b", "empty", "unknown"]
    assert (judged[0]["liver_ml"], judged[0]["liver_reference_ml"]) == (1500.0, 1600.0)


def test_without_judged_cases_there_is_no_curve() -> None:
    assert trust_curves({"a": {"liver": {"dice": 0.1}, "tumor": {"dice": 0.1}}}) == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"quality": null}', '{"quality": {"by": "somebody else"}}'])
def test_a_record_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert with_quality({"a": {"liver": 1}}, {"a": tmp_path / "a.nii.gz"}) == {"a": {"liver": 1}}


def test_evaluate_draws_the_curve_of_masks_that_were_judged(tmp_path: Path) -> None:
    pred_dir, label_dir, output = folders(tmp_path, a=scene(0), b=scene(1), c=scene(2))
    for name, trust in (("a", 0.9), ("b", 0.4)):
        quality = {
            "flagged": trust < 0.5,
            "liver_agreement": trust,
            "tumor_agreement": None,
            "reasons": [{"code": "LIVER_CUT_OFF", "message": "cut"}] if trust < 0.5 else [],
        }
        (pred_dir / f"{name}.json").write_text(json.dumps({"quality": quality}))
    metrics = evaluate(pred_dir, label_dir, output)
    jsonschema.validate(metrics, schema())
    assert metrics["risk_coverage"]["liver"]["n"] == 2
    assert "quality_flagged" in (output / "cases.csv").read_text().splitlines()[0]
    page = (output / "report.html").read_text()
    assert "Does it know when it does not know" in page
    assert "flagged: LIVER_CUT_OFF" in page


def test_the_page_is_without_the_section_where_nothing_was_judged(tmp_path: Path) -> None:
    evaluate(*folders(tmp_path, a=scene(0)))
    assert "Does it know" not in (tmp_path / "out/report.html").read_text()
