"""The lesions of one label map, a row each: measured, placed, and matched with those of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from liver_pipeline.evaluation.segments import segment_shares
from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import Box, bounding_box, joint_box
from liver_pipeline.labels import FloatArray, LabelMap, Scaled
from liver_pipeline.metrics.detection import group_status
from liver_pipeline.metrics.lesions import ComponentMap, components, find_lesions, match_lesions
from liver_pipeline.metrics.shapes import LesionShape, lesion_shapes
from liver_pipeline.metrics.surfaces import border_surface


def describe_lesions(
    label_map: LabelMap,
    affine: Affine,
    *,
    hu: Scaled | None = None,
    confidence: Scaled | None = None,
    matches: Sequence[str] | None = None,
    segments: npt.NDArray[Any] | None = None,
) -> list[dict[str, Any]]:
    """Measure every lesion (6-connected component of label 2).

    Args:
        label_map: Labels 0, 1, 2, shape (X, Y, Z), axes along right, anterior, superior.
        affine: Voxel index to RAS mm.
        hu: Scan of the same shape.
        confidence: Tumor probability of the same shape.
        matches: Result of :func:`match_status`.
        segments: Couinaud segments 1 to 8 of the same shape.

    Returns:
        A row a lesion; None where what a figure needs is not given. Without a liver voxel (label 1) there is no
        distance to its surface.
    """
    spacing = spacing_of(affine)
    box = bounding_box(label_map)
    if box is None:
        return []
    shapes = _shapes(components(label_map[box] == 2)[0], spacing, box)
    depths = _depths(label_map, shapes, spacing) if shapes and (label_map[box] == 1).any() else None
    rows = []
    for shape in shapes:
        units = _values(hu, shape)
        sure = _values(confidence, shape)
        row = _row(shape, affine, label_map.shape)
        row["distance_to_surface_mm"] = None if depths is None else depths[shape.id - 1]
        row["mean_hu"] = None if units is None else float(units.mean())
        row["sd_hu"] = None if units is None else float(units.std())
        row["mean_confidence"] = None if sure is None else float(sure.mean())
        row["min_confidence"] = None if sure is None else float(sure.min())
        row["match"] = None if matches is None else matches[shape.id - 1]
        row["segments"] = None if segments is None else segment_shares(segments[shape.box][shape.mask])
        rows.append(row)
    return rows


def match_status(
    label_map: LabelMap, reference: npt.NDArray[Any], affine: Affine
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the status of each lesion (``found`` above IoU 0.5, ``partial``, ``invented``), and the missed ones.

    The missed ones are rows of reference lesions that are in no group.
    """
    box = joint_box(label_map, reference)
    if box is None:
        return [], []
    lesions = find_lesions(label_map[box] == 2, reference[box] == 2)
    groups = match_lesions(lesions)
    status = {i: group_status(group) for group in groups for i in group.pred_ids}
    grouped = {i for group in groups for i in group.label_ids}
    missed = [
        _row(shape, affine, label_map.shape)
        for shape in _shapes(lesions.label_map, spacing_of(affine), box)
        if shape.id not in grouped
    ]
    return [status.get(i, "invented") for i in range(1, lesions.n_pred + 1)], missed


def centroid_mm(index: Sequence[float], affine: Affine) -> dict[str, list[float]]:
    """Return where a place in voxels lies, in mm: ``centroid_ras_mm``, and ``centroid_lps_mm`` as DICOM has it."""
    ras = affine[:3, :3] @ np.array(index) + affine[:3, 3]
    return {
        "centroid_ras_mm": [float(value) for value in ras],
        "centroid_lps_mm": [-float(ras[0]), -float(ras[1]), float(ras[2])],
    }


def _row(shape: LesionShape, affine: Affine, grid: tuple[int, ...]) -> dict[str, Any]:
    """What follows from the lesion's own voxels."""
    thickness = [axis.stop - axis.start for axis in shape.box]
    at_edge = [axis.start == 0 or axis.stop == size for axis, size in zip(shape.box, grid, strict=True)]
    return {
        "id": shape.id,
        "volume_ml": shape.volume_ml,
        "diameter_mm": shape.diameters.longest_mm,
        "perpendicular_mm": shape.diameters.perpendicular_mm,
        "slice": shape.diameters.slice_index,
        "size_class": shape.size_class,
        **centroid_mm(shape.centroid, affine),
        "box": [[axis.start, axis.stop - 1] for axis in shape.box],
        "touches_border": any(at_edge),
        "below_resolution": min(thickness) < 2,
    }


def _shapes(part: ComponentMap, spacing: tuple[float, float, float], box: Box) -> list[LesionShape]:
    """Return the lesions of a box of a map; indices count in the map."""
    return lesion_shapes(part, spacing, origin=[axis.start for axis in box])


def _depths(label_map: LabelMap, shapes: Sequence[LesionShape], spacing: tuple[float, float, float]) -> list[float]:
    """Least distance of each lesion to the outer surface of liver and tumor, in mm; 0 for a lesion that reaches it."""
    surface = border_surface(label_map, spacing, 6).points
    tree = cKDTree(surface)
    depths = []
    for shape in shapes:
        start = np.array([axis.start for axis in shape.box])
        points = border_surface(shape.mask, spacing, 6).points + start * np.array(spacing)
        depths.append(float(tree.query(points)[0].min()))
    return depths


def _values(scaled: Scaled | None, shape: LesionShape) -> FloatArray | None:
    """Return the values inside one lesion, shape (N,)."""
    return None if scaled is None else scaled.values(scaled.array[shape.box][shape.mask])
