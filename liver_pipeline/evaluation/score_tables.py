"""The tables of an evaluation: what stands in metrics.json, cases.csv and lesions.csv."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from liver_pipeline.evaluation.pairing import Failure
from liver_pipeline.evaluation.trust import reliability_curves, trust_curves
from liver_pipeline.io.tables import table_text
from liver_pipeline.metrics.lits import official_summary
from liver_pipeline.metrics.statistics import summarize
from liver_pipeline.metrics.summaries import program_detection, summarize_cases

_LESION_COLUMNS = (
    "case", "kind", "id", "status", "volume_ml", "voxels", "diameter_mm", "perpendicular_mm", "size_class", "slice",
    "centroid_ras_mm", "centroid_lps_mm", "group_iou", "matched_ids", "overlap_voxels",
)  # fmt: skip


def collect_metrics(
    protocol: str, results: Mapping[str, dict[str, Any]], failures: Mapping[str, Failure], min_lesion_ml: float
) -> dict[str, Any]:
    """Lay out ``metrics.json``."""
    metrics: dict[str, Any] = {"protocol": protocol, "n_cases": len(results), "n_failed": len(failures)}
    if protocol != "lits-official":
        program = {case: row.pop("lits_official") for case, row in results.items() if "lits_official" in row}
        metrics["min_lesion_ml"] = min_lesion_ml
        metrics |= summarize_cases(results, lits=protocol == "lits") if results else {"global": {}, "summary": {}}
        metrics["cases"] = dict(results)
        if curves := trust_curves(results):
            metrics["risk_coverage"] = curves
        if reliability := reliability_curves(results):
            metrics["reliability"] = reliability
        if program:
            metrics["lits_official"] = {"global": program_detection(program), "cases": program}
    else:
        official = {case: row["official"] for case, row in results.items()}
        figures = {case: row["figures"] for case, row in results.items()}
        metrics["global"] = official_summary(official) if official else {}
        metrics["summary"] = _plain_summary(list(figures.values()))
        metrics |= {"cases": official, "figures": figures}
    metrics["failures"] = {case: asdict(failure) for case, failure in failures.items()}
    names = ("liver-pipeline", "numpy", "scipy", "nibabel", "scikit-image")
    metrics["versions"] = {"python": platform.python_version(), **{name: version(name) for name in names}}
    return metrics


def _plain_summary(rows: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Means of the overlap figures that stand beside the program's own."""
    return {
        f"{region}_{key}": summarize([row[region][key] for row in rows]).as_dict()
        for region in (rows[0] if rows else {})
        for key in rows[0][region]
    }


def cases_csv(metrics: Mapping[str, Any]) -> str:
    """One row per case: every single figure, named ``<block>_<figure>``; empty where it is undefined."""
    official = metrics["protocol"] == "lits-official"
    rows = []
    for case, figures in metrics["cases"].items():
        row: dict[str, Any] = {"case": case}
        blocks = {**metrics["figures"][case], "official": _scalars(figures)} if official else figures
        for block in ("liver", "tumor", "parenchyma", "tumor_burden", "probabilities", "quality", "lits", "official"):
            row |= {f"{block}_{key}": value for key, value in _scalars(blocks.get(block, {})).items()}
        if not official:
            row |= {f"n_{kind}_lesions": figures["lesions"][f"n_{kind}"] for kind in ("reference", "predicted")}
        rows.append(row)
    return table_text(rows, list(dict.fromkeys(key for row in rows for key in row)) or ["case"])


def _scalars(block: Mapping[str, Any]) -> dict[str, Any]:
    """The single values of a block, inner blocks flattened once."""
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}_{name}": inner for name, inner in value.items() if not isinstance(inner, list | dict)}
        elif not isinstance(value, list):
            flat[key] = value
    return flat


def scored_lesions_csv(metrics: Mapping[str, Any]) -> str:
    """One row per lesion, reference and predicted."""
    rows = [
        {"case": case, **row} for case, figures in metrics["cases"].items() for row in figures.get("lesion_list", [])
    ]
    return table_text(rows, _LESION_COLUMNS)
