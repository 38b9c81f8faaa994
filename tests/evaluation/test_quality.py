"""Which masks are flagged and why; where thresholds come from."""

from __future__ import annotations

from typing import Any

import pytest

from liver_pipeline.evaluation.quality import REASONS, choose_thresholds, judge, quality_table
from liver_pipeline.evaluation.run_quality import QualityThresholds
from liver_pipeline.io.findings import warning

GOOD: dict[str, Any] = {
    "liver_ml": 1500.0, "largest_share": 1.0, "cut_share": 0.0, "cut_face": "", "right_mm": 50.0, "hu": 100.0,
    "hu_spread": 20.0, "lung_above_ml": 800.0, "lung_below_ml": 5.0,
}  # fmt: skip
AGREED = {"liver": 0.95, "tumor": 0.7, "most_tumor_ml": 20.0}


def codes(facts: dict[str, Any], agreement: dict[str, float] = AGREED, **more: Any) -> list[str]:
    judged = judge(facts, agreement, QualityThresholds(), **more)
    assert judged["flagged"] == bool(judged["reasons"])
    assert all(REASONS[reason["code"]] in reason["message"] for reason in judged["reasons"])
    return [reason["code"] for reason in judged["reasons"]]


def test_a_good_mask_is_not_flagged() -> None:
    assert judge(GOOD, AGREED, QualityThresholds()) == {
        "flagged": False, "liver_agreement": 0.95, "tumor_agreement": 0.7, "reasons": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"liver_ml": 0.0}, "NO_LIVER"),
        ({"liver_ml": 499.0}, "LIVER_SMALL"),
        ({"liver_ml": 4001.0}, "LIVER_LARGE"),
        ({"largest_share": 0.7}, "LIVER_IN_PIECES"),
        ({"cut_share": 0.5, "cut_face": "head"}, "LIVER_CUT_OFF"),
        ({"right_mm": -30.0}, "LIVER_SIDE"),
        ({"lung_below_ml": 900.0}, "UPSIDE_DOWN"),
        ({"hu": -400.0}, "LIVER_HU"),
        ({"hu": 700.0}, "LIVER_HU"),
        ({"hu_spread": 300.0}, "LIVER_NOISE"),
    ],
)
def test_each_rule_has_its_reason(change: dict[str, Any], code: str) -> None:
    assert codes({**GOOD, **change}) == [code]


def test_a_value_at_its_limit_is_no_reason_but_so_much_lung_and_so_large_a_tumor_are() -> None:
    limits = QualityThresholds()
    least = {
        "liver_ml": limits.min_liver_ml, "largest_share": limits.min_largest_share, "cut_share": limits.max_cut_share,
        "right_mm": limits.min_right_mm, "hu": limits.min_hu, "hu_spread": limits.max_hu_spread,
    }  # fmt: skip
    agreement = {"liver": limits.liver_agreement, "tumor": limits.tumor_agreement, "most_tumor_ml": 20.0}
    assert codes({**GOOD, **least}, agreement) == []
    assert codes({**GOOD, "liver_ml": limits.max_liver_ml, "hu": limits.max_hu}) == []
    assert codes({**GOOD, "lung_below_ml": limits.min_lung_ml, "lung_above_ml": limits.min_lung_ml}) == []
    assert codes({**GOOD, "lung_below_ml": limits.min_lung_ml, "lung_above_ml": 0.0}) == ["UPSIDE_DOWN"]
    assert codes(GOOD, {**agreement, "tumor": 0.0, "most_tumor_ml": limits.min_tumor_ml}) == ["TUMOR_DISAGREEMENT"]


def test_what_is_not_known_is_no_reason() -> None:
    facts = {key: GOOD[key] for key in ("liver_ml", "largest_share", "cut_share", "cut_face")}
    assert codes({**facts, "right_mm": None}, {}) == []


def test_disagreement_counts_where_there_is_tumor_enough() -> None:
    assert codes(GOOD, {**AGREED, "liver": 0.5}) == ["LIVER_DISAGREEMENT"]
    assert codes(GOOD, {**AGREED, "tumor": 0.0}) == ["TUMOR_DISAGREEMENT"]
    assert codes(GOOD, {**AGREED, "tumor": 0.0, "most_tumor_ml": 0.4}) == []


def test_a_reason_tells_a_value_from_its_limit() -> None:
    def message(facts: dict[str, Any], liver: float, limits: QualityThresholds) -> str:
        [reason] = judge(facts, {**AGREED, "liver": liver}, limits)["reasons"]
        return str(reason["message"])

    assert message(GOOD, 0.61, QualityThresholds()).endswith("(Dice 0.61, below 0.80)")
    assert message(GOOD, 0.9179, QualityThresholds(liver_agreement=0.919)).endswith("(Dice 0.918, below 0.919)")
    assert message({**GOOD, "liver_ml": 499.96}, 1.0, QualityThresholds()).endswith("(499.96 ml, below 500.00)")
    assert message({**GOOD, "hu_spread": 130.0}, 1.0, QualityThresholds()).endswith("deviation 130 HU, above 100)")


def test_a_first_stage_that_found_nothing_is_a_reason() -> None:
    assert codes(GOOD, fallback="no liver found") == ["LIVER_IMPLAUSIBLE"]


def test_warnings_of_the_scan_are_reasons_but_for_harmless_ones() -> None:
    findings = [warning("IGNORED_FILES", "a scout"), warning("SLICE_JUMP", "slices 3 and 4")]
    judged = judge(GOOD, AGREED, QualityThresholds(), findings=findings)
    assert [reason["code"] for reason in judged["reasons"]] == ["SCAN_DOUBTFUL"]
    assert "SLICE_JUMP: slices 3 and 4" in judged["reasons"][0]["message"]


def case(dice: float | None, agreement: float | None) -> dict[str, float | None]:
    return {"liver_dice": dice, "liver_agreement": agreement, "tumor_dice": None, "tumor_agreement": None}


def test_thresholds_come_from_cases_that_went_well() -> None:
    """Agreement 0.90 to 1.00 in steps of 0.01: 5th percentile 0.905, median 0.95, as much again below: 0.86."""
    good = [case(0.95, 0.9 + 0.01 * step) for step in range(11)]
    bad = [case(0.4, 0.1), case(None, 0.2), case(0.99, None)]
    chosen = choose_thresholds([*good, *bad], QualityThresholds(tumor_agreement=0.25, max_hu=300.0))
    assert chosen == QualityThresholds(liver_agreement=0.86, tumor_agreement=0.25, max_hu=300.0)


def test_with_few_good_cases_thresholds_stay() -> None:
    assert choose_thresholds([case(0.95, 0.5)] * 4, QualityThresholds()) == QualityThresholds()


def test_the_table_begins_with_flagged_masks() -> None:
    fine = judge(GOOD, AGREED, QualityThresholds())
    bad = judge({**GOOD, "hu": 700.0, "liver_ml": 1.0}, {}, QualityThresholds())
    table = quality_table([{"case": "a", "quality": fine}, {"case": "b", "quality": bad}])
    assert [(row["case"], row["flagged"]) for row in table] == [("b", True), ("a", False)]
    assert table[0]["codes"] == ["LIVER_SMALL", "LIVER_HU"]
    assert "1 ml, below 500" in table[0]["reasons"]
