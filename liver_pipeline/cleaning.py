"""Post-processing steps that YAML can name; the thinking is in postprocessing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from nibabel import orientations

from liver_pipeline.postprocessing import (
    LabelMap,
    drop_small_tumors,
    drop_tumors_off_liver,
    fill_liver_holes,
    keep_largest_liver,
)


class CleanLabelMapd(MapTransform, ABC):
    """Base of the post-processing steps: runs :meth:`clean` on label maps of shape (1, X, Y, Z), uint8.

    The number of voxels changed goes to ``data["effects"][name]``, summed over keys and over repeats of a step.
    The step sees the map with its axes along R, A, S, so that its result does not depend on how the scan was stored.
    """

    name: ClassVar[str]

    @abstractmethod
    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Return a cleaned copy of ``label_map``, shape (X, Y, Z); ``spacing`` in mm along its axes."""

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
            changed += int(np.count_nonzero(before != after))
            cleaned[key] = convert_to_dst_type(after[None], dst=pred)[0]  # keeps affine and device
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
        return stored.copy(order="K")  # torch takes no negative strides


class KeepLargestLiverd(CleanLabelMapd):
    """Dictionary version of :func:`~liver_pipeline.postprocessing.keep_largest_liver`."""

    name = "keep_largest_liver"

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Keep the largest component of liver-or-tumor, with its tumors."""
        return keep_largest_liver(label_map)


class FillLiverHolesd(CleanLabelMapd):
    """Dictionary version of :func:`~liver_pipeline.postprocessing.fill_liver_holes`."""

    name = "fill_liver_holes"

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Turn background that liver-or-tumor encloses into liver."""
        return fill_liver_holes(label_map)


class DropSmallTumorsd(CleanLabelMapd):
    """Dictionary version of :func:`~liver_pipeline.postprocessing.drop_small_tumors`; ``min_volume_ml`` in ml."""

    name = "drop_small_tumors"

    def __init__(self, keys: KeysCollection, min_volume_ml: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.min_volume_ml = min_volume_ml

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Drop tumors of less than ``min_volume_ml``."""
        return drop_small_tumors(label_map, spacing, min_volume_ml=self.min_volume_ml)


class DropTumorsOffLiverd(CleanLabelMapd):
    """Dictionary version of :func:`~liver_pipeline.postprocessing.drop_tumors_off_liver`; ``max_distance_mm`` in mm."""

    name = "drop_tumors_off_liver"

    def __init__(self, keys: KeysCollection, max_distance_mm: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.max_distance_mm = max_distance_mm

    def clean(self, label_map: LabelMap, spacing: tuple[float, ...]) -> LabelMap:
        """Drop tumors farther than ``max_distance_mm`` from the liver."""
        return drop_tumors_off_liver(label_map, spacing, max_distance_mm=self.max_distance_mm)
