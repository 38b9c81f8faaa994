"""All figures of one pair of label maps, as plain values that JSON can hold; None where a figure is undefined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from liver_pipeline.geometry.boxes import Box, joint_box
from liver_pipeline.labels import LabelMap, Spacing
from liver_pipeline.metrics.arrays import check_pair, check_spacing
from liver_pipeline.metrics.detection import FOUND_IOU, Detection, detect, group_status
from liver_pipeline.metrics.lesions import Group, Lesions, find_lesions, match_lesions
from liver_pipeline.metrics.lits import grouped_case, tumor_burden
from liver_pipeline.metrics.object_figures import by_figure, group_figures
from liver_pipeline.metrics.overlap import PARENCHYMA, TUMORS, WHOLE_LIVER, Counts, confusion_matrix, overlap_figures
from liver_pipeline.metrics.shapes import SIZE_CLASSES, LesionShape, lesion_shapes
from liver_pipeline.metrics.surface_distances import border_distances, surface_figures

REGIONS = {"liver": WHOLE_LIVER, "tumor": TUMORS, "parenchyma": PARENCHYMA}
IOU_THRESHOLDS = (0.0, 0.1, 0.25, FOUND_IOU)
EMPTY_REASONS = {
    "both_empty": "both masks are empty",
    "reference_empty": "the reference is empty",
    "prediction_empty": "the prediction is empty",
}


def threshold_name(min_iou: float) -> str:
    """Name of a detection threshold, e.g. ``iou>0.25``; ``iou>0`` is any overlap."""
    return f"iou>{min_iou:g}"


def case_figures(
    pred: LabelMap,
    label: LabelMap,
    spacing: Spacing,
    *,
    lits: bool = True,
    min_lesion_ml: float = 0.0,
    threads: int = 1,
) -> dict[str, Any]:
    """Compute every figure of one case.

    Args:
        pred: Predicted labels (0 background, 1 liver, 2 tumor), shape (X, Y, Z), slices across Z.
        label: Reference labels of the same shape.
        spacing: Voxel size in mm along X, Y, Z.
        lits: Also give the LiTS figures; needs liver in the reference.
        min_lesion_ml: Smaller lesions are left out of the lesion-wise figures, on both sides; 0 keeps all.
        threads: Threads of the nearest-point searches.

    Returns:
        ``confusion`` (reference rows), one block per region of :data:`REGIONS` (liver is label >= 1), ``tumor_burden``,
        ``lesions`` (detection), ``lesion_list`` (one row per lesion, indices in the array given) and with ``lits``
        ``lits`` (as meant) and ``lits_groups`` (one true positive per group). An empty mask gives None for what is
        undefined and ``empty`` says which mask it was.

    Raises:
        ValueError: If shapes differ, a label is above 2, or ``lits`` is asked for a reference without liver.
    """
    check_pair(pred, label)
    spacing = check_spacing(spacing)
    voxel_ml = float(np.prod(spacing)) / 1000.0
    confusion = confusion_matrix(pred, label)
    box = joint_box(pred, label) or (slice(0, 1), slice(0, 1), slice(0, 1))
    start = tuple(axis.start for axis in box)
    pred, label = np.ascontiguousarray(pred[box]), np.ascontiguousarray(label[box])
    tumor_box = joint_box(pred == 2, label == 2) or (slice(0, 0), slice(0, 0), slice(0, 0))
    tumors = pred[tumor_box] == 2, label[tumor_box] == 2
    figures: dict[str, Any] = {"spacing": list(spacing), "confusion": confusion.tolist()}
    blocks = {name: _region(Counts.of_region(confusion, classes), voxel_ml) for name, classes in REGIONS.items()}
    livers = pred >= 1, label >= 1
    liver_borders = None
    if blocks["liver"]["empty"] is None:
        liver_borders = border_distances(*livers, spacing, threads=threads)
    blocks["liver"] |= surface_figures(*livers, spacing, threads=threads, borders=liver_borders)
    blocks["tumor"] |= surface_figures(*tumors, spacing, threads=threads)
    figures |= blocks
    figures["tumor_burden"] = burden_figures(tumor_burden(pred), tumor_burden(label))
    lesions = find_lesions(*tumors, min_voxels=min_voxels(min_lesion_ml, voxel_ml))
    groups = match_lesions(lesions)
    shapes = [lesion_shapes(each, spacing) for each in (lesions.pred_map, lesions.label_map)]
    figures["lesions"] = detection_figures(groups, *shapes)
    offset = tuple(first + axis.start for first, axis in zip(start, tumor_box, strict=True))
    figures["lesion_list"] = [*lesion_rows("reference", shapes[1], lesions, groups, offset)]
    figures["lesion_list"] += lesion_rows("predicted", shapes[0], lesions, groups, offset)
    if lits:
        detected = group_figures(lesions, groups, spacing)
        figures["lits"] = _lits(blocks, figures["tumor_burden"], detected)
        figures["lits_groups"] = grouped_case(
            pred,
            label,
            spacing,
            lesions=None if min_lesion_ml else lesions,
            detected=None if min_lesion_ml else detected,
            liver_distances=None if liver_borders is None else liver_borders[0],
        )
    return figures


def min_voxels(min_lesion_ml: float, voxel_ml: float) -> int:
    """Voxels of the smallest lesion that counts: ``min_lesion_ml`` but for a hair of rounding, at least 1."""
    return max(1, int(np.ceil(min_lesion_ml / voxel_ml - 1e-9)))


def _region(counts: Counts, voxel_ml: float) -> dict[str, Any]:
    """Overlap and volumes of one region."""
    return overlap_figures(counts) | {
        "volume_ml": counts.n_pred * voxel_ml,
        "reference_volume_ml": counts.n_label * voxel_ml,
        "volume_error_ml": (counts.n_pred - counts.n_label) * voxel_ml,
        "false_positive_ml": counts.fp * voxel_ml,
        "false_negative_ml": counts.fn * voxel_ml,
        "empty": counts.emptiness,
        "reason": EMPTY_REASONS.get(counts.emptiness or ""),
    }


def burden_figures(pred: float | None, label: float | None) -> dict[str, float | None]:
    """Tumor burden (tumor over liver) of prediction and reference and the error; None without liver."""
    error = None if pred is None or label is None else pred - label
    return {
        "prediction": pred,
        "reference": label,
        "error": error,
        "error_abs": None if error is None else abs(error),
    }


def detection_figures(
    groups: list[Group], pred_shapes: list[LesionShape], label_shapes: list[LesionShape]
) -> dict[str, Any]:
    """Lesion-wise precision, recall and F1 by IoU threshold and size class.

    A reference lesion is in the class of its own diameter (recall), a predicted one likewise (precision).
    """
    classes: dict[str, tuple[list[int], list[int]]] = {
        "all": ([shape.id for shape in pred_shapes], [shape.id for shape in label_shapes])
    }
    for name in SIZE_CLASSES:
        classes[name] = (_ids(pred_shapes, name), _ids(label_shapes, name))
    detection = {
        threshold_name(threshold): {
            name: detection_row(detect(groups, min_iou=threshold, pred_ids=preds, label_ids=labels))
            for name, (preds, labels) in classes.items()
        }
        for threshold in IOU_THRESHOLDS
    }
    return {"n_predicted": len(pred_shapes), "n_reference": len(label_shapes), "detection": detection}


def _ids(shapes: Iterable[LesionShape], size_class: str) -> list[int]:
    return [shape.id for shape in shapes if shape.size_class == size_class]


def detection_row(detection: Detection) -> dict[str, float | int | None]:
    """Counts with precision, recall and F1."""
    return asdict(detection) | {
        "precision": detection.precision(),
        "recall": detection.recall(),
        "f1": detection.f1(),
    }


def lesion_rows(
    kind: str,
    shapes: list[LesionShape],
    lesions: Lesions,
    groups: list[Group],
    offset: tuple[int, ...],
) -> list[dict[str, Any]]:
    """One row per lesion of one kind: size, place (index in the whole array) and what it was matched with.

    ``status`` is ``found`` (its group passes IoU > 0.5), ``partial`` (it is in a group that does not), ``missed`` for a
    reference and ``invented`` for a predicted lesion that is in no group. ``overlap_voxels`` is what it shares with
    the other side, matched or not.
    """
    own, other = (1, 0) if kind == "reference" else (0, 1)
    shared = np.zeros(len(shapes) + 1, np.int64)
    np.add.at(shared, lesions.overlap[:, own], lesions.overlap[:, 2])
    members: dict[int, tuple[Group, tuple[int, ...]]] = {}
    for group in groups:
        sides = group.pred_ids, group.label_ids
        members.update(dict.fromkeys(sides[own], (group, sides[other])))
    alone = "missed" if kind == "reference" else "invented"
    rows = []
    for shape in shapes:
        found, matched = members.get(shape.id) or (None, ())
        rows.append(
            {
                "kind": kind,
                "id": shape.id,
                "voxels": shape.voxels,
                "volume_ml": shape.volume_ml,
                "diameter_mm": shape.diameters.longest_mm,
                "perpendicular_mm": shape.diameters.perpendicular_mm,
                "slice": shape.diameters.slice_index + offset[2],
                "size_class": shape.size_class,
                "centroid_index": [place + first for place, first in zip(shape.centroid, offset, strict=True)],
                "box": shifted_box(shape.box, offset),
                "status": alone if found is None else group_status(found),
                "group_iou": None if found is None else found.iou,
                "matched_ids": list(matched),
                "overlap_voxels": int(shared[shape.id]),
            }
        )
    return rows


def shifted_box(box: Box, offset: Iterable[int]) -> list[list[int]]:
    """First and last voxel (inclusive) of a box along each axis, moved by ``offset``."""
    return [[axis.start + first, axis.stop - 1 + first] for axis, first in zip(box, offset, strict=True)]


def _lits(
    blocks: dict[str, dict[str, Any]],
    burden: dict[str, float | None],
    detected: list[dict[str, float]],
) -> dict[str, Any]:
    """LiTS figures as meant: Dice of the tumor is 1 if both are empty; no 9001; detected groups at IoU > 0.5."""
    liver, tumor = blocks["liver"], blocks["tumor"]
    keys = {"dice": "dice", "jaccard": "iou", "voe": "voe", "rvd": "rvd", "rvd_abs": "rvd_abs"}
    keys |= {"assd": "assd_lits", "rmsd": "rmsd_lits", "msd": "msd_lits"}
    return {
        "liver": {key: liver[name] for key, name in keys.items()},
        "lesion_dice_per_case": 1.0 if tumor["dice"] is None else tumor["dice"],
        "tumor_burden_diff": None if burden["error"] is None else -burden["error"],  # reference minus prediction
        "detected_lesions": by_figure(detected),
    }
