"""Charts of a comparison: bars with intervals, curves of training, ROC."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import mean

from liver_pipeline.comparison.results import RunResult
from liver_pipeline.comparison.tables import Comparison
from liver_pipeline.metrics.probabilities import FALSE_RATES
from liver_pipeline.metrics.shapes import SIZE_CLASSES
from liver_pipeline.reports.charts import TONES, Line, bar_chart, interval_bars, line_chart
from liver_pipeline.reports.comparison_tables import training_table
from liver_pipeline.reports.html import figure, shown_number
from liver_pipeline.reports.texts import (
    COMPARED,
    FOREGROUND_CAPTION,
    LOSS_CAPTION,
    SIZES,
    SIZES_CAPTION,
    VALIDATION_CAPTION,
    VALIDATION_LOSS_CAPTION,
)

BARS = ("liver_dice", "tumor_dice", "liver_hd95_mm", "tumor_hd95_mm", "lesion_recall", "lesion_precision")
TRAINING = {  # by column of log.csv: title, name of the axis, caption
    "train_loss": ("Loss, training", "loss", LOSS_CAPTION),
    "val_loss": ("Loss, validation", "loss", VALIDATION_LOSS_CAPTION),
    "val_dice_liver": ("Validation, liver", "Dice", VALIDATION_CAPTION),
    "val_dice_tumor": ("Validation, tumor", "Dice", VALIDATION_CAPTION),
    "val_foreground_accuracy": ("Validation, accuracy of the foreground", "share", FOREGROUND_CAPTION),
}
ROC_CAPTION = "Mean over cases and runs, inside the reference liver and 10 mm around it; dashed: a guess."


def bars(comparison: Comparison) -> str:
    """One chart a figure, all experiments that have it."""
    figures = []
    for key in BARS:
        rows = [
            (name, row["mean"], row["ci_low"], row["ci_high"], f"n = {row['n']}")
            for name in comparison.in_region("liver" if key.startswith("liver") else "tumor")
            for row in (comparison.statistics["summary"][name][key],)
        ]
        if any(row[1] is not None for row in rows):
            chart = interval_bars(rows, name=COMPARED[key], unit_range="mm" not in key)
            figures.append(figure(COMPARED[key], chart, "n: cases in which the figure is defined."))
    return f'<div class="charts">{"".join(figures)}</div>'


def training(comparison: Comparison) -> str:
    """Draw ``log.csv`` over epochs, a thin line a run, a thick one the mean of an experiment; then its table."""
    key = _key(comparison, comparison.experiments)
    figures = []
    for column, (title, name, caption) in TRAINING.items():
        lines = _lines(comparison, column)
        if lines:
            chart = line_chart(lines, x_name="epoch", name=name, unit_range="loss" not in column)
            figures.append(figure(title, chart, caption))
    return f'{key}<div class="charts">{"".join(figures)}</div>{training_table(comparison)}'


def _lines(comparison: Comparison, column: str) -> list[Line]:
    lines: list[Line] = []
    for tone, name in enumerate(comparison.experiments):
        runs = [_points(result, column) for result in comparison.of(name)]
        if len(runs) > 1:
            lines += [(tone, points, "thin") for points in runs if points]
        epochs = sorted({epoch for points in runs for epoch, _ in points})
        known = [dict(points) for points in runs]
        together = [(epoch, mean(run[epoch] for run in known if epoch in run)) for epoch in epochs]
        if together:
            lines.append((tone, together, ""))
    return lines


def _points(result: RunResult, column: str) -> list[tuple[float, float]]:
    return [
        (row["epoch"], value)
        for row in result.log
        if (value := row.get(column)) is not None and row["epoch"] is not None
    ]


def roc(comparison: Comparison) -> str:
    """One chart a region with the mean curve and AUC of each experiment."""
    figures = []
    for region in ("liver", "tumor"):
        names = comparison.in_region(region)
        curves = {name: comparison.roc(name, region) for name in names}
        lines: list[Line] = [
            (comparison.experiments.index(name), [(0.0, 0.0), *zip(FALSE_RATES.tolist(), curve, strict=True)], "")
            for name, curve in curves.items()
            if curve is not None
        ]
        if lines:
            chart = line_chart(
                lines, x_name="false-positive rate", name="true-positive rate", unit_range=True, chance=True
            )
            areas = {name: comparison.statistics["summary"][name][f"{region}_auc_roc"]["mean"] for name in names}
            key = _key(comparison, names, {name: f"AUC {shown_number(area)}" for name, area in areas.items()})
            figures.append(figure(region.capitalize(), chart, f"{key}{ROC_CAPTION}"))
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def sizes(comparison: Comparison) -> str:
    """Predicted lesions a run by size class, beside those of the reference."""
    names = comparison.in_region("tumor")
    if not names:
        return ""
    found = {name: comparison.tumors(name) for name in names}
    first = found[names[0]]
    groups = []
    for size in SIZE_CLASSES:
        there = first["reference_sizes"][size] / first["n_runs"]
        bars = [(name, one["sizes"][size] / one["n_runs"], "lesions a run") for name, one in found.items()]
        groups.append((SIZES[size], [("reference", there, "lesions"), *bars]))
    kinds = ["whole", *(f"bar tone{comparison.experiments.index(name) % TONES}" for name in names)]
    chart = bar_chart(groups, name="lesions", kinds=kinds, unit_range=False)
    key = _key(comparison, names, before='<span class="key whole">reference</span>')
    return f'<div class="charts">{figure("Lesions by size", chart, f"{key}{SIZES_CAPTION}")}</div>'


def _key(comparison: Comparison, names: Sequence[str], notes: dict[str, str] | None = None, before: str = "") -> str:
    """Colours of the experiments."""
    marks = [before]
    for name in names:
        tone = comparison.experiments.index(name) % TONES
        note = f" ({notes[name]})" if notes else ""
        marks.append(f'<span class="key tone tone{tone}">{escape(name + note)}</span>')
    return f"<p>{' '.join(marks)}</p>"
