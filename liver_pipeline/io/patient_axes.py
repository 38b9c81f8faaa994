"""Scans and label maps along the axes of the patient, however their files order them."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import corner_shift_mm, grids_match
from liver_pipeline.io.volumes import Scan


def to_ras(scan: Scan, *, like: Scan | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """View a scan along the axes nearest to right, anterior, superior.

    Args:
        scan: Scan of shape (X, Y, Z).
        like: Take the axes from this scan, on the same grid, instead.

    Returns:
        The array, a view, and the affine of the view.
    """
    affine = (like or scan).affine
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(scan.array, orientation)
    return turned, np.asarray(affine @ nib.orientations.inv_ornt_aff(orientation, scan.array.shape))


def on_grid(mask: Scan, other: Scan | None) -> npt.NDArray[Any] | None:
    """Return the array of ``other`` along RAS axes, however its file orders them; None if there is no other.

    Raises:
        ValueError: If it is not on the grid of ``mask``.
    """
    if other is None:
        return None
    (grid, affine), (array, other_affine) = to_ras(mask), to_ras(other)
    if grids_match(grid.shape, affine, array.shape, other_affine):
        return array
    shift = corner_shift_mm(grid.shape, affine, other_affine) if array.shape == grid.shape else None
    found = f"shape {other.array.shape}" if shift is None else f"up to {shift:.3g} mm off"
    raise ValueError(
        f"{other.path} lies on another grid than {mask.path} ({found}; mask {mask.array.shape}); resample it"
    )
