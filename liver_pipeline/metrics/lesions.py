"""Lesions: components of the tumor mask, and which predicted ones belong to which reference ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from liver_pipeline.geometry.boxes import bounding_box
from liver_pipeline.labels import IntArray, Mask
from liver_pipeline.metrics.arrays import as_mask, check_pair

ComponentMap = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Lesions:
    """Components of a pair of tumor masks, and where they overlap.

    Attributes:
        pred_map, label_map: Component ids, shape (X, Y, Z); 0 is background. 6-connected, numbered from 1 in the order
            of their first voxels in C order.
        pred_sizes, label_sizes: Voxels of each component; item 0 is component 1.
        overlap: Rows (pred id, label id, voxels in common), shape (N, 3), sorted by ids; only pairs that touch.
    """

    pred_map: ComponentMap
    label_map: ComponentMap
    pred_sizes: IntArray
    label_sizes: IntArray
    overlap: IntArray

    @property
    def n_pred(self) -> int:
        """Number of predicted lesions."""
        return len(self.pred_sizes)

    @property
    def n_label(self) -> int:
        """Number of reference lesions."""
        return len(self.label_sizes)


def find_lesions(pred: Mask, label: Mask, *, min_voxels: int = 1) -> Lesions:
    """Label the components of two tumor masks and count their overlaps in one pass.

    Args:
        pred: Predicted tumor mask, shape (X, Y, Z).
        label: Reference tumor mask of the same shape.
        min_voxels: Smaller components are left out on both sides; 1 keeps all, as LiTS does.

    Returns:
        The lesions; empty masks give none.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(pred, label)
    pred_map, n_pred = components(pred, min_voxels=min_voxels)
    label_map, n_label = components(label, min_voxels=min_voxels)
    return Lesions(
        pred_map=pred_map,
        label_map=label_map,
        pred_sizes=_sizes(pred_map, n_pred),
        label_sizes=_sizes(label_map, n_label),
        overlap=_overlap(pred_map, label_map, n_label),
    )


def components(mask: Mask, *, min_voxels: int = 1) -> tuple[ComponentMap, int]:
    """Number the 6-connected components of ``mask`` (X, Y, Z) in C order; return the map and how many there are.

    Components of fewer than ``min_voxels`` become background.
    """
    component_map = np.zeros(mask.shape, dtype=np.int32)
    box = bounding_box(mask)
    if box is None:
        return component_map, 0
    inside = np.zeros_like(component_map[box])
    count = int(ndimage.label(as_mask(mask[box]), output=inside))
    component_map[box] = inside
    if min_voxels <= 1:
        return component_map, count
    large = np.append(False, _sizes(component_map, count) >= min_voxels)
    numbers = np.where(large, np.cumsum(large), 0).astype(np.int32)
    return numbers[component_map], int(large.sum())


def _sizes(component_map: ComponentMap, count: int) -> IntArray:
    """Voxels of components 1 to ``count``."""
    return np.bincount(component_map[component_map > 0], minlength=count + 1)[1:].astype(np.int64)


def _overlap(pred_map: ComponentMap, label_map: ComponentMap, n_label: int) -> IntArray:
    """Rows (pred id, label id, common voxels) of the components that touch."""
    common = (pred_map > 0) & (label_map > 0)
    keys = pred_map[common].astype(np.int64) * (n_label + 1) + label_map[common]
    pairs, voxels = np.unique(keys, return_counts=True)
    return np.stack([pairs // (n_label + 1), pairs % (n_label + 1), voxels], axis=1).astype(np.int64)


@dataclass(frozen=True)
class Group:
    """Predicted and reference lesions (ids, ascending) that are one finding, and their figures as one object."""

    pred_ids: tuple[int, ...]
    label_ids: tuple[int, ...]
    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union of the whole group."""
        return self.intersection / self.union


def match_lesions(lesions: Lesions) -> list[Group]:
    """Group the lesions that overlap, as the LiTS challenge meant it, whatever the orientation of the array.

    A reference lesion belongs to the prediction that covers most of it; references of one prediction are merged. A
    prediction belongs to the merged reference that it covers most; predictions of one merged reference are merged.
    Where two cover equally much the tie joins both, since any choice would depend on the order of the voxels.

    Args:
        lesions: Lesions of one case.

    Returns:
        Groups with at least one lesion of each kind, by first reference id. A lesion is in at most one group; one that
        overlaps only lesions that belong elsewhere is in none.
    """
    if not len(lesions.overlap):
        return []
    pred, label, voxels = lesions.overlap.T
    best_pred = _is_largest(voxels, by=label)
    merged = _joined(pred[best_pred], label[best_pred], lesions.n_label)[label]
    pairs, place = np.unique(np.stack([pred, merged], axis=1), axis=0, return_inverse=True)
    sums = np.bincount(place.ravel(), weights=voxels).astype(np.int64)
    best_label = _is_largest(sums, by=pairs[:, 0])
    root_of_column = _joined(pairs[best_label, 0], pairs[best_label, 1], lesions.n_label)
    root_of_label = {int(i): int(root_of_column[m]) for i, m in zip(label, merged, strict=True)}
    root_of_pred = {int(p): int(root_of_column[m]) for p, m in pairs[best_label]}
    return _build_groups(lesions, root_of_pred, root_of_label)


def _is_largest(values: IntArray, *, by: IntArray) -> Mask:
    """Whether each value is the largest among those with the same key, ties included."""
    largest = np.zeros(int(by.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, by, values)
    return np.asarray(values == largest[by])


def _joined(keys: IntArray, items: IntArray, n_items: int) -> IntArray:
    """Join items that share a key, transitively; return the smallest item of each set by item, shape (n_items + 1,)."""
    roots = np.arange(n_items + 1)

    def root(item: int) -> int:
        while roots[item] != item:
            roots[item] = roots[roots[item]]
            item = int(roots[item])
        return item

    first_of_key: dict[int, int] = {}
    for key, item in zip(keys.tolist(), items.tolist(), strict=True):
        one, other = sorted((root(first_of_key.setdefault(key, item)), root(item)))
        roots[other] = one
    return np.array([root(item) for item in range(n_items + 1)], dtype=np.int64)


def _build_groups(lesions: Lesions, root_of_pred: dict[int, int], root_of_label: dict[int, int]) -> list[Group]:
    """Collect members by root; roots that no prediction belongs to are not groups."""
    preds: dict[int, list[int]] = {}
    labels: dict[int, list[int]] = {}
    for pred_id, root in sorted(root_of_pred.items()):
        preds.setdefault(root, []).append(pred_id)
    for label_id, root in sorted(root_of_label.items()):
        labels.setdefault(root, []).append(label_id)
    common: dict[int, int] = {}
    for pred_id, label_id, voxels in lesions.overlap.tolist():
        if root_of_pred[pred_id] == root_of_label[label_id]:
            common[root_of_pred[pred_id]] = common.get(root_of_pred[pred_id], 0) + voxels
    groups = []
    for root in sorted(preds):
        pred_voxels = sum(int(lesions.pred_sizes[i - 1]) for i in preds[root])
        label_voxels = sum(int(lesions.label_sizes[i - 1]) for i in labels[root])
        union = pred_voxels + label_voxels - common[root]
        groups.append(Group(tuple(preds[root]), tuple(labels[root]), common[root], union))
    return groups
