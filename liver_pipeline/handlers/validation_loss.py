"""The loss on validation cases, on a window of each: what shows that a network learns its training cases by heart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from torch.nn.functional import pad

from liver_pipeline.distributed import is_main_process, sum_over_processes
from liver_pipeline.geometry.boxes import bounding_box

VAL_LOSS = "val_loss"


class ValidationLoss:
    """Put the mean loss over the validation cases into the metrics, as ``val_loss``; nan if there are none.

    A validation keeps labels, not logits, so the loss is that of one window a case, the same each time: of the size
    that the network is trained on, centred on liver and tumor of the reference, or on the case where it holds neither.
    It counts no augmentation, and windows of a training are drawn elsewhere too: compare its course with that of the
    training loss, not its height.

    Attach it to the validator, before what reads its metrics.

    Args:
        network: That is validated.
        loss: Of the training.
        roi_size: Window, in voxels.
        device: Of the network.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        roi_size: Sequence[int],
        device: torch.device | str,
    ) -> None:
        self.network, self.loss, self.roi_size, self.device = network, loss, tuple(roi_size), torch.device(device)
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Count each case, and put the mean into the metrics at the end."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def _forget(self) -> None:
        self.losses = []

    def _count(self, engine: Engine) -> None:
        for case in engine.state.batch:  # MONAI has taken the batch apart by now
            image, label = (torch.as_tensor(case[key])[None] for key in ("image", "label"))
            corner = window_corner(label[0, 0].cpu().numpy(), self.roi_size)
            windows = [cut_window(one, corner, self.roi_size).to(self.device) for one in (image, label)]
            with eval_mode(self.network), _autocast(engine):
                self.losses.append(float(self.loss(self.network(windows[0].float()), windows[1])))

    def _tell(self, engine: Engine) -> None:
        mean = math.fsum(self.losses) / len(self.losses) if self.losses else math.nan
        engine.state.metrics[VAL_LOSS] = float(sum_over_processes(np.array([mean if is_main_process() else 0.0]))[0])


def _autocast(engine: Engine) -> AbstractContextManager[object]:
    """Return the number format that a MONAI validator runs its network in."""
    return torch.autocast("cuda", **engine.amp_kwargs) if getattr(engine, "amp", False) else nullcontext()


def window_corner(label: npt.NDArray[Any], roi_size: Sequence[int]) -> tuple[int, ...]:
    """Return the first voxel of the window centred on what a label map (X, Y, Z) holds, inside it where it fits."""
    box = bounding_box(label) or tuple(slice(0, n) for n in label.shape)
    centres = [(part.start + part.stop) // 2 for part in box]
    return tuple(
        max(0, min(centre - size // 2, n - size))
        for centre, size, n in zip(centres, roi_size, label.shape, strict=True)
    )


def cut_window(volume: torch.Tensor, corner: Sequence[int], roi_size: Sequence[int]) -> torch.Tensor:
    """Cut a window out of a volume (B, C, X, Y, Z); what lies outside it is 0."""
    x, y, z = (slice(first, first + size) for first, size in zip(corner, roi_size, strict=True))
    window = volume[:, :, x, y, z]
    missing = [(0, size - n) for size, n in zip(roi_size, window.shape[2:], strict=True)]
    return pad(window, [n for pair in reversed(missing) for n in pair])
