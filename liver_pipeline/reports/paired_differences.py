"""Paired differences of a comparison: which of two experiments is better, and whether the test says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from liver_pipeline.comparison.tables import Comparison
from liver_pipeline.metrics.comparisons import FIGURES
from liver_pipeline.reports.html import row, section_row, table, with_interval
from liver_pipeline.reports.texts import COMPARED, digits_of, lower_is_better

MAIN_FIGURES = ("liver_dice", "tumor_dice", "liver_hd95_mm", "tumor_hd95_mm", "lesion_recall", "lesion_precision")
SIGNIFICANT = 0.05


def paired_differences(comparison: Comparison) -> str:
    """Paired differences: the main figures open, the others folded away."""
    if len(comparison.experiments) < 2:
        return ""
    others = [key for key in FIGURES if key not in MAIN_FIGURES]
    return (
        f"{_differences_of(comparison, MAIN_FIGURES)}<details><summary>All other figures</summary>"
        f"{_differences_of(comparison, others)}</details>"
    )


def _differences_of(comparison: Comparison, figures: Sequence[str]) -> str:
    head = ("First − second", "Mean difference [95 % interval]", "p", "p (Holm)", "patients", "cases", "")
    rows = []
    for key in figures:
        pairs = pairs_of(comparison, key)
        if pairs:
            rows.append(section_row(COMPARED[key], len(head)))
        for pair in pairs:
            digits = digits_of(key)
            rows.append(
                row(
                    f"{escape(pair['first'])} − {escape(pair['second'])}",
                    with_interval(pair["mean"], (pair["ci_low"], pair["ci_high"]), digits),
                    p_value(pair["p"]),
                    p_value(pair["p_holm"]),
                    str(pair["n_patients"]),
                    str(pair["n_cases"]),
                    escape(verdict(pair, key)),
                )
            )
    return table(head, rows)


def pairs_of(comparison: Comparison, key: str) -> list[dict[str, Any]]:
    """Pairs of experiments that both have the figure."""
    names = comparison.in_region("liver" if key.startswith("liver") else "tumor")
    pairs = comparison.statistics["pairs"]
    return [pair for pair in pairs if pair["figure"] == key and pair["first"] in names and pair["second"] in names]


def verdict(pair: Mapping[str, Any], key: str) -> str:
    """Which of two is better, if the corrected p says so."""
    if pair["p_holm"] is None or pair["p_holm"] >= SIGNIFICANT:
        return ""
    first_better = (pair["mean"] > 0) != lower_is_better(key)
    return f"{pair['first' if first_better else 'second']} better"


def p_value(p: float | None) -> str:
    """A p value for reading."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3g}"
