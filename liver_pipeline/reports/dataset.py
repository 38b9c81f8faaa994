"""The page of a data set's fingerprint: what its scans are like, what is wrong with some, what is proposed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from liver_pipeline.io.findings import CODES, Severity
from liver_pipeline.planning.histograms import Histogram
from liver_pipeline.planning.rules import Value
from liver_pipeline.reports.charts import box_plot, count_chart, curve_chart
from liver_pipeline.reports.html import cell, figure, plural, shown_number, sortable, table, words
from liver_pipeline.reports.page import document

_TITLE = "Fingerprint of a data set"
_AXES = ("R", "A", "S")
MARGIN_HU = 150.0  # shown beside the values of liver and tumor
CURVE_POINTS = 120  # at most
_BOX_CAPTION = "Box: quartiles; line: median; diamond: mean; dots: cases."
_CASE_COLUMNS = (
    "Case", "Patient", "Size", "Spacing, mm", "Axes", "Liver, ml", "Tumor, ml", "Lesions", "Liver median",
    "Tumor median", "Found",
)  # fmt: skip

_Row = Mapping[str, Any]


def dataset_page(
    rows: Sequence[_Row],
    summary: Mapping[str, Any],
    pooled: Mapping[str, Histogram] | None,
    values: Mapping[str, Value],
) -> str:
    """Return the page.

    Args:
        rows: From :func:`liver_pipeline.planning.survey.survey_cases`.
        summary: From :func:`liver_pipeline.planning.survey.summarize_dataset`.
        pooled: Histograms of all cases by region, where they have one scale (CT).
        values: What is proposed, by key; empty without a usable case.

    Returns:
        A complete HTML document that loads nothing from anywhere.
    """
    usable = [one for one in rows if one["usable"]]
    parts = [
        ("faults", "What was found in the files", _faults(summary)),
        ("proposal", "What is proposed", _proposal(values)),
        ("charts", "The scans", _charts(usable, pooled, values) if usable else ""),
        ("cases", "Cases", _cases(rows)),
    ]
    return document(_TITLE, _headline(summary), parts)


def _headline(summary: Mapping[str, Any]) -> str:
    bad = summary["n_cases"] - summary["n_usable"]
    line = f"{plural(summary['n_cases'], 'case')} of {plural(summary['n_patients'], 'patient')}"
    line += f', <span class="bad">{bad} cannot be used</span>.' if bad else "; all can be used."
    several = summary["n_patients_with_several_cases"]
    if several:
        line += f" {plural(several, 'patient')} with more than one case: a split keeps them together."
    if not summary["n_usable"]:
        return f'<p class="soft">{line}</p>'
    median = {key: summary[key]["median"] for key in ("spacing_mm", "shape", "liver_ml")}
    unknown = summary["n_cases_tumors_unknown"]
    tumor = f"{summary['n_cases_with_tumor']} of {plural(summary['n_usable'] - unknown, 'case')} with tumor"
    tumor += f", {unknown} without tumors outlined" if unknown else ""
    diameter = summary["lesion_diameter_mm"]
    lesion = "" if diameter is None else f", median diameter {shown_number(diameter['median'], 1)} mm"
    cards = [
        ("Median spacing, mm", _by(median["spacing_mm"], 2), _range(summary["spacing_mm"], 2)),
        ("Median size, voxels", _by(median["shape"], 0), _range(summary["shape"], 0)),
        ("Median liver, ml", shown_number(median["liver_ml"], 0), _range(summary["liver_ml"], 0)),
        ("Lesions", shown_number(summary["n_lesions"]), tumor + lesion),
    ]
    boxes = "".join(
        f'<div class="card"><span>{escape(name)}</span><b class="long">{escape(value)}</b>'
        f"<span>{escape(note)}</span></div>"
        for name, value, note in cards
    )
    return f'<p class="soft">{line}</p><div class="cards">{boxes}</div>'


def _by(values: Sequence[float], digits: int) -> str:
    return " × ".join(f"{value:.{digits}f}" for value in values)


def _range(spread: Mapping[str, Any], digits: int) -> str:
    low, high = np.atleast_1d(spread["min"]), np.atleast_1d(spread["max"])
    return f"from {_by(low.tolist(), digits)} to {_by(high.tolist(), digits)}"


def _faults(summary: Mapping[str, Any]) -> str:
    if not summary["codes"]:
        return ""
    rows = [
        f"<tr><td><code>{code}</code></td><td>{n}</td>{words(CODES[code])}</tr>" for code, n in summary["codes"].items()
    ]
    return table(("Code", "Cases", "Meaning"), rows, classes="prose", max_width="760px")


def _proposal(values: Mapping[str, Value]) -> str:
    if not values:
        return "<p>No case can be used, so nothing is proposed.</p>"
    rows = [
        f"<tr><td><code>{escape(key)}</code></td><td><code>{escape(_shown(one.value))}</code></td>{words(one.reason)}</tr>"
        for key, one in values.items()
    ]
    hint = "<p>They stand in <code>experiment.yaml</code> beside this page, to be edited and trained as it is.</p>"
    return hint + table(("Key", "Value", "Why"), rows, classes="prose")


def _shown(value: Any) -> str:
    return "[" + ", ".join(_shown(one) for one in value) + "]" if isinstance(value, list) else str(value)


def _charts(rows: Sequence[_Row], pooled: Mapping[str, Histogram] | None, values: Mapping[str, Value]) -> str:
    figures = [] if pooled is None else [_hu_figure(pooled, values)]
    for key, title, unit in (
        ("spacing_mm", "Spacing", "mm"),
        ("shape", "Size", "voxels"),
        ("fov_mm", "Field of view", "mm"),
    ):
        groups = [(name, [one[key][axis] for one in rows]) for axis, name in enumerate(_AXES)]
        figures.append(figure(title, box_plot(groups, name=unit), f"Along R, A, S. {_BOX_CAPTION}"))
    diameters = [lesion["diameter_mm"] for one in rows for lesion in one["lesions"] or ()]
    if diameters:
        chart = count_chart(diameters, x_name="longest axial diameter, mm", name="lesions")
        figures.append(figure("Lesions by size", chart, "6-connected components of tumor, over all cases."))
    volumes = [("liver with tumor", [one["liver_ml"] for one in rows])]
    if diameters:
        volumes.append(("tumor", [one["tumor_ml"] for one in rows if one["tumor_ml"]]))
    figures.append(figure("Volumes", box_plot(volumes, name="ml"), f"Tumor: cases that have any. {_BOX_CAPTION}"))
    return f'<div class="charts">{"".join(part for part in figures if part)}</div>'


def _hu_figure(pooled: Mapping[str, Histogram], values: Mapping[str, Value]) -> str:
    """Draw how values are distributed in everything, liver and tumor, with the proposed window."""
    foreground = pooled["liver"] + pooled["tumor"]
    if not foreground.total:
        return ""
    low, high = foreground.percentile(0.5) - MARGIN_HU, foreground.percentile(99.5) + MARGIN_HU
    regions = {"all voxels": pooled["background"] + foreground, "liver": pooled["liver"], "tumor": pooled["tumor"]}
    curves = [(name, *_curve(one, low, high)) for name, one in regions.items() if one.total]
    window = values["hu_window"].value if "hu_window" in values else None
    chart = curve_chart(curves, x_name="HU", name="share of its own peak", band=tuple(window) if window else None)
    keys = "".join(f'<span class="key c{place}">{name}</span>' for place, (name, _, _) in enumerate(curves))
    shade = f'<span class="key band">window {_shown(window)}</span>' if window else ""
    return figure("Values in liver and tumor", chart, keys + shade)


def _curve(histogram: Histogram, low: float, high: float) -> tuple[list[float], list[float]]:
    """Return centres and heights (largest 1) of equal ranges between ``low`` and ``high``."""
    step = max(1, math.ceil((high - low) / CURVE_POINTS))  # whole HU, or ranges would hold different numbers of them
    edges = np.arange(low, high + step, step) - 0.5
    heights = np.histogram(histogram.values, bins=edges, weights=histogram.counts.astype(np.float64))[0]
    return ((edges[:-1] + edges[1:]) / 2).tolist(), (heights / max(heights.max(), 1.0)).tolist()


def _cases(rows: Sequence[_Row]) -> str:
    """Every case; those that cannot be used first, then those with warnings."""
    return sortable(_CASE_COLUMNS, [_case(one) for one in sorted(rows, key=_rank)])


def _rank(one: _Row) -> tuple[int, str]:
    return (0 if not one["usable"] else 1 if one["findings"] else 2, one["case"])


def _case(one: _Row) -> str:
    cells = [cell(one["case"], one["case"]), cell(one["patient"], one["patient"])]
    cells += _figures(one) if one["usable"] else [cell("–", None)] * (len(_CASE_COLUMNS) - 3)
    shown = [f for f in one["findings"] if one["usable"] or f["severity"] == Severity.ERROR]
    found = "; ".join(f"{f['file']}: {f['code']}: {f['detail']}" for f in shown)
    tone = "words" if one["usable"] else "words bad"
    cells.append(f'<td class="{tone}" data-value="{_rank(one)[0]}">{escape(found)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _figures(one: _Row) -> list[str]:
    medians = [None if (part := one["intensity"][name]) is None else part["p50"] for name in ("liver", "tumor")]
    return [
        cell(_by(one["shape"], 0), one["shape"][2]),
        cell(_by(one["spacing_mm"], 2), one["spacing_mm"][2]),
        cell(one["orientation"], one["orientation"]),
        cell(shown_number(one["liver_ml"], 0), one["liver_ml"]),
        cell(shown_number(one["tumor_ml"], 1), one["tumor_ml"]),
        cell("–", None) if one["lesions"] is None else cell(str(len(one["lesions"])), len(one["lesions"])),
        *(cell(shown_number(value, 1), value) for value in medians),
    ]
