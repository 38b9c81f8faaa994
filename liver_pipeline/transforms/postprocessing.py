"""Clean a label map by what anatomy allows: one liver without holes, and tumors of a plausible size on it.

Every function takes a label map of shape (X, Y, Z), uint8, with 0 background, 1 liver, 2 tumor (a model of two classes
simply has no 2), and returns a new one of the same shape; an empty map comes back empty. "Liver-or-tumor" is the whole
organ, as LiTS reads it (label >= 1). Voxels of an object are connected over faces, edges and corners (26 neighbours),
those of the background over faces only (6), so that an object and what it encloses never cross.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel import orientations
from scipy.spatial import cKDTree

from liver_pipeline.labels import LIVER, TUMOR, LabelMap
from liver_pipeline.transforms.components import (
    component_sizes,
    first_largest,
    keep_component,
    map_window,
    number_components,
    numbers_on_faces,
    relabel,
    surface_points,
    touching_liver,
    voxels_changed,
)


def keep_largest_liver(label_map: LabelMap) -> LabelMap:
    """Keep the largest component of liver-or-tumor, with its tumors; everything else becomes background.

    The size is counted in voxels. Of several equally large components the one that comes first in index order
    (X slowest, Z fastest) is kept, whatever the memory layout.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.

    Returns:
        A new label map; all its voxels equal the input's or are background.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2.

    Example:
        >>> row = np.array([[[1, 2, 1, 0, 1, 1]]], dtype=np.uint8)
        >>> keep_largest_liver(row)
        array([[[1, 2, 1, 0, 0, 0]]], dtype=uint8)
    """
    window = map_window(label_map)
    components, count = number_components(window.view(label_map) > 0)
    if count < 2:
        return window.copy(label_map)
    kept = first_largest(window.as_given(components), component_sizes(components, count))
    return keep_component(label_map, window, components, kept)


def fill_liver_holes(label_map: LabelMap) -> LabelMap:
    """Turn background that liver-or-tumor encloses on all sides into liver; tumors stay tumors.

    A pocket that reaches the border of the map is open, as in :func:`scipy.ndimage.binary_fill_holes`: what lies beyond
    the border is unknown.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.

    Returns:
        A new label map; only enclosed background voxels differ from the input.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2.
    """
    window = map_window(label_map)
    cavities, count = number_components(window.view(label_map) == 0, connectivity=6)
    is_hole = np.ones(count + 1, dtype=bool)
    is_hole[0] = False  # 0 is the organ itself
    is_hole[numbers_on_faces(cavities)] = False  # the faces lead outside the organ or to the border of the map
    return relabel(label_map, window, cavities, is_hole, np.full(count + 1, LIVER, dtype=np.uint8))


def drop_small_tumors(label_map: LabelMap, spacing: Sequence[float], *, min_volume_ml: float) -> LabelMap:
    """Drop tumors (connected components of the tumor label) of less than ``min_volume_ml``.

    A dropped tumor that touches liver was a doubtful part of the organ and becomes liver, so that the outline of
    liver-or-tumor, which LiTS scores as the liver, does not change. One that touches no liver was never part of the
    organ and becomes background.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.
        spacing: Voxel size in mm along X, Y, Z.
        min_volume_ml: Smallest volume in ml that is kept; a tumor of exactly this volume stays.

    Returns:
        A new label map; only voxels of dropped tumors differ from the input.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2, ``spacing`` is not three
            positive numbers, or ``min_volume_ml`` is negative.

    Example:
        >>> row = np.array([[[1, 2, 1, 0, 2, 0, 2, 2]]], dtype=np.uint8)
        >>> drop_small_tumors(row, (10.0, 10.0, 10.0), min_volume_ml=2.0)  # a voxel is 1 ml
        array([[[1, 1, 1, 0, 0, 0, 2, 2]]], dtype=uint8)
    """
    _check_not_negative("min_volume_ml", min_volume_ml)
    voxel_ml = _checked_spacing(spacing).prod() / 1000.0  # 1 ml = 1000 mm^3
    window = map_window(label_map, smallest_label=TUMOR)
    part = window.view(label_map)
    tumors, count = number_components(part == TUMOR)
    volumes_ml = component_sizes(tumors, count) * voxel_ml
    is_small = volumes_ml < min_volume_ml * (1.0 - 1e-9)  # rounding must not drop what is exactly the minimum
    is_small[0] = False  # 0 is not a tumor
    new_label = np.where(touching_liver(tumors, count, part), LIVER, 0).astype(np.uint8)
    return relabel(label_map, window, tumors, is_small, new_label)


def drop_tumors_off_liver(label_map: LabelMap, spacing: Sequence[float], *, max_distance_mm: float) -> LabelMap:
    """Turn tumors that lie farther than ``max_distance_mm`` from the liver into background.

    The distance is the smallest one between the centre of a tumor voxel and that of a liver voxel. A tumor that touches
    liver (26 neighbours) is always kept, so 0 means "must touch". A map without any liver voxel is returned
    unchanged: there is nothing to be off, and a liver that was missed must not take its tumors with it.

    Args:
        label_map: Labels, shape (X, Y, Z), uint8; 0 background, 1 liver, 2 tumor.
        spacing: Voxel size in mm along X, Y, Z.
        max_distance_mm: Largest distance in mm that is kept; a tumor at exactly this distance stays.

    Returns:
        A new label map; all its voxels equal the input's or are background.

    Raises:
        ValueError: If ``label_map`` is no (X, Y, Z) uint8 array of the labels 0, 1, 2, ``spacing`` is not three
            positive numbers, or ``max_distance_mm`` is negative.

    Example:
        >>> row = np.array([[[1, 2, 0, 0, 2, 0, 0, 2]]], dtype=np.uint8)
        >>> drop_tumors_off_liver(row, (1.0, 1.0, 2.0), max_distance_mm=8.0)
        array([[[1, 2, 0, 0, 2, 0, 0, 0]]], dtype=uint8)
    """
    _check_not_negative("max_distance_mm", max_distance_mm)
    voxel_mm = _checked_spacing(spacing)
    window = map_window(label_map)
    part = window.view(label_map)
    tumors, count = number_components(part == TUMOR)
    is_off = ~touching_liver(tumors, count, part)
    is_off[0] = False  # 0 is not a tumor
    if is_off.any():
        liver_mm = surface_points(part, lambda slab: slab == LIVER) * voxel_mm[window.axes]
        if len(liver_mm) == 0:
            return window.copy(label_map)
        off = surface_points(tumors, lambda slab: is_off[slab])
        # The bound of a k-d tree query is exclusive, and sums of squares round: 1e-6 mm makes the limit inclusive.
        query = cKDTree(liver_mm).query(off * voxel_mm[window.axes], distance_upper_bound=max_distance_mm + 1e-6)
        is_off[tumors[tuple(off[np.isfinite(query[0])].T)]] = False
    return relabel(label_map, window, tumors, is_off, np.zeros(count + 1, dtype=np.uint8))


def _like(label_map: LabelMap, pred: MetaTensor) -> MetaTensor:
    """Return a label map as a tensor (1, X, Y, Z) with the metadata and on the device of ``pred``.

    Its memory order stays: MONAI's convert_to_dst_type turns a large one round, a second for 512 x 512 x 400.
    """
    cleaned = MetaTensor(torch.from_numpy(label_map)[None].to(pred.device))
    cleaned.copy_meta_from(pred)  # type: ignore[no-untyped-call]
    return cleaned


def _checked_spacing(spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the voxel size as an array of three positive numbers in mm, or raise ValueError."""
    voxel_mm = np.asarray(spacing, dtype=np.float64)
    if voxel_mm.shape != (3,) or not np.all(np.isfinite(voxel_mm) & (voxel_mm > 0)):
        raise ValueError(f"spacing must be three positive numbers in mm along X, Y, Z, got {spacing}")
    return voxel_mm


