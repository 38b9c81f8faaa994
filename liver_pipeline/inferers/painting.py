"""From finished sums of windows to labels on a canvas, on a GPU as long as it has room."""

from __future__ import annotations

import numpy as np
import torch

from liver_pipeline.geometry.axes import AxisMap
from liver_pipeline.inferers.agreement import PassAgreement
from liver_pipeline.inferers.canvas import LabelCanvas
from liver_pipeline.inferers.device_canvas import DeviceCanvas
from liver_pipeline.inferers.devices import Clock, free_cache
from liver_pipeline.inferers.stitching import blend
from liver_pipeline.inferers.windows import WindowPlan

CANVAS_BYTES = 1e9  # of a label map (and probabilities) that is kept on a GPU until it is complete
FLUSH_BYTES = 16 * 2**20  # of sums that are turned into labels at a time: temporaries stay in the processor's cache


def empty_canvas(
    grid: AxisMap, axis: int, device: torch.device, *, keep_probabilities: bool
) -> LabelCanvas | DeviceCanvas:
    """Return what labels are painted on: on a GPU that has the sums, if it has room for the label map as well."""
    kept = 3 if keep_probabilities else 1
    if device.type == "cuda" and kept * int(np.prod(grid.scan_shape)) <= CANVAS_BYTES:
        try:
            return DeviceCanvas(grid, axis, device, keep_probabilities=keep_probabilities)
        except torch.OutOfMemoryError:
            free_cache()
    return LabelCanvas(grid, axis, keep_probabilities=keep_probabilities)


class Painter:
    """Takes finished sums from the stitcher, crops the padding, and paints labels; ``clock`` has the time it took."""

    def __init__(
        self,
        canvas: LabelCanvas | DeviceCanvas,
        plan: WindowPlan,
        members: int,
        groups: int,
        agreement: PassAgreement | None,
    ) -> None:
        self.canvas = canvas
        self.fallbacks: list[str] = []
        self.members, self.groups, self.agreement = members, groups, agreement
        planes, rows, columns = (slice(plan.pads[a][0], plan.pads[a][0] + plan.shape[a]) for a in canvas.roles)
        self.planes, self.inside = planes, (slice(None), slice(None), rows, columns)
        self.position = 0
        self.clock = Clock()

    def __call__(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Paint the next planes."""
        with self.clock(sums.device):
            self._flush(sums, counts)

    def _flush(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        first = max(self.planes.start - self.position, 0)
        last = min(self.planes.stop - self.position, sums.shape[0])
        self.position += sums.shape[0]
        some = max(4, FLUSH_BYTES // (4 * sums[0].numel()))
        for begin in range(first, last, some):
            part = slice(begin, min(begin + some, last))
            try:
                self._paint(sums[part], counts[part])
            except torch.OutOfMemoryError:
                self.move_to_cpu()
                self._paint(sums[part].cpu(), counts[part].cpu())
            if self.agreement is not None:
                self._compare(sums[part][self.inside])

    def _compare(self, sums: torch.Tensor) -> None:
        """Count where the passes agree."""
        assert self.agreement is not None
        try:
            self.agreement.add(sums)
        except torch.OutOfMemoryError:
            self.agreement.add(sums.cpu())

    def move_to_cpu(self) -> bool:
        """Go on with a label map on the CPU; False where it is there already."""
        if isinstance(self.canvas, LabelCanvas):
            return False
        self.canvas = self.canvas.on_cpu()
        self.fallbacks.append("out of memory: upsampling on the CPU")
        free_cache()
        return True

    def _paint(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Turn sums into probabilities and these into labels."""
        if isinstance(self.canvas, DeviceCanvas) and self.canvas.device.type != sums.device.type:
            self.move_to_cpu()  # the sums were, before
        kept = sums.shape[1] // self.groups * self.members  # what is only compared comes after it
        self.canvas.add(blend(sums[self.inside][:, :kept], counts[self.inside], self.members))
