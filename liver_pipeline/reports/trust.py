"""Sections of the page on trust: risk over coverage, how flagged masks fare, and how often probabilities are right."""

from __future__ import annotations

from liver_pipeline.reports.charts import line_chart
from liver_pipeline.reports.gallery import Metrics
from liver_pipeline.reports.html import figure, row, shown_number, table
from liver_pipeline.reports.texts import RELIABILITY_CAPTION, TRUST_CAPTION


def trust(metrics: Metrics) -> str:
    """Risk-coverage curves, and how flagged cases fare."""
    figures, rows = [], []
    for region, curve in metrics.get("risk_coverage", {}).items():
        lines = [(0, list(zip(curve["coverage"], curve["risk"], strict=True)), "")]
        lines.append((1, [(0.0, curve["random"]), (1.0, curve["random"])], "thin"))
        chart = line_chart(lines, x_name="share of cases kept, most trusted first", name="mean of 1 − Dice")
        figures.append(figure(f"{region.capitalize()}: risk over coverage", chart, TRUST_CAPTION))
        groups = (curve["flagged"], curve["not_flagged"])
        told = (f"{shown_number(group['risk'])} (n = {group['n']})" for group in groups)
        areas = (shown_number(curve[key]) for key in ("area", "best", "random"))
        rows.append(row(region, *areas, *told, str(curve["n_left_out"])))
    if not rows:
        return ""
    head = ("", "Area", "if trust were perfect", "if it said nothing", "1 − Dice, flagged", "not flagged", "left out")
    return f'<div class="charts">{"".join(figures)}</div>{table(head, rows)}'


def reliability(metrics: Metrics) -> str:
    """How often probabilities are right, as the network gives them and calibrated."""
    figures, rows = [], []
    for region, curves in metrics.get("reliability", {}).items():
        lines = []
        for tone, (name, curve) in enumerate(curves.items()):
            pairs = zip(curve["confidence"], curve["frequency"], strict=True)
            lines.append((tone, [(p, share) for p, share in pairs if p is not None], ""))
            rows.append(row(region, name, str(curve["n"]), shown_number(curve["ece"])))
        chart = line_chart(lines, x_name="probability", name="share that is right", unit_range=True, chance=True)
        legend = "".join(f'<span class="key tone tone{tone}">{name}</span>' for tone, name in enumerate(curves))
        figures.append(figure(f"{region.capitalize()}: reliability", chart, f"{legend}{RELIABILITY_CAPTION}"))
    if not rows:
        return ""
    head = ("", "Probabilities", "Cases", "Calibration error (ECE)")
    return f'<div class="charts">{"".join(figures)}</div>{table(head, rows)}'
