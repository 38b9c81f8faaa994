"""Whether a mask can be trusted, and if not why: agreement of the network's passes, and rules on mask and scan.

Agreement is the mean Dice between passes (:mod:`liver_pipeline.inferers.agreement`). Thresholds lie in the run
(:mod:`liver_pipeline.evaluation.run_quality`). A rule that cannot be applied raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from liver_pipeline.evaluation.intervals import interval_columns
from liver_pipeline.evaluation.run_quality import QualityThresholds
from liver_pipeline.io.findings import Finding
from liver_pipeline.io.tables import write_table_or_warn

QUALITY_TABLE = "quality.csv"  # in a folder of masks
REASONS: dict[str, str] = {
    "LIVER_DISAGREEMENT": "the network's passes disagree on the liver",
    "TUMOR_DISAGREEMENT": "the network's passes disagree on the tumors",
    "NO_LIVER": "the mask holds no liver",
    "LIVER_IMPLAUSIBLE": "the first stage of the cascade found no possible liver; the whole scan was searched",
    "LIVER_SMALL": "the liver is smaller than livers are",
    "LIVER_LARGE": "the liver is larger than livers are",
    "LIVER_IN_PIECES": "much of what the network called liver lay apart from the largest piece and was removed",
    "LIVER_CUT_OFF": "the border of the scan cuts through the liver: volumes are lower bounds",
    "LIVER_SIDE": "the liver lies in the left half of the body: is the orientation right?",
    "UPSIDE_DOWN": "what looks like lung lies under the liver and not over it: is the orientation right?",
    "LIVER_HU": "the values inside the liver are not those of liver",
    "LIVER_NOISE": "the values inside the liver scatter too much",
    "SCAN_DOUBTFUL": "reading the scan raised a warning that bears on the mask",
}
HARMLESS = frozenset(("IGNORED_FILES", "SERIES_CHOSEN", "TRAILING_BYTES", "UNITS", "SHEAR"))  # as warnings
GOOD_DICE = {"liver": 0.9, "tumor": 0.5}  # a case that was segmented well, when thresholds are chosen
LEAST_CASES = 5  # good ones, to choose a threshold by


def choose_thresholds(cases: Sequence[Mapping[str, float | None]], base: QualityThresholds) -> QualityThresholds:
    """Choose the thresholds of agreement by cases with a reference.

    Of the cases that were segmented well (Dice at least 0.9 for liver, 0.5 for tumor) the 5th percentile of the
    agreement lies some way below the median; the threshold lies as much again below it, so that a good case of another
    scanner does not fall below at once. It is at least 0. With fewer than five such cases ``base`` keeps its own.

    Args:
        cases: Each with ``liver_dice``, ``tumor_dice``, ``liver_agreement``, ``tumor_agreement``; None is undefined.
        base: Whose other thresholds are kept.
    """
    chosen = {}
    for region, good in GOOD_DICE.items():
        agreements = [
            float(case[f"{region}_agreement"] or 0.0)
            for case in cases
            if (case[f"{region}_dice"] or 0.0) >= good and case[f"{region}_agreement"] is not None
        ]
        if len(agreements) >= LEAST_CASES:
            low, median = np.percentile(agreements, [5, 50])
            chosen[f"{region}_agreement"] = round(max(0.0, float(low - (median - low))), 3)
    return replace(base, **chosen)


def quality_table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the table of a folder's masks, those that are flagged first.

    Args:
        rows: Each with ``case`` and ``quality``, what :func:`judge` returned, and maybe ``intervals``, what
            :func:`~liver_pipeline.evaluation.intervals.volume_intervals` returned; such as rows of a ledger.
    """
    table = [
        {
            "case": row["case"],
            **{key: row["quality"][key] for key in ("flagged", "liver_agreement", "tumor_agreement")},
            **interval_columns(row.get("intervals")),
            "codes": [reason["code"] for reason in row["quality"]["reasons"]],
            "reasons": "; ".join(reason["message"] for reason in row["quality"]["reasons"]),
        }
        for row in rows
    ]
    return sorted(table, key=lambda row: (not row["flagged"], str(row["case"])))


