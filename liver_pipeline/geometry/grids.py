"""The model grid of a scan, as MONAI lays it: its axes run along R, A, S."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from monai.data.utils import affine_to_spacing as monai_spacing
from monai.data.utils import compute_shape_offset, zoom_affine

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.geometry.axes import Shape, as_shape, voxel_to_voxel

SAME_GRID = 1e-3  # monai.transforms.Spacing leaves spacings and affines alone that differ by less (its AFFINE_TOL)


def ras_grid(scan_affine: Affine, scan_shape: Sequence[int]) -> tuple[Affine, Shape]:
    """Return affine and shape of the scan once its axes lie closest to R, A, S (flips and swaps, no resampling)."""
    affine = np.asarray(scan_affine, dtype=np.float64)
    ornt = nib.orientations.io_orientation(affine)
    if np.isnan(ornt).any():
        raise ValueError(f"affine {affine.tolist()} has an axis without direction; repair the header first")
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(ornt):
        shape[int(target)] = int(scan_shape[axis])
    return affine @ nib.orientations.inv_ornt_aff(ornt, tuple(scan_shape)), as_shape(shape)


def model_grid_for_spacing(
    scan_affine: Affine, scan_shape: Sequence[int], spacing: Sequence[float]
) -> tuple[Affine, Shape]:
    """Return the model grid of the given spacing: that of MONAI's Orientationd("RAS") and Spacingd(pixdim=spacing).

    Args:
        scan_affine: Scan voxel index to RAS mm, shape (4, 4).
        scan_shape: Scan shape in its own axis order.
        spacing: Voxel size in mm along R, A, S; a value <= 0 keeps the scan's own.

    Returns:
        Affine (4, 4) and shape of the model grid. As in MONAI its first voxel lies on the scan's first voxel (after
        reorientation), and a grid that differs from the scan's by less than 0.001 is the scan's.

    Raises:
        ValueError: If the affine is singular or sheared past repair, or ``spacing`` has not three values.
    """
    if len(spacing) != 3:
        raise ValueError(f"spacing must be three numbers in mm along R, A, S, got {tuple(spacing)}")
    affine, shape = ras_grid(scan_affine, scan_shape)
    own = np.asarray(monai_spacing(affine), dtype=np.float64)
    wanted = np.asarray(spacing, dtype=np.float64)
    wanted = np.where(np.abs(own - wanted) <= SAME_GRID, own, wanted)
    try:
        model_affine = np.asarray(zoom_affine(affine, wanted, diagonal=False), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"affine {affine.tolist()} is singular; repair the header first") from error
    model_shape, offset = compute_shape_offset(shape, affine, model_affine)
    model_affine[:3, 3] = offset[:3]
    same = np.allclose(affine, model_affine, atol=SAME_GRID) or np.allclose(
        voxel_to_voxel(affine, model_affine), np.eye(4), atol=SAME_GRID
    )
    if same and tuple(model_shape) == shape:
        return affine, shape
    return model_affine, as_shape(model_shape.tolist())


def model_grid_for_size(
    scan_affine: Affine, scan_shape: Sequence[int], grid_size: Sequence[int]
) -> tuple[Affine, Shape]:
    """Return the model grid of the given size over the scan's whole field of view.

    Args:
        scan_affine: Scan voxel index to RAS mm, shape (4, 4).
        scan_shape: Scan shape in its own axis order.
        grid_size: Voxels along R, A, S; a value <= 0 keeps the scan's own number.

    Returns:
        Affine (4, 4) and shape. Voxels are cells: the outer faces of both grids coincide (half-voxel-centre
        convention, as in MONAI's Resized with ``align_corners=False``).

    Raises:
        ValueError: If ``grid_size`` has not three values or the affine no direction.
    """
    if len(grid_size) != 3:
        raise ValueError(f"grid_size must be three numbers of voxels along R, A, S, got {tuple(grid_size)}")
    affine, shape = ras_grid(scan_affine, scan_shape)
    size = as_shape([int(n) if n > 0 else own for n, own in zip(grid_size, shape, strict=True)])
    ratio = np.asarray(shape, dtype=np.float64) / np.asarray(size, dtype=np.float64)
    to_scan = np.diag([*ratio, 1.0])
    to_scan[:3, 3] = 0.5 * ratio - 0.5
    return affine @ to_scan, size
