"""Figures over all cases: means with n and intervals, pooled figures, detection, agreement; nothing drops silently."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from liver_pipeline.labels import CLASS_NAMES, IntArray
from liver_pipeline.metrics.cases import IOU_THRESHOLDS, REGIONS, detection_row, threshold_name
from liver_pipeline.metrics.detection import Detection
from liver_pipeline.metrics.lits import SUFFIXES, THRESHOLDS
from liver_pipeline.metrics.object_figures import OBJECT_KEYS
from liver_pipeline.metrics.overlap import WHOLE_LIVER, Counts, ratio
from liver_pipeline.metrics.shapes import SIZE_CLASSES
from liver_pipeline.metrics.statistics import bland_altman, bootstrap_ratio, summarize

N_CLASSES = len(CLASS_NAMES)
CaseFigures = Mapping[str, Any]
NOT_SUMMED = ("empty", "reason")
NOT_SUMMED_OF_PROBABILITIES = ("n_voxels", "roc", "reliability", "calibrated_reliability")
EMPTINESS = ("both_empty", "reference_empty", "prediction_empty")


def summarize_cases(cases: Mapping[str, CaseFigures], *, lits: bool = True) -> dict[str, Any]:
    """Sum up the results of :func:`liver_pipeline.metrics.cases.case_figures`.

    Args:
        cases: Figures by case name.
        lits: Whether the cases hold the LiTS figures.

    Returns:
        ``global``: one number (or None) per key, means over cases for ``<region>_<figure>``, pooled voxels for
        ``*_global``, pooled lesions for ``lesion_*``; ``summary``: n, mean, bootstrap 95 % interval, median, SD and
        extremes per key, with the numbers of cases whose masks were empty; ``detection`` by IoU threshold and size
        class, with intervals; ``confusion`` (reference rows); ``agreement`` (Bland-Altman); ``tumor_free``. A case
        whose reference does not tell tumors from liver (:mod:`liver_pipeline.metrics.untold`) counts for the liver.

    Raises:
        ValueError: If there are no cases.
    """
    if not cases:
        raise ValueError("no case was scored, so there is nothing to sum up")
    rows = list(cases.values())
    summary = _region_summaries(rows)
    detection = _detection(rows)
    confusions = [np.asarray(row["confusion"]) for row in rows]
    confusion = _pooled([one for one in confusions if len(one) == N_CLASSES])  # the others' liver holds tumors
    values: dict[str, float | None] = {key: row["mean"] for key, row in summary.items()}
    for region, classes in REGIONS.items():
        counted = _pooled(confusions) if classes == WHOLE_LIVER else confusion
        values[f"{region}_dice_global"] = Counts.of_region(counted, classes).dice()
    if lits:
        lits_summary = _lits_summaries(rows)
        summary |= lits_summary
        values |= {key: row["mean"] for key, row in lits_summary.items()}
        values |= _lits_values(rows, values, detection)
    return {
        "global": values,
        "summary": summary,
        "detection": detection,
        "confusion": confusion.tolist(),
        "agreement": {region: _agreement(rows, region) for region in ("liver", "tumor")},
        "tumor_free": _tumor_free(rows),
    }


def _pooled(confusions: Sequence[IntArray]) -> IntArray:
    """Return the sum of confusion matrices, (3, 3), of which some have the first classes alone."""
    total: IntArray = np.zeros((N_CLASSES, N_CLASSES), dtype=np.int64)
    for one in confusions:
        total[: len(one), : len(one)] += one
    return total


def _region_summaries(rows: Sequence[CaseFigures]) -> dict[str, dict[str, Any]]:
    """One summary per region and figure, and of the tumor burden."""
    summary = {}
    for region in REGIONS:
        emptiness = _emptiness(rows, region)
        for key in rows[0][region]:
            if key not in NOT_SUMMED:
                summary[f"{region}_{key}"] = _summary([row[region][key] for row in rows], emptiness)
        known = [row.get("probabilities", {}).get(region, {}) for row in rows]
        for key in dict.fromkeys(key for figures in known for key in figures if key not in NOT_SUMMED_OF_PROBABILITIES):
            summary[f"{region}_{key}"] = _summary([figures.get(key) for figures in known], emptiness)
    emptiness = _emptiness(rows, "liver")
    for key in rows[0]["tumor_burden"]:
        summary[f"tumor_burden_{key}"] = _summary([row["tumor_burden"][key] for row in rows], emptiness)
    return summary


def _summary(values: Sequence[float | None], emptiness: Mapping[str, int]) -> dict[str, Any]:
    return {**summarize(values).as_dict(), **emptiness, "n_undefined": sum(value is None for value in values)}


def _emptiness(rows: Sequence[CaseFigures], region: str) -> dict[str, int]:
    """Number of cases of each kind of empty mask."""
    return {f"n_{kind}": sum(row[region]["empty"] == kind for row in rows) for kind in EMPTINESS}


def _lits_summaries(rows: Sequence[CaseFigures]) -> dict[str, dict[str, Any]]:
    """LiTS means: liver per case, tumor Dice per case (1 if both are empty), objects over all detected groups."""
    summary = {}
    liver, tumor = _emptiness(rows, "liver"), _emptiness(rows, "tumor")
    for key in rows[0]["lits"]["liver"]:
        name = "liver_dice_per_case" if key == "dice" else f"liver_{key}"
        summary[name] = _summary([row["lits"]["liver"][key] for row in rows], liver)
    summary["lesion_dice_per_case"] = _summary([row["lits"]["lesion_dice_per_case"] for row in rows], tumor)
    for key in OBJECT_KEYS:
        found = [row["lits"]["detected_lesions"].get(key, []) for row in rows]
        summary[f"lesion_{key}"] = _object_summary(found)
    return summary


def _object_summary(found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean over objects of all cases; the interval draws whole cases, since objects of one case are alike."""
    pooled = summarize([value for values in found for value in values]).as_dict()
    low, high = bootstrap_ratio([math.fsum(values) for values in found], [len(values) for values in found])
    return pooled | {"ci_low": low, "ci_high": high, "n_cases": sum(bool(values) for values in found)}


