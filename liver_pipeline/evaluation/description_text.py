"""The clinical table of a label map for people: lines for a terminal, and its lesions as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from liver_pipeline.evaluation.intervals import interval_text
from liver_pipeline.evaluation.segments import segment_lines, segment_words

LESION_COLUMNS = (
    "id", "volume_ml", "diameter_mm", "perpendicular_mm", "slice", "size_class", "centroid_ras_mm", "centroid_lps_mm",
    "box", "distance_to_surface_mm", "mean_hu", "sd_hu", "mean_confidence", "min_confidence", "touches_border",
    "below_resolution", "match", "segments", "segments_source",
)  # fmt: skip


def lesions_csv(table: Mapping[str, Any]) -> str:
    """The lesions of a table that :func:`~liver_pipeline.evaluation.description.describe` made as CSV, one row each.

    Empty cells are figures that cannot be given.
    """
    source = table["segments_source"] or {}
    named = {"segments_source": f"estimated by {source['weights']}" if "weights" in source else source.get("map")}
    text = io.StringIO()
    writer = csv.DictWriter(text, LESION_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table["lesions"]:
        writer.writerow({key: _cell((row | named)[key]) for key in LESION_COLUMNS})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}:{share:.3f}" for key, share in value.items())
    if isinstance(value, list):
        return " ".join("-".join(map(str, item)) if isinstance(item, list) else f"{item:.2f}" for item in value)
    return value


def as_text(table: Mapping[str, Any]) -> str:
    """The table for a terminal: one block for the liver, one line per lesion, and why figures are missing."""
    liver, told = table["liver"], table["liver"]["intervals"]
    burden = "-" if liver["tumor_burden"] is None else f"{100 * liver['tumor_burden']:.2f} %"
    cut = "   (cut by the edge of the scan: more outside)" if liver["truncated"] else ""
    spans = {key: interval_text(told[key], told["level"]) for key in ("liver_ml", "tumor_ml")}
    spans = {key: f"   {span}" if span else "" for key, span in spans.items()}
    lines = [
        f"liver with tumor     {_number(liver['liver_with_tumor_ml']):>10} ml{spans['liver_ml']}{cut}",
        f"liver without tumor  {_number(liver['liver_without_tumor_ml']):>10} ml",
        f"tumor                {_number(liver['tumor_ml']):>10} ml{spans['tumor_ml']}   burden {burden}   "
        f"lesions {liver['lesion_count']}",
    ]
    if table["lesions"]:
        names = f"{'id':>4} {'ml':>9} {'mm x mm':>13} {'slice':>5} {'depth mm':>8} {'HU (SD)':>11} {'sure':>5}"
        lines.append(f"{names} {'match':>8}  centre, LPS mm")
    for row in table["lesions"]:
        size = f"{row['diameter_mm']:.1f} x {row['perpendicular_mm']:.1f}"
        depth = "-" if row["distance_to_surface_mm"] is None else f"{row['distance_to_surface_mm']:.1f}"
        sure = "-" if row["mean_confidence"] is None else f"{row['mean_confidence']:.0%}"
        hu = "-" if row["mean_hu"] is None else f"{row['mean_hu']:.0f} ({row['sd_hu']:.0f})"
        place = ", ".join(f"{value:.1f}" for value in row["centroid_lps_mm"])
        marks = "  touches the edge" if row["touches_border"] else ""
        marks += "  below resolution" if row["below_resolution"] else ""
        marks += f"  segment {segment_words(row['segments'])}" if row["segments"] else ""
        lines.append(
            f"{row['id']:4d} {row['volume_ml']:9.3f} {size:>13} {row['slice']:5d} {depth:>8} {hu:>11} {sure:>5} "
            f"{row['match'] or '-':>8}  {place}{marks}"
        )
    lines += _severity_lines(table) if table["lesions"] else []
    if liver["segments_ml"]:
        lines += segment_lines(liver, table["segments_source"] or {}, table["resection"])
    lines += [f"missed: {len(table['missed'])} reference lesions"] if table["missed"] else []
    if table["calibration"] is not None and (why := table["calibration"]["reason"]):
        lines.append(f"how sure the network is, is uncalibrated: {why}")
    whys = dict.fromkeys(table["reasons"].values())
    lines += [f"not given: {', '.join(k for k, v in table['reasons'].items() if v == why)}: {why}" for why in whys]
    return "\n".join(lines)


def _severity_lines(table: Mapping[str, Any]) -> list[str]:
    """Where the tumors lie, and the published classes; the JSON names their sources."""
    spread, severity = table["spread"], table["severity"]
    place = f"tumor in the {', '.join(spread['quadrants'])} quadrant of the liver's box"
    if spread["segments"]:
        place += f", segments {', '.join(spread['segments'])}"
    apart = "" if spread["farthest_mm"] is None else f", centres up to {spread['farthest_mm']:.1f} mm apart"
    score = f"{severity['tumor_burden_score']:.1f} ({severity['tumor_burden_class']})"
    milan = "inside" if severity["milan_by_size_and_number"] else "outside"
    measurable, load = severity["measurable_lesions"], severity["hepatic_tumor_load"] or "unknown"
    return [
        place + apart,
        f"tumor burden score {score}, {milan} Milan by size and number, {measurable} measurable lesions, load {load}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
