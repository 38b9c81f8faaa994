"""The label map on the scan's grid, kept on a GPU until it is complete."""

from __future__ import annotations

import numpy as np
import torch

from liver_pipeline.geometry.axes import AxisMap
from liver_pipeline.geometry.resampling import interpolate
from liver_pipeline.inferers.canvas import LabelCanvas
from liver_pipeline.inferers.upsampling import NOT_FINITE, argmax
from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.labels import LabelMap

DEVICE_BYTES = 2**26  # of interpolated probabilities that a GPU works on at a time


class DeviceCanvas:
    """What :class:`~liver_pipeline.inferers.canvas.LabelCanvas` is, on a GPU.

    Every voxel is interpolated, which costs a GPU less than to find out which ones need it; the operations and their
    order are those of :func:`~liver_pipeline.inferers.upsampling.upsample_whole`, and so are the labels.

    Args:
        grid: Map between scan and model grid.
        axis: Model axis along which planes arrive, in order and without gaps.
        device: Where the label map is kept.
        keep_probabilities: Also keep the probabilities of the foreground classes.
    """

    def __init__(
        self, grid: AxisMap, axis: int, device: torch.device | str, *, keep_probabilities: bool = False
    ) -> None:
        self.grid, self.axis, self.device, self.keep = grid, axis, torch.device(device), keep_probabilities
        self.roles = (axis, *[a for a in range(3) if a != axis])
        self.taps = tuple(grid.taps_to_scan(a) for a in self.roles)
        self._memory = self._empty()
        self._levels: list[torch.Tensor] = []  # of each foreground class
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._arrived = self._painted = 0  # planes of the model, of the scan
        self._carry: torch.Tensor | None = None

    def _empty(self) -> torch.Tensor:
        """Return background on the scan's grid, as it lies in a file: axes Z, Y, X."""
        return torch.zeros(self.grid.scan_shape[::-1], dtype=torch.uint8, device=self.device)

    def add(self, probabilities: torch.Tensor) -> None:
        """Take the next model planes, (n, K, B, C), and paint every scan plane that they complete.

        A value that is not finite is an error when the labels are asked for.
        """
        finite = self._finite & torch.isfinite(probabilities.sum())
        first = self._arrived
        block = probabilities
        if self._carry is not None:
            block, first = torch.cat([self._carry, probabilities]), first - 1
        arrived = self._arrived + probabilities.shape[0]
        if self.keep and not self._levels:
            self._levels = [self._empty() for _ in range(block.shape[1] - 1)]
        stop = int(np.searchsorted(self.taps[0].upper, arrived, side="left"))
        some = max(1, DEVICE_BYTES // (4 * block.shape[1] * self.taps[1].lower.size * self.taps[2].lower.size))
        for begin in range(self._painted, stop, some):
            self._paint(block, first, slice(begin, min(begin + some, stop)))
        self._arrived, self._painted, self._finite, self._carry = arrived, stop, finite, block[-1:].clone()

    def _paint(self, block: torch.Tensor, first: int, planes: slice) -> None:
        """Interpolate and paint some scan planes from model planes that start with number ``first``."""
        part = self.taps[0].part(planes)
        low = int(part.lower[0])
        values = block[low - first : int(part.upper[-1]) + 1 - first]
        taps, dims = (part.counted_from(low), *self.taps[1:]), (0, 2, 3)
        for role in np.argsort(self.roles):
            values = interpolate(values, dims[role], taps[role])
        self._write(self._memory, argmax(values, 1), planes)
        for k, levels in enumerate(self._levels, start=1):
            self._write(levels, values[:, k].mul(LEVELS).round_().to(torch.uint8), planes)

    def _write(self, memory: torch.Tensor, painted: torch.Tensor, planes: slice) -> None:
        """Put planes (n, b, c) into their place on the scan's grid."""
        flipped = [role for role, axis in enumerate(self.roles) if self.grid.flipped[axis]]
        if 0 in flipped:
            size = self.taps[0].lower.size
            planes = slice(size - planes.stop, size - planes.start)
        target = memory.permute(2, 1, 0).permute(self.grid.order).permute(self.roles)
        target[planes] = painted.flip(flipped)

    @property
    def labels(self) -> LabelMap:
        """uint8 on the scan's grid and axis order, Fortran-ordered; complete after the last plane.

        Raises:
            ValueError: If a probability was not finite: a label cannot be told.
        """
        labels = _downloaded(self._memory)
        if not bool(self._finite):
            raise ValueError(NOT_FINITE)
        return labels

    @property
    def levels(self) -> LabelMap | None:
        """Foreground probabilities in eight bits, uint8 (X, Y, Z, K - 1), Fortran-ordered; None unless kept."""
        if not self.keep:
            return None
        levels = np.zeros((*self.grid.scan_shape, len(self._levels) or 2), dtype=np.uint8, order="F")
        for k, one in enumerate(self._levels):
            levels[..., k] = _downloaded(one)  # one by one: there may be no room on the GPU for another copy of all
        return levels

    def on_cpu(self) -> LabelCanvas:
        """Return a canvas on the CPU that goes on where this one is."""
        canvas = LabelCanvas(self.grid, self.axis, keep_probabilities=self.keep)
        canvas.take_over(self.labels, self.levels if self._levels else None, self._arrived, self._carry)
        return canvas


def _downloaded(memory: torch.Tensor) -> LabelMap:
    """Return a tensor whose axes run as in a file, (..., Z, Y, X), as an array (X, Y, Z, ...) in Fortran order."""
    host = memory.to("cpu", non_blocking=True)  # into pinned memory
    if memory.is_cuda:
        torch.cuda.current_stream(memory.device).synchronize()
    array: LabelMap = host.numpy()
    return array.T
