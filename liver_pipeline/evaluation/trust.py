"""Whether masks that were judged deserve the trust they got: their quality beside their figures, and the curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from liver_pipeline.io.file_names import RECORD, file_beside
from liver_pipeline.io.tables import read_json
from liver_pipeline.metrics.probabilities import pooled_reliability
from liver_pipeline.metrics.risk import risk_coverage

REGIONS_OF_TRUST = ("liver", "tumor")


def with_quality(results: Mapping[str, Any], masks: Mapping[str, Path]) -> dict[str, Any]:
    """Return the figures of cases with what their masks were judged: ``quality``, where ``<case>.json`` says it.

    Args:
        results: Figures by case.
        masks: The mask of each case; its record lies beside it.
    """
    found = {case: _quality(masks[case]) for case in results if case in masks}
    return {
        case: {**figures, "quality": found[case]} if found.get(case) else figures for case, figures in results.items()
    }


def _quality(mask: Path) -> dict[str, Any] | None:
    """Return what a record beside a mask says of it; None where there is none, or it says nothing."""
    try:
        record = read_json(file_beside(mask, RECORD))
    except (OSError, ValueError):  # no record, or somebody else's file of that name
        return None
    quality = record.get("quality") if isinstance(record, Mapping) else None
    if not isinstance(quality, Mapping) or "flagged" not in quality:
        return None
    figures = {key: quality.get(key) for key in ("flagged", *(f"{region}_agreement" for region in REGIONS_OF_TRUST))}
    return {**figures, "codes": [reason["code"] for reason in quality.get("reasons", [])]}


def judged_cases(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, Dice, agreement and volumes of the cases that were judged: what ``quality.json`` keeps of them."""
    return [
        {
            "case": case,
            **{f"{region}_dice": figures[region]["dice"] for region in REGIONS_OF_TRUST},
            **{f"{region}_agreement": figures["quality"][f"{region}_agreement"] for region in REGIONS_OF_TRUST},
            **{f"{region}_ml": figures[region]["volume_ml"] for region in REGIONS_OF_TRUST},
            **{f"{region}_reference_ml": figures[region]["reference_volume_ml"] for region in REGIONS_OF_TRUST},
        }
        for case, figures in results.items()
        if "quality" in figures
    ]


def trust_curves(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the risk-coverage curves of liver and tumor: trust is the agreement, risk is 1 - Dice.

    Args:
        results: Figures by case, with ``quality``.

    Returns:
        By region ``n``, ``n_left_out`` (judged, but agreement or Dice is undefined), ``area``, ``best``, ``random``,
        ``coverage``, ``risk``, and ``flagged``: mean risk and number of the cases that were flagged and of those that
        were not, None where there are none. A region without such a case, and where no case was judged, is left out.
    """
    judged = [figures for figures in results.values() if "quality" in figures]
    curves = {}
    for region in REGIONS_OF_TRUST:
        known = [
            (figures["quality"][f"{region}_agreement"], 1.0 - figures[region]["dice"], figures["quality"]["flagged"])
            for figures in judged
            if figures["quality"][f"{region}_agreement"] is not None and figures[region]["dice"] is not None
        ]
        curve = risk_coverage([trust for trust, _, _ in known], [risk for _, risk, _ in known])
        if curve is not None:
            plain = {key: value if isinstance(value, float) else value.tolist() for key, value in asdict(curve).items()}
            groups = {name: [r for _, r, f in known if f == (name == "flagged")] for name in ("flagged", "not_flagged")}
            means = {name: {"n": len(group), "risk": _mean(group)} for name, group in groups.items()}
            curves[region] = {"n": len(known), "n_left_out": len(judged) - len(known), **plain, **means}
    return curves


def reliability_curves(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return how often probabilities are right, over all cases: of liver and tumor, in equal bins of probability.

    Args:
        results: Figures by case; those with ``probabilities`` count.

    Returns:
        By region ``raw`` and, over the cases whose run knows a temperature, ``calibrated``: number of cases ``n``,
        ``voxels``, ``confidence`` (mean probability) and ``frequency`` (share that is right) of each bin, None where it
        is empty, and ``ece``, over all voxels. What no case has is left out.
    """
    curves: dict[str, Any] = {}
    for region in REGIONS_OF_TRUST:
        rows = [figures["probabilities"].get(region, {}) for figures in results.values() if "probabilities" in figures]
        for name, key in (("raw", "reliability"), ("calibrated", "calibrated_reliability")):
            known = [row[key] for row in rows if row.get(key)]
            if known:
                curves.setdefault(region, {})[name] = {"n": len(known), **pooled_reliability(known)}
    return curves


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