def write_quality_table(folder: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write ``quality.csv`` into a folder of masks, from the rows of its ledger that were judged.

    Returns:
        A line on it, or "" where no mask was judged. A table that cannot be written is only warned of: the ledger has
        it all.
    """
    table = quality_table(row for row in rows if row.get("event") == "done" and row.get("quality"))
    if not table:
        return ""
    write_table_or_warn(folder / QUALITY_TABLE, table)
    flagged = sum(row["flagged"] for row in table)
    return f"{flagged} of {len(table)} masks that were judged are flagged; {folder / QUALITY_TABLE}\n"


def judge(
    facts: Mapping[str, Any],
    agreement: Mapping[str, float],
    thresholds: QualityThresholds,
    *,
    fallback: str = "",
    findings: Iterable[Finding] = (),
) -> dict[str, Any]:
    """Say whether a mask has to be looked at, and why.

    Args:
        facts: Of :func:`~liver_pipeline.evaluation.plausibility.plausibility`.
        agreement: ``liver``, ``tumor`` (absent: undefined), ``most_tumor_ml``; empty where passes were not compared.
        thresholds: What must be met.
        fallback: Why a cascade searched the whole scan; "" if it did not.
        findings: Warnings of the scan.

    Returns:
        ``flagged``; ``liver_agreement`` and ``tumor_agreement``, None where undefined: no pass found any, or passes
        were not compared; ``reasons``, each with ``code`` (a key of ``REASONS``) and ``message``; none: not flagged.
    """
    reasons = [
        *_disagreements(agreement, thresholds),
        *([("LIVER_IMPLAUSIBLE", fallback)] if fallback else []),
        *_rules(facts, thresholds),
        *(("SCAN_DOUBTFUL", f"{one.code}: {one.detail}") for one in findings if one.code not in HARMLESS),
    ]
    return {
        "flagged": bool(reasons),
        "liver_agreement": agreement.get("liver"),
        "tumor_agreement": agreement.get("tumor"),
        "reasons": [
            {"code": code, "message": f"{REASONS[code]} ({detail})" if detail else REASONS[code]}
            for code, detail in reasons
        ],
    }


def _disagreements(agreement: Mapping[str, float], limits: QualityThresholds) -> list[tuple[str, str]]:
    found = []
    for region, least in (("liver", limits.liver_agreement), ("tumor", limits.tumor_agreement)):
        dice = agreement.get(region)
        matters = region == "liver" or agreement.get("most_tumor_ml", 0.0) >= limits.min_tumor_ml
        if dice is not None and dice < least and matters:
            found.append((f"{region.upper()}_DISAGREEMENT", f"Dice {_beyond(dice, least, digits=2)}"))
    return found


def _beyond(value: float, limit: float, unit: str = "", digits: int = 0) -> str:
    """Return ``0.61, below 0.80``, with as many digits as it takes to tell one from the other."""
    while round(value, digits) == round(limit, digits):
        digits += 1
    return f"{value:.{digits}f}{unit}, {'below' if value < limit else 'above'} {limit:.{digits}f}"


def _rules(facts: Mapping[str, Any], limits: QualityThresholds) -> list[tuple[str, str]]:
    """Apply the rules to what is known."""
    ml = facts["liver_ml"]
    if ml == 0:
        return [("NO_LIVER", "")]
    found = []
    if ml < limits.min_liver_ml:
        found.append(("LIVER_SMALL", _beyond(ml, limits.min_liver_ml, " ml")))
    if ml > limits.max_liver_ml:
        found.append(("LIVER_LARGE", _beyond(ml, limits.max_liver_ml, " ml")))
    if facts["largest_share"] < limits.min_largest_share:
        found.append(("LIVER_IN_PIECES", f"the largest is {facts['largest_share']:.0%} of it"))
    if facts["cut_share"] > limits.max_cut_share:
        share, face = facts["cut_share"], facts["cut_face"]
        found.append(("LIVER_CUT_OFF", f"towards the {face}, {share:.0%} of its largest section"))
    right = facts["right_mm"]
    if right is not None and right < limits.min_right_mm:
        found.append(("LIVER_SIDE", f"its middle lies {-right:.0f} mm left of the body's"))
    below, above = facts.get("lung_below_ml", 0.0), facts.get("lung_above_ml", 0.0)
    if below >= limits.min_lung_ml and below > above:
        found.append(("UPSIDE_DOWN", f"{below:.0f} ml under its middle, {above:.0f} ml over it"))
    hu, spread = facts.get("hu"), facts.get("hu_spread")
    if hu is not None and not limits.min_hu <= hu <= limits.max_hu:
        found.append(("LIVER_HU", f"median {hu:.0f} HU, expected {limits.min_hu:.0f} to {limits.max_hu:.0f}"))
    if spread is not None and spread > limits.max_hu_spread:
        found.append(("LIVER_NOISE", f"standard deviation {_beyond(spread, limits.max_hu_spread, ' HU')}"))
    return found