def _check_not_negative(name: str, value: float) -> None:
    """Raise ValueError where a threshold is negative or nan."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")


class CleanLabelMapd(MapTransform, ABC):
    """Base of the post-processing steps: runs :meth:`clean` on label maps of shape (1, X, Y, Z), uint8.

    The number of voxels changed goes to ``data["effects"][name]``, summed over keys and over repeats of a step.
    The step sees the map with its axes along R, A, S, so that its result does not depend on how the scan was stored.
    """

    name: ClassVar[str]

    @abstractmethod
    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Return a cleaned copy of ``label_map``, shape (X, Y, Z), that lies in memory as it does.

        Args:
            label_map: Its axes run along R, A, S.
            spacing: In mm along them.
        """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with cleaned label maps; the tensors of the input stay as they are.

        Raises:
            ValueError: If a label map is no :class:`MetaTensor` of shape (1, X, Y, Z), dtype uint8, labels 0, 1, 2.
        """
        cleaned = dict(data)
        changed = 0
        for key in self.key_iterator(cleaned):
            pred = cleaned[key]
            if not isinstance(pred, MetaTensor) or pred.ndim != 4 or pred.shape[0] != 1:
                raise ValueError(f"{key} must be a MetaTensor of shape (1, X, Y, Z), got {type(pred)} {pred.shape}")
            before = pred[0].numpy(force=True)
            after = self._clean_along_patient_axes(before, pred.affine.numpy(force=True))
            changed += voxels_changed(before, after)
            cleaned[key] = _like(after, pred)
        effects = cleaned.get("effects", {})
        cleaned["effects"] = {**effects, self.name: effects.get(self.name, 0) + changed}
        return cleaned

    def _clean_along_patient_axes(self, label_map: LabelMap, affine: npt.NDArray[np.float64]) -> LabelMap:
        """Clean a view of ``label_map`` whose axes run along R, A, S; return the result in the stored axis order."""
        to_patient = orientations.io_orientation(affine)
        to_stored = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), to_patient)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(to_patient[:, 0])]
        cleaned = self.clean(orientations.apply_orientation(label_map, to_patient), tuple(spacing.tolist()))
        stored: LabelMap = orientations.apply_orientation(cleaned, to_stored)
        return stored


class KeepLargestLiverd(CleanLabelMapd):
    """Dictionary version of :func:`~liver_pipeline.transforms.postprocessing.keep_largest_liver`."""

    name = "keep_largest_liver"

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Keep the largest component of liver-or-tumor, with its tumors."""
        return keep_largest_liver(label_map)


class FillLiverHolesd(CleanLabelMapd):
    """Dictionary version of :func:`~liver_pipeline.transforms.postprocessing.fill_liver_holes`."""

    name = "fill_liver_holes"

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Turn background that liver-or-tumor encloses into liver."""
        return fill_liver_holes(label_map)


class DropSmallTumorsd(CleanLabelMapd):
    """Dictionary version of :func:`drop_small_tumors`; ``min_volume_ml`` in ml."""

    name = "drop_small_tumors"

    def __init__(self, keys: KeysCollection, min_volume_ml: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.min_volume_ml = min_volume_ml

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Drop tumors of less than ``min_volume_ml``."""
        return drop_small_tumors(label_map, spacing, min_volume_ml=self.min_volume_ml)


class DropTumorsOffLiverd(CleanLabelMapd):
    """Dictionary version of :func:`drop_tumors_off_liver`; ``max_distance_mm`` in mm."""

    name = "drop_tumors_off_liver"

    def __init__(self, keys: KeysCollection, max_distance_mm: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.max_distance_mm = max_distance_mm

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Drop tumors farther than ``max_distance_mm`` from the liver."""
        return drop_tumors_off_liver(label_map, spacing, max_distance_mm=self.max_distance_mm)
