"""How the LiTS challenge's program merges lesions and tests their IoU, faults included.

Where that differs from what was meant: :mod:`liver_pipeline.metrics.lits`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from liver_pipeline.labels import IntArray
from liver_pipeline.metrics.lesions import Lesions


@dataclass(frozen=True)
class OfficialMatching:
    """The program's merged lesions: each group in the order of its first prediction, and both merged masks as tables.

    Attributes:
        groups: Tuples (first pred id, reference id, intersection).
        merged: Reference id after merging, by reference id; item 0 is background.
        value: What the 8-bit prediction mask holds, by pred id: the *reference* id, wrapped at 256; 0 elsewhere.
        merge_size: How many references a reference was merged with, by reference id.
    """

    groups: list[tuple[int, int, int]]
    merged: IntArray
    value: npt.NDArray[np.uint8]
    merge_size: IntArray


@dataclass(frozen=True)
class OfficialTest:
    """What is left at a threshold.

    Attributes:
        n_detected: The program's true positives: can be negative.
        values: Of the 8-bit mask that survive.
    """

    n_detected: int
    values: list[int]


def official_matching(lesions: Lesions) -> OfficialMatching:
    """Steps 1 to 3: merge references by their first best prediction, then predictions by their first best reference."""
    merged, merge_size = np.arange(lesions.n_label + 1), np.zeros(lesions.n_label + 1, np.int64)
    members: dict[int, list[int]] = {}
    for label_id, pred_id in sorted(_first_best(lesions.overlap[:, [1, 0, 2]]).items()):
        members.setdefault(pred_id, []).append(label_id)
    for labels in members.values():
        merged[labels] = labels[0]
        merge_size[labels] = len(labels)
    sums: dict[tuple[int, int], int] = {}
    for pred_id, label_id, voxels in lesions.overlap.tolist():
        key = (pred_id, int(merged[label_id]))
        sums[key] = sums.get(key, 0) + voxels
    table = np.array([(*key, voxels) for key, voxels in sorted(sums.items())], dtype=np.int64).reshape(-1, 3)
    first_pred: dict[int, int] = {}
    intersections: dict[int, int] = {}
    value = np.zeros(lesions.n_pred + 1, dtype=np.uint8)
    for pred_id, reference in sorted(_first_best(table).items()):
        first_pred.setdefault(reference, pred_id)
        intersections[reference] = intersections.get(reference, 0) + sums[pred_id, reference]
        value[pred_id] = reference % 256
    groups = [(pred_id, reference, intersections[reference]) for reference, pred_id in first_pred.items()]
    return OfficialMatching(groups, merged, value, merge_size)


def _first_best(table: IntArray) -> dict[int, int]:
    """For each key (column 0) the item (column 1) with most voxels (column 2), the smallest item among equals."""
    best: dict[int, tuple[int, int]] = {}
    for key, item, voxels in table.tolist():
        if key not in best or (-voxels, item) < best[key]:
            best[key] = (-voxels, item)
    return {key: item for key, (_, item) in best.items()}


def official_test(lesions: Lesions, matching: OfficialMatching, threshold: float) -> OfficialTest:
    """Step 4: the "union" takes the predicted voxels of value *pred id* from a mask that holds *reference ids*."""
    in_pred = np.zeros(256, np.int64)
    np.add.at(in_pred, matching.value[1:], lesions.pred_sizes)
    in_label = np.zeros(lesions.n_label + 1, np.int64)
    np.add.at(in_label, matching.merged[1:], lesions.label_sizes)
    in_both: dict[tuple[int, int], int] = {}
    for pred_id, label_id, voxels in lesions.overlap.tolist():
        key = (int(matching.value[pred_id]), int(matching.merged[label_id]))
        in_both[key] = in_both.get(key, 0) + voxels
    alive = set(range(1, 256))
    n_detected = len(matching.groups)
    for pred_id, reference, intersection in matching.groups:
        union = int(in_label[reference])
        if pred_id in alive:
            union += int(in_pred[pred_id]) - in_both.get((pred_id, reference), 0)
        if intersection / union <= threshold:
            alive.discard(reference)
            n_detected -= int(matching.merge_size[reference])
    values = sorted({int(value) for value in matching.value} & alive)
    return OfficialTest(n_detected, values)
