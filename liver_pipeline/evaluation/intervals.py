"""The volumes of a mask with their intervals: what the run's validation cases say of how far they may be off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from liver_pipeline.evaluation.run_quality import VOLUMES, RunQuality
from liver_pipeline.evaluation.trust import REGIONS_OF_TRUST
from liver_pipeline.metrics.conformal import conformal_bound, volume_interval, volume_score

COVERAGE = 0.9  # of the true volumes lie inside
LEAST_VALIDATED = 20  # with fewer the interval is little more than the worst case seen
UNCALIBRATED: dict[str, str] = {
    "NOT_TUNED": "the run has no figures of its validation cases; `liver-pipeline tune-quality RUN` makes them",
    "PAINTED": "the run's figures are those of painted scans, which promise nothing for real ones",
    "OTHER_WEIGHTS": "the run's figures are those of other weights; `liver-pipeline tune-quality RUN` makes them anew",
    "OTHER_SETTINGS": "the run's figures are those of other settings than the mask was made with",
    "FEW_CASES": f"there are fewer than {LEAST_VALIDATED} validation cases to tell by",
    "NO_TUMORS": "no validation case holds tumor, neither mask nor reference",
    "NO_MILLIMETRES": "a picture has no millimetres",
}


def gap(quality: RunQuality, *, weights_sha256: str, config_sha256: str) -> str:
    """Return why the figures of a run say nothing of a mask: a key of ``UNCALIBRATED``; "" if they do."""
    if quality.painted:
        return "PAINTED"
    if not any(set(VOLUMES) <= set(case) for case in quality.cases):
        return "NOT_TUNED"
    if quality.weights_sha256 != weights_sha256:
        return "OTHER_WEIGHTS"
    return "" if quality.config_sha256 == config_sha256 else "OTHER_SETTINGS"


def volume_intervals(
    quality: RunQuality, volumes_ml: Mapping[str, float | None], *, weights_sha256: str, config_sha256: str
) -> dict[str, Any]:
    """Return the interval of each volume of a mask.

    Cases without tumor in mask and reference are left out for tumor: any interval holds for them, so that what is said
    holds for the others.

    Args:
        quality: What the run knows of its masks.
        volumes_ml: Of ``liver`` (with its tumors) and ``tumor``; None where it is not known.
        weights_sha256: The weights that made the mask.
        config_sha256: The settings that it was made with.

    Returns:
        ``level``; ``liver_ml`` and ``tumor_ml``: ``volume``, ``low``, ``high`` in ml and the number of ``cases``, or
        None; ``reasons``: why it is None, ``code`` and ``message`` by name.
    """
    why = gap(quality, weights_sha256=weights_sha256, config_sha256=config_sha256)
    told: dict[str, Any] = {"level": COVERAGE, "reasons": {}}
    for region in REGIONS_OF_TRUST:
        name, volume = f"{region}_ml", volumes_ml[region]
        pairs = [pair for case in quality.cases if (pair := _volumes(case, region)) is not None]
        code = "NO_MILLIMETRES" if volume is None else why or _too_few(pairs, region)
        bound = conformal_bound([volume_score(*pair) for pair in pairs], COVERAGE)
        if code or volume is None or bound is None:
            detail = f" ({len(pairs)})" if code == "FEW_CASES" else ""
            told[name] = None
            told["reasons"][name] = {"code": code, "message": UNCALIBRATED[code] + detail}
        else:
            low, high = volume_interval(volume, bound)
            told[name] = {"volume": volume, "low": round(low, 3), "high": round(high, 3), "cases": len(pairs)}
    return told


def _volumes(case: Mapping[str, Any], region: str) -> tuple[float, float] | None:
    """Return the volumes of a case in mask and reference; None where they say nothing."""
    if not set(VOLUMES) <= set(case):
        return None
    volume, reference = float(case[f"{region}_ml"]), float(case[f"{region}_reference_ml"])
    return (volume, reference) if region == "liver" or volume or reference else None


def _too_few(pairs: list[tuple[float, float]], region: str) -> str:
    if not pairs and region == "tumor":
        return "NO_TUMORS"
    return "FEW_CASES" if len(pairs) < LEAST_VALIDATED else ""


def interval_text(interval: Mapping[str, Any] | None, level: float) -> str:
    """Return an interval as people read it, "(90 %: 1430-1550)"; "" where there is none."""
    if interval is None:
        return ""
    digits = 0 if interval["high"] >= 100 else 1
    return f"({100 * level:.0f} %: {interval['low']:.{digits}f}-{interval['high']:.{digits}f})"


def interval_columns(intervals: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return low and high end of both intervals for a table, ``liver_low_ml`` and such; None where there is none."""
    known = {region: (intervals or {}).get(f"{region}_ml") or {} for region in REGIONS_OF_TRUST}
    return {f"{region}_{end}_ml": known[region].get(end) for region in REGIONS_OF_TRUST for end in ("low", "high")}


def interval_examples(quality: RunQuality) -> list[str]:
    """Return a line for each region: the interval of a usual volume, or why there is none."""
    usual = {"liver": 1500.0, "tumor": 20.0}
    same = {"weights_sha256": quality.weights_sha256, "config_sha256": quality.config_sha256}
    told = volume_intervals(quality, usual, **same)
    lines = []
    for region, volume in usual.items():
        span, name = told[f"{region}_ml"], f"{region}_ml"
        why = "no interval: " + told["reasons"][name]["message"] if span is None else interval_text(span, COVERAGE)
        lines.append(f"{region}, {volume:.0f} ml: {why}")
    return lines
