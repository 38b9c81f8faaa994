"""Sections of the page that are made of numbers: headline, summary, charts, detection, cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from liver_pipeline.reports.charts import bar_chart, bland_altman_chart, box_plot
from liver_pipeline.reports.gallery import Metrics
from liver_pipeline.reports.html import (
    cell,
    figure,
    plural,
    row,
    section_row,
    shown_number,
    sortable,
    table,
    with_interval,
    words,
)
from liver_pipeline.reports.texts import (
    AGREEMENT_CAPTION,
    BOX_CAPTION,
    DEFINITIONS,
    DISTANCE_CAPTION,
    EMPTY_KINDS,
    FIGURE_NAMES,
    PARENCHYMA_FIGURES,
    REGION_NAMES,
    SIZES,
)

SUMMARY_COLUMNS = (
    "Figure", "Mean [95 % interval]", "Median", "SD", "Range", "n", "both empty", "reference empty", "prediction empty",
)  # fmt: skip
_CASE_COLUMNS = (
    ("Liver Dice", "liver", "dice", 3),
    ("Liver HD95 mm", "liver", "hd95_area", 1),
    ("Tumor Dice", "tumor", "dice", 3),
    ("Tumor HD95 mm", "tumor", "hd95_area", 1),
    ("Tumor ml", "tumor", "volume_ml", 1),
    ("Reference ml", "tumor", "reference_volume_ml", 1),
)


def headline(metrics: Metrics) -> str:
    """One sentence and the four figures that everyone asks for."""
    failed = metrics["n_failed"]
    sentence = f"{plural(metrics['n_cases'], 'case')} scored under protocol <b>{escape(metrics['protocol'])}</b>"
    sentence += f', <span class="bad">{failed} could not be scored</span>.' if failed else "."
    line = f'<p class="soft">{sentence} Intervals are 95 % (bootstrap over cases).</p>'
    if not metrics["n_cases"]:
        return line
    cards = _official_cards(metrics) if metrics["protocol"] == "lits-official" else _cards(metrics)
    return f'{line}<div class="cards">{"".join(cards)}</div>'


def _cards(metrics: Metrics) -> list[str]:
    liver, tumor = metrics["summary"]["liver_dice"], metrics["summary"]["tumor_dice"]
    found = metrics["detection"]["iou>0.5"]["all"]
    n_label, n_pred = found["tp_label"] + found["fn"], found["tp_pred"] + found["fp"]
    real, right = f"{found['tp_label']} of {n_label} found", f"{found['tp_pred']} of {n_pred} predicted are real"
    open_cases = f", {tumor['n_both_empty']} without tumor on either side" if tumor["n_both_empty"] else ""
    return [
        _card("Liver Dice", liver["mean"], (liver["ci_low"], liver["ci_high"]), f"n = {liver['n']}"),
        _card("Tumor Dice", tumor["mean"], (tumor["ci_low"], tumor["ci_high"]), f"n = {tumor['n']}{open_cases}"),
        _card("Lesion recall, IoU > 0.5", found["recall"], found["recall_ci"], real),
        _card("Lesion precision, IoU > 0.5", found["precision"], found["precision_ci"], right),
    ]


def _official_cards(metrics: Metrics) -> list[str]:
    named = {
        "liver_dice_per_case": "Liver Dice per case",
        "lesion_dice_per_case": "Tumor Dice per case",
        "lesion_recall": "Lesion recall, IoU > 0.5",
        "lesion_precision": "Lesion precision, IoU > 0.5",
    }
    return [_card(title, metrics["global"][key], (None, None), "") for key, title in named.items()]


def _card(title: str, value: float | None, interval: Sequence[float | None], note: str) -> str:
    spread = "" if interval[0] is None else f"{shown_number(interval[0])} to {shown_number(interval[1])}"
    return (
        f'<div class="card"><span>{escape(title)}</span><b>{shown_number(value)}</b>'
        f"<span>{spread}</span><span>{escape(note)}</span></div>"
    )


def summary_table(metrics: Metrics) -> str:
    """Mean with interval, median, SD, extremes, n and numbers of empty masks for each figure."""
    rows = []
    for region, title in REGION_NAMES.items():
        rows.append(section_row(title, len(SUMMARY_COLUMNS)))
        for key, name in FIGURE_NAMES.items():
            figures = metrics["summary"].get(f"{region}_{key}")
            if figures is not None and (region != "parenchyma" or key in PARENCHYMA_FIGURES):
                rows.append(_summary_row(name, figures))
        pooled = metrics["global"].get(f"{region}_dice_global")
        rows.append(row("Dice, voxels of all cases pooled", shown_number(pooled), *[""] * 7))
    return table(SUMMARY_COLUMNS, rows) + _tumor_free(metrics["tumor_free"])


def _summary_row(name: str, figures: Mapping[str, Any]) -> str:
    low, high = figures["minimum"], figures["maximum"]
    return row(
        escape(name),
        with_interval(figures["mean"], (figures["ci_low"], figures["ci_high"])),
        shown_number(figures["median"]),
        shown_number(figures["sd"]),
        "–" if low is None else f"{shown_number(low)} to {shown_number(high)}",
        str(figures["n"]),
        *(str(figures[f"n_{kind}"]) for kind in EMPTY_KINDS),
    )


def _tumor_free(free: Mapping[str, Any]) -> str:
    """How cases without tumor fare."""
    if not free["n_cases"]:
        return ""
    volume = free["false_positive_ml"]
    return (
        f"<p>{plural(free['n_cases'], 'case')} without tumor in the reference: {free['n_clean']} stayed clean; "
        f"false-positive volume {shown_number(volume['mean'], 2)} ml on average, "
        f"{shown_number(volume['maximum'], 2)} ml at most.</p>"
    )


def charts(metrics: Metrics) -> str:
    """Box plots of Dice and distances, Bland-Altman of volumes, confusion matrix."""
    cases = list(metrics["cases"].values())
    dice = [(region.capitalize(), [case[region]["dice"] for case in cases]) for region in ("liver", "tumor")]
    distances = [
        (f"{region.capitalize()} {name}", [case[region][key] for case in cases])
        for key, name in (("assd_area", "ASSD"), ("hd95_area", "HD95"))
        for region in ("liver", "tumor")
    ]
    figures = [
        figure("Dice per case", box_plot(dice, name="Dice", unit_range=True), BOX_CAPTION),
        figure("Surface distance per case", box_plot(distances, name="mm, area-weighted"), DISTANCE_CAPTION),
    ]
    figures += [_agreement(metrics, region) for region in ("liver", "tumor")]
    matrix = confusion_table(metrics["confusion"])
    return f'<div class="charts">{"".join(figures)}</div><h3>Voxels of all cases</h3>{matrix}'


def _agreement(metrics: Metrics, region: str) -> str:
    """Bland-Altman of the volumes of one region."""
    regions = [case[region] for case in metrics["cases"].values()]
    blocks = [one for one in regions if one["reference_volume_ml"] is not None]
    limits = metrics["agreement"][region]
    chart = bland_altman_chart(
        [(block["volume_ml"] + block["reference_volume_ml"]) / 2 for block in blocks],
        [block["volume_error_ml"] for block in blocks],
        (limits["lower"], limits["bias"], limits["upper"]),
        x_name="mean of prediction and reference, ml",
        name="prediction − reference, ml",
    )
    return figure(f"{region.capitalize()} volume (Bland-Altman)", chart, AGREEMENT_CAPTION)


def confusion_table(confusion: Sequence[Sequence[int]]) -> str:
    """Counts, reference classes as rows, with the share of each reference class, shaded by the share."""
    names = ("background", "liver", "tumor")[: len(confusion)]
    rows = []
    for name, counts in zip(names, confusion, strict=True):
        cells = [f"<td>reference {name}</td>"]
        for count in counts:
            share = count / sum(counts) if sum(counts) else 0.0
            shade = f"background:color-mix(in srgb, var(--accent) {45 * share:.0f}%, transparent)"
            cells.append(f'<td style="{shade}">{count:,}<br><span class="soft">{100 * share:.2f} %</span></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return table(["", *(f"predicted {name}" for name in names)], rows, classes="matrix")


def detection(metrics: Metrics) -> str:
    """Recall and precision by size, and the table for all thresholds."""
    groups = []
    for size, label in SIZES.items():
        found = metrics["detection"]["iou>0.5"][size]
        recall = ("recall", found["recall"], f"{found['tp_label']} of {found['tp_label'] + found['fn']}")
        precision = ("precision", found["precision"], f"{found['tp_pred']} of {found['tp_pred'] + found['fp']}")
        groups.append((label, (recall, precision)))
    key = '<span class="key">recall</span><span class="key s1">precision</span>'
    chart = bar_chart(groups, name="share of lesions")
    shown = figure("By size, IoU > 0.5", chart, f"{key}Size: longest diameter within a slice.")
    return f'<div class="split">{shown}{_detection_table(metrics)}</div>'


def _detection_table(metrics: Metrics) -> str:
    head = ("Size", "Recall", "Precision", "F1", "found", "not found", "real", "false")
    rows = []
    for threshold, sizes in metrics["detection"].items():
        title = "Any overlap" if threshold == "iou>0" else threshold.replace("iou>", "IoU > ")
        rows.append(section_row(title, len(head)))
        for size, label in SIZES.items():
            found = sizes[size]
            counts = (str(found[key]) for key in ("tp_label", "fn", "tp_pred", "fp"))
            recall = with_interval(found["recall"], found["recall_ci"], 2)
            precision = with_interval(found["precision"], found["precision_ci"], 2)
            rows.append(row(escape(label), recall, precision, shown_number(found["f1"], 2), *counts))
    return table(head, rows)


def cases(metrics: Metrics) -> str:
    """Sortable table of cases."""
    head = ["Case", *(title for title, *_ in _CASE_COLUMNS), "Lesions", "found", "invented", "Remarks"]
    rows = []
    for name, case in metrics["cases"].items():
        cells = [cell(name, name)]
        for _, region, key, digits in _CASE_COLUMNS:
            cells.append(cell(shown_number(case[region][key], digits), case[region][key]))
        found = case["lesions"]["detection"]["iou>0.5"]["all"]["tp_label"]
        invented = sum(lesion["status"] == "invented" for lesion in case["lesion_list"])
        counts = (case["lesions"]["n_reference"], found, invented)
        told = counts if counts[0] is not None else (None, None, None)  # the reference tells no tumors
        cells += [cell("–" if count is None else str(count), count) for count in told]
        remarks = [f"{part}: {case[part]['reason']}" for part in ("liver", "tumor") if case[part]["reason"]]
        flags = [f"flagged: {', '.join(case['quality']['codes'])}"] if case.get("quality", {}).get("flagged") else []
        text = "; ".join(flags + remarks + case["warnings"])
        rows.append(f"<tr>{''.join(cells)}{cell(text, text, classes='words')}</tr>")
    return sortable(head, rows)


def failures(metrics: Metrics) -> str:
    """Code and line of each case without figures."""
    if not metrics["failures"]:
        return ""
    rows = [
        f"<tr><td>{escape(case)}</td>{words(failure['code'], classes='bad')}{words(failure['detail'])}</tr>"
        for case, failure in metrics["failures"].items()
    ]
    return table(("Case", "Code", "What happened"), rows, classes="prose")


def about(metrics: Metrics) -> str:
    """Definitions and versions."""
    versions = ", ".join(f"{escape(name)} {escape(value)}" for name, value in metrics["versions"].items())
    return f'{DEFINITIONS}<p class="soft">{versions}</p>'
