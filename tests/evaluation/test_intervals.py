"""Intervals of a mask's volumes, and the reason where there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from liver_pipeline.evaluation.intervals import (
    UNCALIBRATED,
    interval_columns,
    interval_examples,
    interval_text,
    volume_intervals,
)
from liver_pipeline.evaluation.run_quality import RunQuality

SAME: dict[str, Any] = {"weights_sha256": "w", "config_sha256": "c"}
VOLUMES = {"liver": 999.0, "tumor": 9.0}


def case(liver: float, tumor: float, factor: float = 1.1) -> dict[str, Any]:
    """A case whose reference, with 1 ml added, is ``factor`` times the mask."""
    return {
        "liver_ml": liver, "liver_reference_ml": factor * (liver + 1) - 1,
        "tumor_ml": tumor, "tumor_reference_ml": max(0.0, factor * (tumor + 1) - 1) if tumor else 0.0,
    }  # fmt: skip


def run(n: int = 20, tumor: float = 4.0) -> RunQuality:
    return RunQuality(cases=[case(1000.0 + k, tumor) for k in range(n)], **SAME)


def codes(quality: RunQuality, volumes: Any = VOLUMES, **made: str) -> dict[str, str]:
    told = volume_intervals(quality, volumes, **{**SAME, **made})
    assert all(told[name] is None for name in told["reasons"])
    assert all(UNCALIBRATED[why["code"]] in why["message"] for why in told["reasons"].values())
    return {name: why["code"] for name, why in told["reasons"].items()}


def test_all_references_a_tenth_larger_gives_a_tenth_both_ways() -> None:
    told = volume_intervals(run(), VOLUMES, **SAME)
    assert told["reasons"] == {}
    assert told["liver_ml"] == {
        "volume": 999.0, "low": pytest.approx(1000 / 1.1 - 1, abs=1e-3), "high": pytest.approx(1099.0), "cases": 20,
    }  # fmt: skip
    assert told["tumor_ml"]["low"] == pytest.approx(10 / 1.1 - 1, abs=1e-3)
    assert told["tumor_ml"]["high"] == pytest.approx(10.0)
    assert interval_text(told["liver_ml"], told["level"]) == "(90 %: 908-1099)"
    assert interval_text(told["tumor_ml"], told["level"]) == "(90 %: 8.1-10.0)"
    assert interval_text(None, 0.9) == ""
    columns = interval_columns(told)
    assert (columns["liver_low_ml"], columns["tumor_high_ml"]) == (told["liver_ml"]["low"], told["tumor_ml"]["high"])
    assert set(interval_columns(None).values()) == {None}


@pytest.mark.parametrize(
    ("quality", "code"),
    [
        (RunQuality(), "NOT_TUNED"),
        (RunQuality(cases=[{"case": "a", "liver_dice": 0.9}]), "NOT_TUNED"),  # written before volumes were kept
        (replace(run(), painted=True), "PAINTED"),
        (replace(run(), weights_sha256="x"), "OTHER_WEIGHTS"),
        (replace(run(), config_sha256="x"), "OTHER_SETTINGS"),
        (run(19), "FEW_CASES"),
    ],
)
def test_each_gap_has_its_reason(quality: RunQuality, code: str) -> None:
    assert codes(quality) == {"liver_ml": code, "tumor_ml": code}


def test_a_picture_has_no_millilitres() -> None:
    assert set(codes(run(), {"liver": None, "tumor": None}).values()) == {"NO_MILLIMETRES"}


def test_validation_cases_without_tumors_say_nothing_of_tumors() -> None:
    assert codes(run(tumor=0.0)) == {"tumor_ml": "NO_TUMORS"}
    some = replace(run(), cases=[*run(19).cases, *run(30, tumor=0.0).cases])
    assert codes(some) == {"tumor_ml": "FEW_CASES"}
    assert "(19)" in volume_intervals(some, VOLUMES, **SAME)["reasons"]["tumor_ml"]["message"]


def test_cases_without_tumor_do_not_narrow_the_interval() -> None:
    with_empty = replace(run(), cases=[*run().cases, *run(500, tumor=0.0).cases])
    narrow, plain = (volume_intervals(quality, VOLUMES, **SAME)["tumor_ml"] for quality in (with_empty, run()))
    assert narrow == plain is not None


def test_a_missed_tumor_counts() -> None:
    """Two of 20 masks miss a tumor of e^2 - 1 ml: the 19th of 20 scores is 2."""
    missed = {"liver_ml": 1000.0, "liver_reference_ml": 1000.0, "tumor_ml": 0.0, "tumor_reference_ml": math.e**2 - 1}
    quality = replace(run(), cases=[*run(18).cases, missed, missed])
    told = volume_intervals(quality, {"liver": 999.0, "tumor": 0.0}, **SAME)
    assert told["tumor_ml"]["high"] == pytest.approx(math.e**2 - 1, abs=1e-3)
    assert told["tumor_ml"]["low"] == 0.0


def test_examples_say_interval_or_reason() -> None:
    liver, tumor = interval_examples(run(tumor=0.0))
    assert liver == "liver, 1500 ml: (90 %: 1364-1650)"
    assert tumor.startswith("tumor, 20 ml: no interval: no validation case")
