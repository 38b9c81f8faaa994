"""The LiTS challenge's figures: ``official`` as its program computes them, faults included, and ``lits`` as meant.

Written from a description of the program (organisers' repository, branch ``miccai``, 12 Sep 2017), not from its code.
Where the two differ:

===========================  =======================================  ===============================================
figure                       ``lits-official``                        ``lits``
===========================  =======================================  ===============================================
IoU of a lesion group        union with the wrong prediction wherever  true IoU of the group
                             the two numberings differ (most cases)
true positives               one per group minus the size of every     reference lesions in passing groups (recall),
                             failed merge: can be negative             predicted lesions in passing groups (precision)
orientation of the array     changes the counts                        changes nothing
more than 255 lesions        numbers wrap at 256                       no limit
liver not predicted          distances and volume difference 9001      null, and counted
largest burden error         signed: sees under-estimation only        signed and absolute
===========================  =======================================  ===============================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import joint_box
from liver_pipeline.labels import Spacing
from liver_pipeline.metrics.arrays import check_pair
from liver_pipeline.metrics.detection import FOUND_IOU, passes
from liver_pipeline.metrics.lesions import Lesions, find_lesions, match_lesions
from liver_pipeline.metrics.lits_matching import OfficialMatching, official_matching, official_test
from liver_pipeline.metrics.object_figures import (
    OBJECT_KEYS,
    by_figure,
    group_figures,
    numbered_figures,
    object_figures,
)
from liver_pipeline.metrics.surface_distances import SurfaceDistances

LARGE = 9001  # what the program gives for a liver that was not predicted
NO_OBJECT: dict[str, float] = {
    "dice": 0,
    "jaccard": 0,
    "voe": 1,
    "rvd": LARGE,
    "assd": LARGE,
    "rmsd": LARGE,
    "msd": LARGE,
}
OVERLAP, HALF = "overlap>0", "iou>0.5"
THRESHOLDS = {OVERLAP: 0.0, HALF: FOUND_IOU}
SUFFIXES = {HALF: "", OVERLAP: "_greater_zero"}  # of the challenge's keys


def official_case(pred: npt.NDArray[np.int8], label: npt.NDArray[np.int8], spacing: Spacing) -> dict[str, Any]:
    """Score one case as the challenge's program does, faults included.

    Args:
        pred: Predicted labels in the file's own axis order, shape (X, Y, Z), truncated to signed 8 bits.
        label: Reference labels likewise.
        spacing: First three zooms of the reference's header, in mm.

    Returns:
        ``counts`` and ``n_*_lesions``, ``detected_lesions`` (lists by figure), ``lesion_dice_per_case``, ``liver``,
        voxel sums and ``tumor_burden_diff`` (reference minus prediction). A tumor that is empty in both scores Dice 1,
        in one 0; a prediction without any voxel of value 1 is "no liver" and scores 9001.

    Raises:
        ValueError: If the shapes differ or the reference holds no liver (the program divides by zero there).
    """
    lesions = tumor_lesions(pred, label)
    counts, detected = _official_detection(lesions, spacing)
    return _case(pred, label, spacing, lesions, counts, detected)


def official_lesions(
    pred: npt.NDArray[np.integer[Any]], label: npt.NDArray[np.integer[Any]], spacing: Spacing
) -> dict[str, Any]:
    """Only ``counts`` and ``detected_lesions`` of :func:`official_case`: what its faults change."""
    counts, detected = _official_detection(tumor_lesions(pred, label), spacing)
    return {"counts": counts, "detected_lesions": by_figure(detected)}


def _official_detection(lesions: Lesions, spacing: Spacing) -> tuple[dict[str, dict[str, int]], list[dict[str, float]]]:
    """Counts at both thresholds, and the figures of detected lesions, as the program gives them."""
    matching = official_matching(lesions)
    survivors = {name: official_test(lesions, matching, threshold) for name, threshold in THRESHOLDS.items()}
    detected: list[dict[str, float]] = []
    if survivors[HALF].n_detected > 0:  # a sum spoilt by a failed merge drops the case's detected lesions too
        detected = _official_pairs(lesions, matching, survivors[HALF].values, spacing)
    return {name: _counts(result.n_detected, lesions) for name, result in survivors.items()}, detected


def grouped_case(
    pred: npt.NDArray[np.integer[Any]],
    label: npt.NDArray[np.integer[Any]],
    spacing: Spacing,
    *,
    lesions: Lesions | None = None,
    detected: list[dict[str, float]] | None = None,
    liver_distances: SurfaceDistances | None = None,
) -> dict[str, Any]:
    """Score one case with the true IoU of each group and one true positive per passing group (``lits_groups``).

    This is what the program's comments describe. Arguments, layout, and empty masks as in :func:`official_case` (its
    9001 too), but the figures do not depend on the orientation of the array. ``lesions``, ``detected`` (their
    :func:`group_figures`) and ``liver_distances`` may be given where they are known already.
    """
    lesions = tumor_lesions(pred, label) if lesions is None else lesions
    groups = match_lesions(lesions)
    counts = {
        name: _counts(sum(passes(group, threshold) for group in groups), lesions)
        for name, threshold in THRESHOLDS.items()
    }
    detected = group_figures(lesions, groups, spacing) if detected is None else detected
    return _case(pred, label, spacing, lesions, counts, detected, liver_distances)


def tumor_lesions(pred: npt.NDArray[np.integer[Any]], label: npt.NDArray[np.integer[Any]]) -> Lesions:
    """Find the lesions (label 2) of both maps inside the box that holds them; component maps have the box's shape."""
    check_pair(pred, label)
    pred_tumor, label_tumor = pred == 2, label == 2
    box = joint_box(pred_tumor, label_tumor) or (slice(0, 0), slice(0, 0), slice(0, 0))
    return find_lesions(pred_tumor[box], label_tumor[box])