def _lits_values(
    rows: Sequence[CaseFigures], values: Mapping[str, float | None], detection: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    """Pooled LiTS figures under the challenge's keys, and the detection figures of ``lits_groups``."""
    pooled: dict[str, float | None] = {"lesion_dice_global": values["tumor_dice_global"]}
    grouped = [row["lits_groups"] for row in rows if "lits_groups" in row]  # not where a reference tells no tumors
    for name, suffix in SUFFIXES.items():
        found = detection[threshold_name(THRESHOLDS[name])]["all"]
        pooled[f"lesion_precision{suffix}"] = found["precision"]
        pooled[f"lesion_recall{suffix}"] = found["recall"]
        pooled[f"lesion_f1{suffix}"] = found["f1"]
        tp = sum(groups["counts"][name]["TP"] for groups in grouped)
        n_pred = sum(groups["n_predicted_lesions"] for groups in grouped)
        n_label = sum(groups["n_reference_lesions"] for groups in grouped)
        pooled[f"lits_groups_precision{suffix}"] = ratio(tp, n_pred)
        pooled[f"lits_groups_recall{suffix}"] = ratio(tp, n_label)
    errors = [row["lits"]["tumor_burden_diff"] for row in rows if row["lits"]["tumor_burden_diff"] is not None]
    pooled["RMSE_Tumorburden"] = math.sqrt(math.fsum(e * e for e in errors) / len(errors)) if errors else None
    pooled["MAXERROR_Tumorburden"] = max(errors, default=None)
    pooled["MAXABSERROR_Tumorburden"] = max(map(abs, errors), default=None)
    return pooled


def program_detection(official: Mapping[str, CaseFigures]) -> dict[str, float | None]:
    """Pooled lesion precision and recall as the challenge's program counts them.

    Args:
        official: By case, ``counts`` of :func:`liver_pipeline.metrics.lits.official_lesions`.

    Returns:
        ``lesion_precision``, ``lesion_recall`` and both ``_greater_zero``; None without lesions on that side. They can
        be negative: so can the program's true positives.
    """
    pooled = {}
    for name, suffix in SUFFIXES.items():
        rows = [case["counts"][name] for case in official.values()]
        tp, fp, fn = (sum(row[key] for row in rows) for key in ("TP", "FP", "FN"))
        pooled[f"lesion_precision{suffix}"] = ratio(tp, tp + fp)
        pooled[f"lesion_recall{suffix}"] = ratio(tp, tp + fn)
    return pooled


def _detection(rows: Sequence[CaseFigures]) -> dict[str, dict[str, Any]]:
    """Lesions of all cases, by threshold and size class, with bootstrap intervals over cases."""
    return {
        threshold_name(threshold): {
            name: _pooled_detection([row["lesions"]["detection"][threshold_name(threshold)][name] for row in rows])
            for name in ("all", *SIZE_CLASSES)
        }
        for threshold in IOU_THRESHOLDS
    }


def _pooled_detection(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fields = ("tp_label", "fn", "tp_pred", "fp")
    total = Detection(*(sum(row[field] for row in rows) for field in fields))
    precision = bootstrap_ratio([row["tp_pred"] for row in rows], [row["tp_pred"] + row["fp"] for row in rows])
    recall = bootstrap_ratio([row["tp_label"] for row in rows], [row["tp_label"] + row["fn"] for row in rows])
    return detection_row(total) | {"precision_ci": list(precision), "recall_ci": list(recall)}


def _agreement(rows: Sequence[CaseFigures], region: str) -> dict[str, Any]:
    """Bland-Altman of volumes in ml, prediction minus reference, all cases."""
    known = [row[region] for row in rows if row[region]["reference_volume_ml"] is not None]
    measured, reference = ([one[key] for one in known] for key in ("volume_ml", "reference_volume_ml"))
    return asdict(bland_altman(measured, reference))


def _tumor_free(rows: Sequence[CaseFigures]) -> dict[str, Any]:
    """Cases without reference tumor: how many, how many stay clean, and the false-positive volume in ml."""
    free = [row for row in rows if row["tumor"]["reference_volume_ml"] == 0]
    volumes = [row["tumor"]["false_positive_ml"] for row in free]
    return {
        "n_cases": len(free),
        "n_clean": sum(volume == 0 for volume in volumes),
        "false_positive_ml": summarize(volumes).as_dict(),
    }
