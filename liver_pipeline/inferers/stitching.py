"""Weighted sums of overlapping windows, kept only for the planes that are still growing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from monai.data.utils import compute_importance_map

from liver_pipeline.inferers.upsampling import softmax
from liver_pipeline.inferers.windows import Window

_T = TypeVar("_T")
Flush = Callable[[torch.Tensor, torch.Tensor], None]

THIN = 16  # windows thinner than this are collected up to so many planes before they are handed on


def importance_map(roi: Sequence[int], mode: str, sigma_scale: float | Sequence[float] = 0.125) -> torch.Tensor:
    """Return the weight of each voxel of a window, shape ``roi``: MONAI's own, "gaussian" or "constant"."""
    return compute_importance_map(tuple(roi), mode=mode, sigma_scale=sigma_scale, device="cpu", dtype=torch.float32)


class SlabStitcher:
    """Adds windows to weighted sums, slab by slab, and hands finished planes on.

    Windows must come in the order of their start along ``axis``. The sums hold as many planes as a window is thick (a
    few more for thin ones), whatever the volume's length. Additions are those of MONAI's
    ``sliding_window_inference``, in its order.

    Args:
        shape: Shape of the (padded) volume.
        axis: Axis of the slabs.
        weights: Weight of each voxel of a window, shape roi.
        flush: Called with sums (n, K, B, C) and counts (n, 1, B, C) of the next n planes: planes along ``axis``, then
            the other two axes in order. A count of 0 says that no window was there.
        device: Where the sums are kept.
    """

    def __init__(
        self, shape: Sequence[int], axis: int, weights: torch.Tensor, flush: Flush, device: torch.device | str = "cpu"
    ) -> None:
        self.roles = (axis, *[a for a in range(3) if a != axis])
        self.length = int(shape[axis])
        self.plane = tuple(int(shape[a]) for a in self.roles[1:])
        self.weights = weights.to(device)
        self.window_weights = weights.permute(self.roles)[:, None].contiguous().to(device)
        thick = int(weights.shape[axis])
        self.kept = min(max(thick, THIN), self.length)
        self.flush = flush
        self.device = torch.device(device)
        self.base = 0  # the first plane that is kept
        self.sums: torch.Tensor | None = None
        self.counts: torch.Tensor | None = None

    def move(self, device: torch.device | str) -> None:
        """Keep the sums on another device from now on."""
        self.device = torch.device(device)
        self.weights, self.window_weights = self.weights.to(device), self.window_weights.to(device)
        if self.sums is not None and self.counts is not None:
            self.sums, self.counts = self.sums.to(device), self.counts.to(device)

    def add(self, window: Window, logits: torch.Tensor, relieve: Callable[[], bool] = bool) -> None:
        """Add the output of one window, shape (K, *roi); it is overwritten.

        Args:
            window: Where it lies.
            logits: The output.
            relieve: Called where the device has no memory left: it frees some, or moves the sums (:meth:`move`), and
                tells whether it could. The step that failed, and no other, is then done again: nothing is added twice.
        """
        a, b, c = self.roles
        classes = int(logits.shape[0])
        if self.sums is None:
            self.sums, self.counts = self._again(lambda: self._nothing(classes, self.kept), relieve)
        if window[a].stop > self.base + self.kept:
            self._advance(window[a].start, relieve)
        place = (slice(window[a].start - self.base, window[a].stop - self.base), slice(None), window[b], window[c])
        weighted = self._again(lambda: logits.to(self.device).mul_(self.weights), relieve)

        def add_sums() -> None:
            assert self.sums is not None
            self.sums[place].add_(weighted.to(self.device).permute(a + 1, 0, b + 1, c + 1))  # the last operation

        def add_counts() -> None:
            assert self.counts is not None
            self.counts[place].add_(self.window_weights)

        self._again(add_sums, relieve)
        self._again(add_counts, relieve)

    def finish(self, relieve: Callable[[], bool] = bool) -> None:
        """Hand on the planes that are left; nothing happens where no window ever came."""
        if self.sums is not None:
            self._advance(self.length, relieve)

    def _zeros(self, channels: int, planes: int) -> torch.Tensor:
        return torch.zeros((planes, channels, *self.plane), device=self.device)

    def _again(self, step: Callable[[], _T], relieve: Callable[[], bool]) -> _T:
        """Do a step; where no memory is left for it, make room and do it once more."""
        try:
            return step()
        except torch.OutOfMemoryError:
            if not relieve():
                raise
        return step()

    def _advance(self, start: int, relieve: Callable[[], bool]) -> None:
        """Hand on the planes below ``start`` and make room."""
        assert self.sums is not None and self.counts is not None
        done = min(start - self.base, self.kept)
        self.flush(self.sums[:done], self.counts[:done])
        left = self.kept - done
        for first in range(0, left, done):  # without a second buffer
            part = min(done, left - first)
            for name in ("sums", "counts"):
                self._again(partial(self._copy, name, first, first + done, part), relieve)
        for name in ("sums", "counts"):
            self._again(partial(self._clear, name, left), relieve)
        empty = start - self.base - done  # planes between windows, where all were skipped
        self.base = start
        classes = int(self.sums.shape[1])
        while empty > 0:
            part = min(empty, self.kept)
            nothing = self._again(partial(self._nothing, classes, part), relieve)
            self.flush(*nothing)
            empty -= part

    def _nothing(self, classes: int, planes: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._zeros(classes, planes), self._zeros(1, planes)

    def _copy(self, name: str, to: int, start: int, planes: int) -> None:
        buffer: torch.Tensor = getattr(self, name)
        buffer[to : to + planes] = buffer[start : start + planes]

    def _clear(self, name: str, start: int) -> None:
        buffer: torch.Tensor = getattr(self, name)
        buffer[start:] = 0.0


def blend(sums: torch.Tensor, counts: torch.Tensor, members: int) -> torch.Tensor:
    """Turn weighted sums of logits into probabilities; an ensemble's are averaged.

    Args:
        sums: Shape (n, members * K, B, C).
        counts: Sums of the weights, shape (n, 1, B, C); 0 where no window was: there background is certain.
        members: Number of networks, whose channels follow each other.

    Returns:
        Probabilities, shape (n, K, B, C).
    """
    nowhere = counts == 0
    logits = sums / counts.masked_fill(nowhere, 1.0)
    parts = [softmax(part, dim=1) for part in logits.chunk(members, dim=1)]
    mean = parts[0]
    for part in parts[1:]:
        mean = mean + part
    if members > 1:
        mean = mean / members
    if nowhere.is_cuda or bool(nowhere.any()):  # a GPU is not asked, which would make the processor wait
        mean.masked_fill_(nowhere, 0.0)[:, :1].masked_fill_(nowhere, 1.0)
    return mean
