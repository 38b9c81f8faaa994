"""Overlap, volume difference and surface distances of two masks taken as one object each, and lists of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from liver_pipeline.geometry.boxes import Box
from liver_pipeline.labels import Mask, Spacing
from liver_pipeline.metrics.detection import FOUND_IOU, passes
from liver_pipeline.metrics.lesions import ComponentMap, Group, Lesions
from liver_pipeline.metrics.surface_distances import SurfaceDistances, lits_distances

OBJECT_KEYS = ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")


def group_figures(lesions: Lesions, groups: Sequence[Group], spacing: Spacing) -> list[dict[str, float]]:
    """Figures of each group that is found, as one object (keys :data:`OBJECT_KEYS`), by first reference id."""
    passing = [group for group in groups if passes(group, FOUND_IOU)]
    if not passing:
        return []
    pred_value, label_value = np.zeros(lesions.n_pred + 1, np.int32), np.zeros(lesions.n_label + 1, np.int32)
    for number, group in enumerate(passing, start=1):
        pred_value[list(group.pred_ids)] = number
        label_value[list(group.label_ids)] = number
    pred_map, label_map = pred_value[lesions.pred_map], label_value[lesions.label_map]
    return numbered_figures(pred_map, label_map, range(1, len(passing) + 1), spacing)


def object_figures(
    pred: Mask, label: Mask, spacing: Spacing, distances: SurfaceDistances | None = None
) -> dict[str, float]:
    """Dice, Jaccard, VOE, signed RVD, ASSD, RMSD and maximum distance (``msd``) of two non-empty masks, in mm."""
    tp, n_pred, n_label = int((pred & label).sum()), int(pred.sum()), int(label.sum())
    dice = 2 * tp / (n_pred + n_label)
    jaccard = dice / (2 - dice)
    distances = lits_distances(pred, label, spacing) if distances is None else distances
    return {
        "dice": dice,
        "jaccard": jaccard,
        "voe": 1 - jaccard,
        "rvd": (n_pred - n_label) / n_label,
        "assd": distances.assd(),
        "rmsd": distances.rmsd(),
        "msd": distances.maximum(),
    }


def numbered_figures(
    pred_map: ComponentMap, label_map: ComponentMap, numbers: Sequence[int], spacing: Spacing
) -> list[dict[str, float]]:
    """Figures of the objects that carry the same number in both maps, each inside its own box."""
    if not numbers:
        return []
    pred_boxes, label_boxes = ndimage.find_objects(pred_map), ndimage.find_objects(label_map)
    rows = []
    for number in numbers:
        if number > len(label_boxes) or label_boxes[number - 1] is None:
            continue  # a wrapped number whose reference was merged away: there is nothing to compare with
        box = _around(pred_boxes[number - 1], label_boxes[number - 1])
        rows.append(object_figures(pred_map[box] == number, label_map[box] == number, spacing))
    return rows


def _around(one: Box, other: Box) -> Box:
    """Smallest box that holds two boxes."""
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return x, y, z


def by_figure(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return lists by figure of :func:`group_figures`; no keys at all without rows, as in the program's tables."""
    return {key: [row[key] for row in rows] for key in OBJECT_KEYS} if rows else {}
