"""Sections of the page about the LiTS challenge's program: its own figures, and how they differ from the report's."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from liver_pipeline.reports.gallery import Metrics
from liver_pipeline.reports.html import cell, row, shown_number, sortable, table, words
from liver_pipeline.reports.texts import LITS_DIFFERENCES

OFFICIAL_COLUMNS: tuple[tuple[str, Callable[[Metrics], float]], ...] = (
    ("Liver Dice", lambda case: float(case["liver"]["dice"])),
    ("Liver ASSD", lambda case: float(case["liver"]["assd"])),
    ("Tumor Dice", lambda case: float(case["lesion_dice_per_case"])),
    ("TP", lambda case: int(case["counts"]["iou>0.5"]["TP"])),
    ("FP", lambda case: int(case["counts"]["iou>0.5"]["FP"])),
    ("FN", lambda case: int(case["counts"]["iou>0.5"]["FN"])),
    ("Burden difference", lambda case: float(case["tumor_burden_diff"])),
)


def lits(metrics: Metrics) -> str:
    """Lesion figures as meant and as the challenge's program counts them, and why they differ."""
    if "lits_official" not in metrics:
        return ""
    keys = {
        "Recall, IoU > 0.5": "lesion_recall",
        "Precision, IoU > 0.5": "lesion_precision",
        "Recall, any overlap": "lesion_recall_greater_zero",
        "Precision, any overlap": "lesion_precision_greater_zero",
    }
    rows = [
        row(
            escape(title),
            shown_number(metrics["global"].get(key)),
            shown_number(metrics["lits_official"]["global"].get(key)),
        )
        for title, key in keys.items()
    ]
    reasons = [
        f"<tr><td>{escape(what)}</td>{words(theirs)}{words(ours)}</tr>" for what, theirs, ours in LITS_DIFFERENCES
    ]
    return (
        table(("Lesions", "This report", "Challenge's program"), rows, max_width="560px")
        + "<p>Why they differ:</p>"
        + table(("", "Challenge's program (2017)", "This report"), reasons, classes="prose")
        + "<p>For the program's own figures to the digit, run <code>--protocol lits-official</code>.</p>"
    )


def official_table(metrics: Metrics) -> str:
    """The challenge's keys, as its program prints them."""
    rows = [row(f"<code>{escape(key)}</code>", shown_number(value, 6)) for key, value in metrics["global"].items()]
    return table(("Key", "Value"), rows, max_width="560px")


def official_cases(metrics: Metrics) -> str:
    """Sortable table of cases under the challenge's program."""

    def figures(case: Any) -> str:
        return "".join(cell(shown_number(read(case)), read(case)) for _, read in OFFICIAL_COLUMNS)

    rows = [f"<tr>{cell(name, name)}{figures(case)}</tr>" for name, case in metrics["cases"].items()]
    return sortable(["Case", *(title for title, _ in OFFICIAL_COLUMNS)], rows)