def tumor_burden(labels: npt.NDArray[np.integer[Any]]) -> float | None:
    """Tumor voxels over liver voxels (labels >= 1); None without liver."""
    n_liver = int(np.count_nonzero(labels >= 1))
    return None if n_liver == 0 else int(np.count_nonzero(labels == 2)) / n_liver


def official_summary(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Sum up cases of :func:`official_case` or :func:`grouped_case` under the challenge's own keys.

    ``lesion_<figure>`` is the plain mean over all detected lesions of all cases, or the program's defaults (0, 1, 9001)
    if none was detected; ``MAXERROR_Tumorburden`` is the signed maximum.

    Raises:
        ValueError: If there are no cases.
    """
    if not cases:
        raise ValueError("no case was scored, so there is nothing to sum up")
    rows = list(cases.values())
    summary: dict[str, float] = {f"liver_{key}": _mean([row["liver"][key] for row in rows]) for key in OBJECT_KEYS}
    summary["liver_dice_per_case"] = _mean([row["liver"]["dice_per_case"] for row in rows])
    summary["liver_dice_global"] = _pooled_dice([row["liver_voxels"] for row in rows])
    summary["lesion_dice_per_case"] = _mean([row["lesion_dice_per_case"] for row in rows])
    summary["lesion_dice_global"] = _pooled_dice([row["lesion_voxels"] for row in rows])
    for key in OBJECT_KEYS:
        values = [value for row in rows for value in row["detected_lesions"].get(key, [])]
        summary[f"lesion_{key}"] = _mean(values) if values else NO_OBJECT[key]
    for name, suffix in SUFFIXES.items():
        tp = sum(row["counts"][name]["TP"] for row in rows)
        n_pred = sum(row["n_predicted_lesions"] for row in rows)
        n_label = sum(row["n_reference_lesions"] for row in rows)
        summary[f"lesion_precision{suffix}"] = tp / n_pred if n_pred else 0
        summary[f"lesion_recall{suffix}"] = tp / n_label if n_label else 0
    errors = [row["tumor_burden_diff"] for row in rows]
    summary["RMSE_Tumorburden"] = math.sqrt(_mean([error**2 for error in errors]))
    summary["MAXERROR_Tumorburden"] = max(errors)
    return summary


def _case(
    pred: npt.NDArray[np.integer[Any]],
    label: npt.NDArray[np.integer[Any]],
    spacing: Spacing,
    lesions: Lesions,
    counts: dict[str, dict[str, int]],
    detected: list[dict[str, float]],
    liver_distances: SurfaceDistances | None = None,
) -> dict[str, Any]:
    """Lay out one case; liver, whole tumor and burden are the same for both readings."""
    label_burden = tumor_burden(label)
    if label_burden is None:
        raise ValueError("the reference holds no liver (labels >= 1); LiTS scoring needs one in every reference")
    pred_tumor, label_tumor = int(lesions.pred_sizes.sum()), int(lesions.label_sizes.sum())
    common = int(lesions.overlap[:, 2].sum())
    has_liver = bool((pred == 1).any())
    pred_burden = tumor_burden(pred) if has_liver else None
    liver, liver_voxels = _liver(pred, label, spacing, has_liver, liver_distances)
    return {
        "counts": counts,
        "detected_lesions": by_figure(detected),
        "lesion_dice_per_case": 2 * common / (pred_tumor + label_tumor) if pred_tumor + label_tumor else 1.0,
        "lesion_voxels": {"intersection": common, "sum": pred_tumor + label_tumor},
        "liver": liver,
        "liver_voxels": liver_voxels,
        "n_predicted_lesions": lesions.n_pred,
        "n_reference_lesions": lesions.n_label,
        "tumor_burden_diff": label_burden - (LARGE if pred_burden is None else pred_burden),
    }


def _liver(
    pred: npt.NDArray[np.integer[Any]],
    label: npt.NDArray[np.integer[Any]],
    spacing: Spacing,
    has_liver: bool,
    distances: SurfaceDistances | None,
) -> tuple[dict[str, float], dict[str, int]]:
    """Liver figures and voxel sums; without any predicted voxel of value 1 the program's defaults."""
    pred_liver, label_liver = pred >= 1, label >= 1
    if not has_liver:
        return {**NO_OBJECT, "dice_per_case": 0}, {"intersection": 0, "sum": int(label_liver.sum())}
    box = joint_box(pred_liver, label_liver)
    assert box is not None
    pred_liver, label_liver = pred_liver[box], label_liver[box]
    figures = object_figures(pred_liver, label_liver, spacing, distances)
    voxels = {
        "intersection": int((pred_liver & label_liver).sum()),
        "sum": int(pred_liver.sum()) + int(label_liver.sum()),
    }
    return figures | {"dice_per_case": figures["dice"]}, voxels


def _official_pairs(
    lesions: Lesions, matching: OfficialMatching, values: Sequence[int], spacing: Spacing
) -> list[dict[str, float]]:
    """Figures of each surviving value of the 8-bit mask against the merged reference of the same number."""
    pred_map = matching.value.astype(np.int32)[lesions.pred_map]
    label_map = matching.merged.astype(np.int32)[lesions.label_map]
    return numbered_figures(pred_map, label_map, values, spacing)


def _counts(tp: int, lesions: Lesions) -> dict[str, int]:
    """The program's counts: everything that is not a true positive is an error, even if that exceeds the number."""
    return {"TP": tp, "FP": lesions.n_pred - tp, "FN": lesions.n_label - tp}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _pooled_dice(voxels: Sequence[Mapping[str, int]]) -> float:
    """Dice of all cases taken as one; 1 if every mask is empty."""
    total = sum(row["sum"] for row in voxels)
    return 2 * sum(row["intersection"] for row in voxels) / total if total else 1.0
