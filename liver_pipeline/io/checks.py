"""Checks on shapes and affines: is the grid of a scan, and of its label map, what it should be?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from liver_pipeline.geometry.affines import (
    GRID_CLOSE,
    GRID_SAME,
    Affine,
    affine_is_usable,
    corner_shift_mm,
    shear_deg,
    shear_drift,
    spacing_of,
)
from liver_pipeline.io.findings import Finding, error, warning

THICK_MM = {"ct": 6.0, "mr": 10.0}  # LiTS reaches 6.0 mm
TOO_THICK_MM = 20.0
FULL_MATRIX, NO_PERSON_MM = 128, 80.0  # as many voxels across do not lie in so few mm of a person


def affine_findings(shape: Sequence[int], affine: Affine, repair: Collection[str] = ()) -> list[Finding]:
    """Check the affine of a volume: usable, plausible voxel edges, right angles.

    Shear counts by how far it makes an axis wander over the volume: silent up to a tenth of a voxel, a warning up to
    half of one, which ``repair`` may mend, an error beyond, as :func:`liver_pipeline.geometry.axes.axis_map` will
    refuse it.
    """
    if not affine_is_usable(affine):
        rows = np.round(affine[:3], 4).tolist()
        return [
            error("AFFINE_SINGULAR", f"affine {rows} maps the volume onto a plane, or is not finite; mend the header")
        ]
    found = []
    spacing = spacing_of(affine)
    if min(spacing) < 0.05 or max(spacing) > 200.0:
        found.append(error("SPACING_RANGE", f"spacing {_mm(spacing)}; expected 0.05 to 200 mm"))
    if (drift := shear_drift(shape, affine)) > GRID_SAME:
        angle = f"axes miss a right angle by {shear_deg(affine):.4g} degrees, {drift:.2f} voxels over the volume"
        if drift > GRID_CLOSE:
            found.append(error("SHEAR", f"{angle} (at most {GRID_CLOSE:g}); resample onto an orthogonal grid first"))
        else:
            done = "they were turned to right angles" if "SHEAR" in repair else "repair=[SHEAR] mends it"
            found.append(warning("SHEAR", f"{angle} ({done})"))
    return found


def form_findings(shape: Sequence[int], sform: Affine, qform: Affine) -> list[Finding]:
    """Compare sform and qform where both are set: the corner that moves most, against the smallest voxel edge."""
    if not (affine_is_usable(sform) and affine_is_usable(qform)):
        return []  # said by affine_findings, or the qform is unused
    shift, edge = corner_shift_mm(shape, sform, qform), min(spacing_of(sform))
    if shift <= GRID_SAME * edge:
        return []
    detail = f"sform and qform differ by up to {shift:.3g} mm (smallest voxel edge {edge:.3g} mm); the sform"
    if shift > GRID_CLOSE * edge:
        return [error("SFORM_QFORM_CONFLICT", f"{detail} would be taken: keep the right one")]
    return [warning("SFORM_QFORM_CONFLICT", f"{detail} is taken")]


def grid_findings(shape: Sequence[int], affine: Affine, modality: str) -> list[Finding]:
    """Check number, size and thickness of slices, and for CT whether the geometry was lost (identity affine)."""
    found = []
    spacing = spacing_of(affine)
    if min(shape) < 3:
        found.append(error("FEW_SLICES", f"shape {tuple(shape)}; a volume needs at least 3 voxels along each axis"))
    elif min(shape) < 8:
        found.append(warning("FEW_SLICES", f"shape {tuple(shape)}; results on so few slices are poor"))
    size = [n * edge for n, edge in zip(shape, spacing, strict=True)]
    if sorted(shape)[1] >= FULL_MATRIX and sorted(size)[1] < NO_PERSON_MM and modality in ("ct", "mr"):
        detail = (
            f"spacing {_mm(spacing)}, so that {tuple(shape)} voxels are {_mm(size)}: are the lengths in centimetres?"
        )
        found.append(warning("SPACING_RANGE", detail))
    if max(spacing) > TOO_THICK_MM:
        found.append(error("THICK_SLICE", f"spacing {_mm(spacing)}; slices above {TOO_THICK_MM:g} mm are refused"))
    elif max(spacing) > THICK_MM.get(modality, THICK_MM["mr"]):
        found.append(warning("THICK_SLICE", f"spacing {_mm(spacing)}; small lesions may be missed"))
    if modality == "ct" and np.array_equal(np.abs(affine), np.eye(4)):
        full_matrix = sorted(shape)[1] >= 400  # a scanner's 512x512 with 1 mm voxels at the origin (LiTS 28-47)
        detail = f"shape {tuple(shape)} with voxels of exactly 1 mm and origin 0; restore the spacing from the source"
        found.append((error if full_matrix else warning)("UNIT_SPACING_CT", detail))
    return found


def label_grid_findings(
    shape: Sequence[int], affine: Affine, label_shape: Sequence[int], label_affine: Affine
) -> list[Finding]:
    """Compare the grids of a scan and its label map.

    Silent up to a tenth of the smallest voxel edge at the corner that moves most, a warning up to half of it (the
    nearest voxel is still the same one), an error beyond.
    """
    code = "LABEL_GRID_MISMATCH"
    if tuple(shape) != tuple(label_shape):
        return [error(code, f"label map has shape {tuple(label_shape)}, scan {tuple(shape)}; resample the label map")]
    shift, edge = corner_shift_mm(shape, affine, label_affine), min(spacing_of(affine))
    if shift <= GRID_SAME * edge:
        return []
    hint = "; its affine is the identity" if np.array_equal(np.abs(label_affine), np.eye(4)) else ""
    detail = f"label map lies up to {shift:.3g} mm off the scan (smallest voxel edge {edge:.3g} mm){hint}"
    return [(error if shift > GRID_CLOSE * edge else warning)(code, detail)]


def _mm(spacing: Sequence[float]) -> str:
    return "x".join(f"{edge:.4g}" for edge in spacing) + " mm"
