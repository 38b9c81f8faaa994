"""A comparison as Markdown: for a README, a pull request, a lab book."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from liver_pipeline.comparison.tables import Comparison
from liver_pipeline.reports.comparison_tables import figures_of, remarks
from liver_pipeline.reports.html import plural, shown_number, with_interval
from liver_pipeline.reports.paired_differences import MAIN_FIGURES, p_value, pairs_of, verdict
from liver_pipeline.reports.texts import COMPARED, REGION_NAMES, digits_of


def comparison_markdown(comparison: Comparison) -> str:
    """Return results, paired differences of the main figures, cost and failures as tables."""
    lines = [
        "# Comparison",
        "",
        f"{plural(comparison.n_cases, 'test case')} of {plural(comparison.n_patients, 'patient')}, "
        f"{plural(len(comparison.results), 'run')}, one split by patient. Mean over cases [95 % interval, patients "
        "resampled] (n; cases in which the figure is undefined are left out and counted).",
        *(f"\n> {remark}" for remark in remarks(comparison)),
    ]
    for region in ("liver", "tumor"):
        if comparison.in_region(region):
            lines += ["", f"## {REGION_NAMES[region]}", "", *_results(comparison, region)]
    if len(comparison.experiments) > 1:
        lines += ["", "## Paired differences (Wilcoxon signed-rank over patients, Holm over the pairs of a figure)", ""]
        lines += _tests(comparison)
    lines += ["", "## Cost", "", *_cost(comparison)]
    if comparison.failed:
        rows = [(one.run, one.stage, one.reason.replace("|", "\\|")) for one in comparison.failed]
        lines += ["", "## What failed", "", *_table(("run", "stage", "reason"), rows)]
    return "\n".join(lines) + "\n"


def _results(comparison: Comparison, region: str) -> list[str]:
    figures = figures_of(region)
    rows = []
    for name in comparison.in_region(region):
        cells = [name]
        for key in figures:
            one = comparison.statistics["summary"][name][key]
            undefined = f"; {one['n_undefined']} undefined" if one["n_undefined"] else ""
            value = with_interval(one["mean"], (one["ci_low"], one["ci_high"]), digits_of(key))
            cells.append(f"{value} ({one['n']}{undefined})")
        rows.append(cells)
    return _table(("experiment", *(COMPARED[key] for key in figures)), rows)


def _tests(comparison: Comparison) -> list[str]:
    rows = [
        (
            COMPARED[key],
            f"{pair['first']} − {pair['second']}",
            with_interval(pair["mean"], (pair["ci_low"], pair["ci_high"]), digits_of(key)),
            p_value(pair["p"]),
            p_value(pair["p_holm"]),
            str(pair["n_patients"]),
            verdict(pair, key),
        )
        for key in MAIN_FIGURES
        for pair in pairs_of(comparison, key)
    ]
    return _table(("figure", "first − second", "mean difference", "p", "p (Holm)", "patients", ""), rows)


def _cost(comparison: Comparison) -> list[str]:
    rows = []
    for name in comparison.experiments:
        figures = comparison.cost(name)
        keys = (("seconds", 2), ("seconds_network", 2), ("seconds_slice", 4), ("peak_gb", 2), ("training", 0))
        parameters = figures["parameters"]
        rows.append(
            (name, "–" if parameters is None else f"{parameters:,.0f}", *(shown_number(figures[k], d) for k, d in keys))
        )
    head = ("experiment", "parameters", "s a volume", "s in the network", "s a slice", "peak GB", "s of training")
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
