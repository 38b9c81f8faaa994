"""The axis-aligned map between two grids: plain functions on arrays, affines and numbers.

A scan keeps its own grid (file axis order, any flip, oblique affines). A model sees it on the *model grid*, whose
axes run along R, A, S. Between the two lies, along each axis, one scale and one offset; nothing here builds a dense
coordinate grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import GRID_CLOSE, Affine

Shape = tuple[int, int, int]

MAX_DRIFT = 1.01 * GRID_CLOSE  # scan voxels; what intake lets pass passes here, whatever the order of axes
POSITION_STEP = 2.0**22  # positions are rounded to 1 / this voxel: float noise of a flip must not change a weight


@dataclass(frozen=True)
class Taps:
    """The two neighbours of each target voxel along one axis, border clamped, with their weights.

    Attributes:
        lower: Source index at or below the position, shape (n,), int64.
        upper: ``min(lower + 1, last)``, shape (n,), int64.
        weight_lower: Weight of ``lower``, float32; ``weight_lower + weight_upper == 1``.
        weight_upper: Weight of ``upper``, float32.
    """

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    weight_lower: npt.NDArray[np.float32]
    weight_upper: npt.NDArray[np.float32]
    source_size: int

    @property
    def identity(self) -> bool:
        """Whether every target voxel is exactly the source voxel of the same index."""
        return self.lower.size == self.source_size and bool(
            np.array_equal(self.lower, np.arange(self.source_size)) and not self.weight_upper.any()
        )

    def part(self, span: slice) -> Taps:
        """Return those of the target voxels in ``span``."""
        return Taps(
            self.lower[span], self.upper[span], self.weight_lower[span], self.weight_upper[span], self.source_size
        )

    def counted_from(self, low: int) -> Taps:
        """Return the same with source voxel ``low`` as number 0, up to the last one that is used."""
        size = int(self.upper[-1]) - low + 1
        return Taps(self.lower - low, self.upper - low, self.weight_lower, self.weight_upper, size)


def taps(positions: npt.NDArray[np.float64], source_size: int) -> Taps:
    """Return the linear interpolation taps at ``positions`` (source voxels), clamped to ``[0, source_size - 1]``."""
    inside = np.clip(positions, 0.0, source_size - 1.0)
    lower = np.floor(inside).astype(np.int64)
    weight = inside - lower
    return Taps(
        lower=lower,
        upper=np.minimum(lower + 1, source_size - 1),
        weight_lower=(1.0 - weight).astype(np.float32),
        weight_upper=weight.astype(np.float32),
        source_size=source_size,
    )


@dataclass(frozen=True)
class AxisMap:
    """The map between a scan grid and a model grid: a permutation, flips, and a scale and an offset along each axis.

    A scan is first *aligned*, which is a view: its axes are put in the order of the model's and flipped to their
    direction. Along model axis ``m`` then ``model_index = scale[m] * aligned_index + offset[m]`` with ``scale[m] > 0``.

    Attributes:
        order: ``order[m]`` is the scan axis that runs along model axis ``m``.
        flipped: Whether that scan axis runs against the model axis.
        scale: Model voxels per aligned scan voxel.
        offset: Model index of the aligned scan's voxel 0.
        aligned_shape: Shape of the aligned scan.
        model_shape: Shape of the model grid.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    aligned_shape: Shape
    model_shape: Shape

    @property
    def scan_shape(self) -> Shape:
        """Shape of the scan in its own axis order."""
        shape = [0, 0, 0]
        for m, axis in enumerate(self.order):
            shape[axis] = self.aligned_shape[m]
        return (shape[0], shape[1], shape[2])

    def align(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a scan-shaped ``array`` with axes along the model's; writing to it writes to ``array``."""
        if array.shape != self.scan_shape:
            raise ValueError(
                f"array has shape {array.shape}, the scan {self.scan_shape}; pass an array on the scan's grid"
            )
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return array.transpose(self.order)[steps]

    def model_positions(self, axis: int) -> npt.NDArray[np.float64]:
        """Return where each aligned scan voxel lies on the model grid along model axis ``axis``, in model voxels."""
        index = np.arange(self.aligned_shape[axis], dtype=np.float64)
        return _steady(self.scale[axis] * index + self.offset[axis])

    def scan_positions(self, axis: int) -> npt.NDArray[np.float64]:
        """Return where each model voxel lies on the aligned scan along model axis ``axis``, in scan voxels."""
        return self.to_aligned(axis, np.arange(self.model_shape[axis], dtype=np.float64))

    def to_aligned(self, axis: int, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return where positions along model axis ``axis``, in model voxels, lie on the aligned scan, in its voxels."""
        return _steady((positions - self.offset[axis]) / self.scale[axis])

    def taps_to_model(self, axis: int) -> Taps:
        """Return, for each model voxel along ``axis``, its two neighbours on the aligned scan."""
        return taps(self.scan_positions(axis), self.aligned_shape[axis])

    def taps_to_scan(self, axis: int) -> Taps:
        """Return, for each aligned scan voxel along ``axis``, its two neighbours on the model grid."""
        return taps(self.model_positions(axis), self.model_shape[axis])


def _steady(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round positions to 2.4e-7 voxel, so that the same place reached through another axis order is the same number."""
    return np.round(positions * POSITION_STEP) / POSITION_STEP


def axis_map(
    scan_affine: Affine, scan_shape: Sequence[int], model_affine: Affine, model_shape: Sequence[int]
) -> AxisMap:
    """Derive the axis-aligned map between two grids from their affines.

    Args:
        scan_affine: Scan voxel index to RAS mm, shape (4, 4).
        scan_shape: Scan shape in its own axis order.
        model_affine: Model voxel index to RAS mm, shape (4, 4).
        model_shape: Model grid shape.

    Returns:
        The map; oblique grids are fine as long as both lean the same way.

    Raises:
        ValueError: If an affine is singular, or an axis of one grid is not parallel to an axis of the other (it would
            wander more than half a scan voxel over the volume): shear, or two grids that lean differently.
    """
    to_model = voxel_to_voxel(np.asarray(model_affine, dtype=np.float64), np.asarray(scan_affine, dtype=np.float64))
    linear = to_model[:3, :3]
    order = _parallel_axes(linear)
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"the axes of the two grids are not parallel: {np.round(linear, 3).tolist()}; resample first")
    crossed = np.abs(linear) * (np.asarray(scan_shape, dtype=np.float64) - 1.0).clip(min=1.0)  # model voxels
    drift = crossed / np.abs(linear[np.arange(3), order])[:, None]  # scan voxels
    drift[np.arange(3), order] = 0.0
    if drift.max() > MAX_DRIFT:
        raise ValueError(
            f"the axes of the two grids are not parallel: scan axes wander {drift.max():.2f} voxels sideways (at most"
            f" {GRID_CLOSE:g}); the affine is sheared or the grids lean differently: resample the scan first"
        )
    scale, offset, flipped, aligned = [], [], [], []
    for m, axis in enumerate(order):
        step = float(linear[m, axis])
        # Sideways drift is spread evenly around the middle of the volume.
        others = [a for a in range(3) if a != axis]
        middle = sum(float(linear[m, a]) * (scan_shape[a] - 1) / 2.0 for a in others)
        start = float(to_model[m, 3]) + middle + (step * (scan_shape[axis] - 1) if step < 0 else 0.0)
        scale.append(abs(step))
        offset.append(start)
        flipped.append(step < 0)
        aligned.append(int(scan_shape[axis]))
    return AxisMap(
        order=(order[0], order[1], order[2]),
        flipped=(flipped[0], flipped[1], flipped[2]),
        scale=(scale[0], scale[1], scale[2]),
        offset=(offset[0], offset[1], offset[2]),
        aligned_shape=(aligned[0], aligned[1], aligned[2]),
        model_shape=as_shape(model_shape),
    )


def voxel_to_voxel(target: Affine, source: Affine) -> Affine:
    """Return the matrix from ``source`` voxel indices to ``target`` voxel indices."""
    try:
        return np.asarray(np.linalg.solve(target, source), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"affine {target.tolist()} is singular; repair the header first") from error


def _parallel_axes(linear: Affine) -> list[int]:
    """Return for each row (model axis) the column (scan axis) that runs along it."""
    direction = np.abs(linear) / np.abs(linear).max(axis=0, keepdims=True).clip(min=np.finfo(np.float64).tiny)
    return [int(column) for column in direction.argmax(axis=1)]


def as_shape(shape: Sequence[int]) -> Shape:
    """Return ``shape`` as a tuple of three Python ints."""
    x, y, z = (int(n) for n in shape)
    return (x, y, z)
