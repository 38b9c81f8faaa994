"""The label map on the scan's grid, painted plane by plane without float channels at the scan's resolution.

Where the eight model voxels around a scan voxel agree on a label by a clear margin, so does any average of them:
interpolation keeps order even after rounding, because multiplying by one weight and adding are monotone in floating
point. Only the other voxels, those near a border between labels, are interpolated, in the very order of operations of
:func:`~liver_pipeline.inferers.upsampling.upsample_whole`. So the labels are equal to those of interpolating
everything, at a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from liver_pipeline.geometry.axes import AxisMap, Taps
from liver_pipeline.geometry.resampling import interpolate
from liver_pipeline.inferers.upsampling import NOT_FINITE, argmax
from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.labels import LabelMap

MIXED = 255  # corners that disagree; labels are below
CLEAR_MARGIN = 1e-5  # far above what rounding can eat: at most a few 1e-7 for values in [0, 1]
PLANES = 16  # scan planes that are worked on at a time
SPARSE_SHARE = 0.15  # a box with more undecided voxels than this is interpolated whole
SPARSE_VOXELS = 2**17  # undecided voxels that are interpolated at a time


class LabelCanvas:
    """The label map on the scan's grid, painted as planes of the model grid become known.

    Args:
        grid: Map between scan and model grid.
        axis: Model axis along which planes arrive, in order and without gaps.
        keep_probabilities: Also keep the probabilities of the foreground classes.

    Attributes:
        labels: uint8 on the scan's grid and axis order, Fortran-ordered as NIfTI stores it; complete after the last
            plane.
    """

    device = torch.device("cpu")

    def __init__(self, grid: AxisMap, axis: int, *, keep_probabilities: bool = False) -> None:
        self.roles = (axis, *[a for a in range(3) if a != axis])  # model axes of a block's planes, rows, columns
        self.taps = tuple(grid.taps_to_scan(a) for a in self.roles)
        self.model_planes = grid.model_shape[axis]
        self.labels: LabelMap = np.zeros(grid.scan_shape, dtype=np.uint8, order="F")
        self._grid, self._keep = grid, keep_probabilities
        self._levels: LabelMap | None = None
        self._out = grid.align(self.labels).transpose(self.roles)
        self._arrived = 0  # model planes
        self._carry: torch.Tensor | None = None  # the last model plane that arrived: the next ones are joined to it
        self._carry_label: LabelMap | None = None

    def add(self, probabilities: torch.Tensor) -> None:
        """Take the next model planes and paint every scan plane that they complete.

        Args:
            probabilities: Shape (n, K, B, C): planes along ``axis``, then the other two axes in order; at most 254
                labels.

        Raises:
            ValueError: If a value is not finite: a label cannot be told.
        """
        if not bool(torch.isfinite(probabilities.sum())):
            raise ValueError(NOT_FINITE)
        block = probabilities.cpu().contiguous()
        label = clear_labels(probabilities)
        first = self._arrived
        if self._carry is not None and self._carry_label is not None:
            block, label, first = torch.cat([self._carry, block]), np.concatenate([self._carry_label, label]), first - 1
        self._arrived += probabilities.shape[0]
        self._carry, self._carry_label = block[-1:].clone(), label[-1:].copy()
        last = self._arrived == self.model_planes
        cells = _cells(label, self.taps, last)
        start = int(np.searchsorted(self.taps[0].lower, first, side="left"))
        stop = int(np.searchsorted(self.taps[0].lower, first + cells.shape[0], side="left"))
        for begin in range(start, stop, PLANES):
            end = min(begin + PLANES, stop)
            self._paint(block, cells, first, begin, end)
            if self._keep:
                self._keep_levels(block, first, slice(begin, end))

    @property
    def levels(self) -> LabelMap | None:
        """Foreground probabilities in eight bits, uint8 (X, Y, Z, K - 1), Fortran-ordered; None unless kept.

        Where no plane ever arrived, zeros for two classes.
        """
        if self._keep and self._levels is None:
            self._levels = np.zeros((*self.labels.shape, 2), dtype=np.uint8, order="F")
        return self._levels

    def take_over(self, labels: LabelMap, levels: LabelMap | None, arrived: int, carry: torch.Tensor | None) -> None:
        """Go on where another canvas has stopped: what it has painted, how many planes it got, and the last of them."""
        np.copyto(self.labels, labels)
        self._levels = None if levels is None else np.asfortranarray(levels)
        self._arrived = arrived
        if carry is not None:
            self._carry, self._carry_label = carry.cpu(), clear_labels(carry)

    def _keep_levels(self, block: torch.Tensor, first: int, planes: slice) -> None:
        """Interpolate the foreground of the scan planes ``planes`` and store it in eight bits."""
        if self._levels is None:
            self._levels = np.zeros((*self.labels.shape, block.shape[1] - 1), dtype=np.uint8, order="F")
        low, high = (int(self.taps[0].lower[plane]) - first for plane in (planes.start, planes.stop - 1))
        visible = (block[low : high + 2, 1:].amax(dim=(0, 1)) >= 0.5 / LEVELS).numpy()  # means of others round to 0
        filled = np.any(visible, axis=1), np.any(visible, axis=0)
        rows, columns = (_span(_with_cell_below(line), part) for line, part in zip(filled, self.taps[1:], strict=True))
        if rows.start == rows.stop or columns.start == columns.stop:
            return
        box = (planes, rows, columns)
        levels = self._interpolate_box(block[:, 1:], first, box).mul(LEVELS).round_().to(torch.uint8).numpy()
        for k in range(levels.shape[1]):
            self._grid.align(self._levels[..., k]).transpose(self.roles)[box] = levels[:, k]

    def _paint(self, block: torch.Tensor, cells: LabelMap, first: int, begin: int, end: int) -> None:
        """Paint scan planes ``begin:end`` from model planes that start with number ``first``; background is there."""
        planes, rows, columns = self.taps
        low, high = int(planes.lower[begin]) - first, int(planes.lower[end - 1]) - first
        cells = cells[low : high + 1]
        box_rows, box_columns = _span(np.any(cells, axis=(0, 2)), rows), _span(np.any(cells, axis=(0, 1)), columns)
        if box_rows.start == box_rows.stop or box_columns.start == box_columns.stop:
            return
        box = (slice(begin, end), box_rows, box_columns)
        near = cells.take(columns.lower[box_columns], axis=2).take(rows.lower[box_rows], axis=1)
        painted = near.take(planes.lower[begin:end] - first - low, axis=0)
        undecided = np.flatnonzero(painted.ravel() == MIXED)
        if undecided.size > SPARSE_SHARE * painted.size:
            painted = argmax(self._interpolate_box(block, first, box), 1).numpy()
        else:
            for part in range(0, undecided.size, SPARSE_VOXELS):
                chosen = undecided[part : part + SPARSE_VOXELS]
                place = np.unravel_index(chosen, painted.shape)
                painted.ravel()[chosen] = self._interpolate_voxels(block, first, box, place)
        self._out[box] = painted

    def _interpolate_box(self, block: torch.Tensor, first: int, box: tuple[slice, ...]) -> torch.Tensor:
        """Interpolate all voxels of a box of the scan, (n, K, b, c); axes in the order X, Y, Z of the model."""
        parts = [taps.part(span) for taps, span in zip(self.taps, box, strict=True)]
        lows = [int(part.lower[0]) for part in parts]
        p, r, c = (slice(int(part.lower[0]), int(part.upper[-1]) + 1) for part in parts)
        values = block[p.start - first : p.stop - first, :, r, c]
        dims = (0, 2, 3)
        for role in np.argsort(self.roles):
            values = interpolate(values, dims[role], parts[role].counted_from(lows[role]))
        return values

    def _interpolate_voxels(
        self, block: torch.Tensor, first: int, box: tuple[slice, slice, slice], place: Sequence[npt.NDArray[np.int64]]
    ) -> LabelMap:
        """Interpolate single voxels, given by their place in the box; the same operations as for whole channels."""
        corner: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        weights: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []
        _, labels, b, c = block.shape
        strides = (labels * b * c, c, 1)
        for role, taps in enumerate(self.taps):
            index = place[role] + box[role].start
            shift = first if role == 0 else 0
            corner.append(((taps.lower[index] - shift) * strides[role], (taps.upper[index] - shift) * strides[role]))
            weights.append((taps.weight_lower[index], taps.weight_upper[index]))
        flat = block.numpy().ravel()
        x, y, z = (int(i) for i in np.argsort(self.roles))
        bases = [[corner[x][i] + corner[y][j] for j in (0, 1)] for i in (0, 1)]
        top: npt.NDArray[np.floating] | None = None
        label = np.zeros(place[0].size, dtype=np.uint8)
        for k in range(labels):
            along_z = []
            for h in (0, 1):
                at = corner[z][h] + k * b * c
                along_y = [
                    flat.take(bases[0][j] + at) * weights[x][0] + flat.take(bases[1][j] + at) * weights[x][1]
                    for j in (0, 1)
                ]
                along_z.append(along_y[0] * weights[y][0] + along_y[1] * weights[y][1])
            value: npt.NDArray[np.floating] = along_z[0] * weights[z][0] + along_z[1] * weights[z][1]
            if top is None:
                top = value
            else:
                label[value > top] = k
                np.maximum(top, value, out=top)
        return label


def clear_labels(probabilities: torch.Tensor) -> LabelMap:
    """Return the label of each model voxel, or MIXED where it does not win by CLEAR_MARGIN.

    Args:
        probabilities: Shape (n, K, B, C).

    Returns:
        uint8, shape (n, B, C).
    """
    channels = probabilities.unbind(1)
    top = channels[0].clone()
    second = torch.full_like(top, -1.0)
    label = torch.zeros(top.shape, dtype=torch.uint8, device=top.device)
    for k, channel in enumerate(channels[1:], start=1):
        label.masked_fill_(channel > top, k)
        torch.maximum(second, torch.minimum(top, channel), out=second)
        torch.maximum(top, channel, out=top)
    return label.masked_fill_(top.sub_(second) < CLEAR_MARGIN, MIXED).cpu().numpy()


def _cells(label: LabelMap, taps: Sequence[Taps], last: bool) -> LabelMap:
    """Return for each model voxel the label on which it and its upper neighbours agree, or MIXED.

    The last plane has no upper neighbour; it is left out unless it is the ``last`` of all.
    """
    planes = label if _on_voxels(taps[0]) else _agree(label, 0)
    if not last:
        planes = planes[:-1]
    for axis in (1, 2):
        if not _on_voxels(taps[axis]):
            planes = _agree(planes, axis)
    return planes


def _on_voxels(taps: Taps) -> bool:
    """Whether every scan voxel lies on a model voxel, so that upper neighbours have no weight."""
    return not taps.weight_upper.any()


def _agree(label: LabelMap, axis: int) -> LabelMap:
    """Return ``label`` where the next voxel along ``axis`` has the same, else MIXED; the last one is kept."""
    lower: list[slice] = [slice(None)] * 3
    upper: list[slice] = [slice(None)] * 3
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    agreed = label.copy()
    np.copyto(agreed[tuple(lower)], np.uint8(MIXED), where=label[tuple(lower)] != label[tuple(upper)])
    return agreed


def _with_cell_below(filled: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the cells that have a filled voxel at either end."""
    cells = filled.copy()
    cells[:-1] |= filled[1:]
    return cells


def _span(filled_cells: npt.NDArray[np.bool_], part: Taps) -> slice:
    """Return the scan voxels whose cell lies between the first and the last filled one."""
    filled = np.flatnonzero(filled_cells)
    if filled.size == 0:
        return slice(0, 0)
    return slice(
        int(np.searchsorted(part.lower, filled[0], side="left")),
        int(np.searchsorted(part.lower, filled[-1], side="right")),
    )
