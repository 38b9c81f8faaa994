"""Tables of a comparison: results, confusion, cost, predicted tumors, cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from liver_pipeline.comparison.tables import Comparison
from liver_pipeline.metrics.comparisons import FIGURES
from liver_pipeline.reports.html import (
    cell,
    plural,
    row,
    section_row,
    shown_number,
    sortable,
    table,
    with_interval,
    words,
)
from liver_pipeline.reports.sections import confusion_table
from liver_pipeline.reports.texts import COMPARED, COST, REGION_NAMES, SIZES, TUMORS_CAPTION, digits_of, short_name

LOG_COLUMNS = {
    "train_loss": "Loss, training",
    "val_loss": "Loss, validation",
    "val_mean_dice": "Dice, validation",
    "val_dice_liver": "of the liver",
    "val_dice_tumor": "of tumor",
    "val_foreground_accuracy": "Accuracy of the foreground",
}
SIZE_LABELS = tuple(label for key, label in SIZES.items() if key != "all")
LEAST_PATIENTS = 6  # with fewer no two-sided signed-rank test can reach 0.05


def comparison_headline(comparison: Comparison) -> str:
    """What was compared on what, and what a reader must know first."""
    parts = ", ".join(
        f"{len(split['train'])} / {len(split['val'])} / {len(split['test'])}" for split in comparison.splits
    )
    folds = f" in {len(comparison.splits)} folds" if len(comparison.splits) > 1 else ""
    seeds = plural(comparison.n_seeds, "seed")
    line = (
        f"{plural(len(comparison.experiments), 'experiment')}, {plural(len(comparison.results), 'run')} "
        f"({seeds}{folds}), "
        f"judged on {plural(comparison.n_cases, 'test case')} of {plural(comparison.n_patients, 'patient')}. "
        f"Cases to train / validate / test: {parts}. One split by patient for all. Intervals are 95 %."
    )
    notes = [f'<p class="note">{escape(note)}</p>' for note in remarks(comparison)]
    return f'<p class="soft">{escape(line)}</p>{"".join(notes)}'


def remarks(comparison: Comparison) -> list[str]:
    """What limits the comparison, one sentence or two each."""
    found = []
    if comparison.mixed:
        liver_only = [name for name in comparison.experiments if not comparison.knows_tumor(name)]
        found.append(
            f"Without a tumor class: {', '.join(liver_only)}. All are compared on the liver, where tumor counts as "
            "liver on both sides; on tumors only the others are."
        )
    if comparison.n_patients < LEAST_PATIENTS:
        least = 2 / 2**comparison.n_patients
        found.append(
            f"With {plural(comparison.n_patients, 'patient')} the signed-rank test cannot give a p below "
            f"{min(1.0, least):.3g}: no difference can be called significant, and intervals are rough."
        )
    counts = {name: len(comparison.of(name)) for name in comparison.experiments}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        found.append(f"Not every experiment has all its runs ({listed}); see what failed.")
    return found


def comparison_failures(comparison: Comparison) -> str:
    """Runs that failed and test cases without figures."""
    rows = [
        f"<tr><td>{escape(one.run)}</td>{words(one.stage, classes='bad')}{words(one.reason)}</tr>"
        for one in comparison.failed
    ]
    rows += [
        f"<tr><td>{escape(one['experiment'])}/{escape(one['run'])}</td>{words(one['case'], classes='bad')}"
        f"{words(one['failure'])}</tr>"
        for one in comparison.case_failures
    ]
    return table(("Run", "Stage or case", "What happened"), rows, classes="prose") if rows else ""


def results(comparison: Comparison) -> str:
    """Mean with interval of each figure, experiments as rows, a table a region."""
    parts = []
    for region, title in (("liver", REGION_NAMES["liver"]), ("tumor", REGION_NAMES["tumor"])):
        names = comparison.in_region(region)
        if names:
            parts.append(f"<h3>{escape(title)}</h3>{_results_of(comparison, names, figures_of(region))}")
    return "".join(parts)


def figures_of(region: str) -> list[str]:
    """Figures of a region; those of lesions go with the tumor."""
    return [key for key in FIGURES if key.startswith(region) or (region == "tumor" and key.startswith("lesion"))]


def _results_of(comparison: Comparison, names: Sequence[str], figures: Sequence[str]) -> str:
    head = ("Experiment", *(short_name(key) for key in figures))
    rows = []
    for name in names:
        summary = comparison.statistics["summary"][name]
        cells = [f"<td>{_figure(summary[key], key)}</td>" for key in figures]
        runs = plural(len(comparison.of(name)), "run")
        rows.append(f"<tr><td>{escape(name)}<small>{runs}</small></td>{''.join(cells)}</tr>")
    return table(head, rows, classes="tight")


def _figure(summary: Mapping[str, Any], key: str) -> str:
    """Mean, interval, cases, spread of the seeds."""
    digits = digits_of(key)
    lines = [shown_number(summary["mean"], digits)]
    if summary["ci_low"] is not None:
        lines.append(
            f"<small>{shown_number(summary['ci_low'], digits)} to {shown_number(summary['ci_high'], digits)}</small>"
        )
    lines.append(f"<small>n = {summary['n']}</small>")
    if summary["n_undefined"]:
        lines.append(f'<small class="bad">{summary["n_undefined"]} undefined</small>')
    seeds = list(summary["seeds"].values())
    if len(seeds) > 1 and key.endswith("dice"):
        spread = " to ".join(shown_number(end, digits) for end in (min(seeds), max(seeds)))
        lines.append(f"<small>seeds: {spread}</small>")
    return "".join(lines)


def training_table(comparison: Comparison) -> str:
    """Training and validation side by side: each run at the epoch whose weights are kept; folded away, all epochs."""
    head = ("Run", "Epoch", *LOG_COLUMNS.values())
    kept, every = [], []
    for result in comparison.results:
        name, best = f"{result.experiment}/{result.name}", result.best_epoch
        if best is not None:
            kept.append(_epoch(name, f"{best['epoch']:g} of {len(result.log)}", best))
        every.append(section_row(name, len(head)))
        every += [_epoch("", f"{one['epoch']:g}", one) for one in result.log]
    whole = f"<details><summary>All epochs</summary>{table(head, every)}</details>"
    return f"<h3>At the epoch whose weights are kept</h3>{table(head, kept)}{whole}" if kept else whole


def _epoch(name: str, epoch: str, one: Mapping[str, float | None]) -> str:
    return row(escape(name), epoch, *(shown_number(one.get(column)) for column in LOG_COLUMNS))


def confusions(comparison: Comparison) -> str:
    """One matrix an experiment, all runs and cases together."""
    blocks = [
        f"<div><h3>{escape(name)}</h3>{confusion_table(comparison.confusion(name))}</div>"
        for name in comparison.experiments
    ]
    return f'<p class="soft">Voxels of all test cases and runs.</p><div class="charts">{"".join(blocks)}</div>'


def cost(comparison: Comparison) -> str:
    """Parameters, time and memory."""
    head = (
        "Experiment", "Parameters", "Seconds a volume", "of these in the network", "Seconds a slice",
        "Peak memory, GB", "Training, minutes",
    )  # fmt: skip
    rows = []
    for name in comparison.experiments:
        figures = comparison.cost(name)
        minutes = None if figures["training"] is None else figures["training"] / 60
        values = [
            shown_number(figures["parameters"]),
            *(shown_number(figures[key], 2) for key in ("seconds", "seconds_network")),
        ]
        values += [
            shown_number(figures["seconds_slice"], 4),
            shown_number(figures["peak_gb"], 2),
            shown_number(minutes, 1),
        ]
        rows.append(row(escape(name), *values))
    return f"{table(head, rows)}{COST}"


def tumors(comparison: Comparison) -> str:
    """What the clinical tables of the predicted masks add up to."""
    names = comparison.in_region("tumor")
    if not names:
        return ""
    head = (
        "Experiment", "Lesions a run", *SIZE_LABELS,
        "Lesion volume, ml (median)", "Tumor a case, ml (mean)", "Tumor / liver (mean)", "Confidence (median)",
    )  # fmt: skip
    rows = []
    for name in names:
        found = comparison.tumors(name)
        runs = found["n_runs"]
        total, burden = found["total_ml"], found["burden"]
        rows.append(
            row(
                escape(name),
                shown_number(found["lesions"] / runs, 1),
                *(shown_number(count / runs, 1) for count in found["sizes"].values()),
                shown_number(found["volume_ml"], 2),
                with_interval(total.mean, (total.ci_low, total.ci_high), 2),
                with_interval(burden.mean, (burden.ci_low, burden.ci_high)),
                shown_number(found["confidence"], 2),
            )
        )
    return f"{table(head, rows)}{TUMORS_CAPTION}"


def comparison_cases(comparison: Comparison) -> str:
    """Sortable table of cases: Dice of each experiment, mean over its runs."""
    by_experiment = comparison.statistics["cases"]
    columns = [(name, f"{region}_dice") for region in ("liver", "tumor") for name in comparison.in_region(region)]
    head = ["Case", "Patient", *(f"{COMPARED[key]}, {name}" for name, key in columns)]
    patients = {one["case"]: one["patient"] for one in comparison.rows}
    rows = []
    for case in sorted(patients):
        values = [by_experiment[name].get(case, {}).get(key) for name, key in columns]
        cells = "".join(cell(shown_number(value), value) for value in values)
        rows.append(f"<tr>{cell(case, case)}{cell(patients[case], patients[case])}{cells}</tr>")
    return sortable(head, rows)
