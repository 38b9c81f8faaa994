"""What a training's error means for its user: too little memory, and what would fit."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from liver_pipeline.io.files import causes, disk_is_full
from liver_pipeline.networks.acceleration import recompute_activations


def explain(error: BaseException, trainer: SupervisedTrainer, folder: Path) -> Exception | None:
    """Turn an error that stopped a training into one that says what to do; None if it is of no known kind.

    Args:
        error: What was raised.
        trainer: Its batch, network and optimizer serve to find out what would fit into memory.
        folder: Where the checkpoints are.
    """
    if any(_is_memory(link) for link in causes(error)):
        return TooLittleMemoryError(_memory_line(trainer))
    if disk_is_full(error, folder):
        return OSError(
            f"no space left for {folder}; the last whole checkpoint is intact: make room, then give the same command "
            f"again to continue"
        )
    return None


class TooLittleMemoryError(RuntimeError):
    """Training does not fit into memory."""


def _is_memory(error: BaseException) -> bool:
    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return cpu or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def _memory_line(trainer: SupervisedTrainer) -> str:
    if trainer.last_event_name == Events.EPOCH_COMPLETED:
        return (
            "out of memory in validation, also with one window at a time on the CPU; free memory, or lower roi_size "
            "and give --restart"
        )
    batch = trainer.state.batch
    windows, _, *roi = batch["image"].shape
    asked = f"out of memory with {windows} windows (batch_size x crops_per_case) of {_times(roi)} (roi_size)"
    fit = largest_fit(trainer, batch)
    if recompute_activations(trainer.network) and _step_fits(trainer, batch, windows, roi):
        return f"{asked}; they fit with activation_checkpointing=true: the same command with it continues"
    advice = f"{fit[0]} windows of {_times(fit[1])} fit" if fit else "not even one window of an eighth of that fits"
    return (
        f"{asked}; {advice}: lower batch_size or crops_per_case (accumulate_steps=2 makes a step of two batches), or "
        f"roi_size, and give --restart"
    )


def _times(sizes: Any) -> str:
    return "x".join(str(size) for size in sizes)


def largest_fit(trainer: SupervisedTrainer, batch: Mapping[str, Any]) -> tuple[int, list[int]] | None:
    """Try whole training steps with ever fewer windows, then with one ever smaller, until one fits into memory.

    The steps change the weights in memory: the training has ended, and checkpoints are not touched.

    Args:
        trainer: Its network, loss and optimizer are used.
        batch: ``image`` (B, C, X, Y, Z) and ``label`` (B, 1, X, Y, Z).

    Returns:
        Number of windows and their size, or None if an eighth of one (half along each axis) is too much.
    """
    windows, _, *roi = batch["image"].shape
    counts = [count for count in (windows // 2**i for i in range(1, windows.bit_length())) if count > 0]
    halves = [roi]
    for axis in (2, 1, 0):  # halved along S first: networks want the axial plane
        halves.append([n // 2 if i == axis and n > 1 else n for i, n in enumerate(halves[-1])])
    for count, size in [(count, roi) for count in counts] + [(1, size) for size in halves[1:]]:
        if _step_fits(trainer, batch, count, size):
            return count, list(size)
    return None


def _step_fits(trainer: SupervisedTrainer, batch: Mapping[str, Any], count: int, size: list[int]) -> bool:
    part = (slice(0, count), slice(None), *(slice(0, n) for n in size))
    device = trainer.state.device
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        image, label = (torch.as_tensor(batch[key])[part].to(device) for key in ("image", "label"))
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=bool(trainer.amp), **trainer.amp_kwargs):
            loss = trainer.loss_function(trainer.network(image), label).mean()
        loss.backward()
        trainer.optimizer.step()
    except (RuntimeError, ValueError, MemoryError):  # too much, or a size that the network cannot take
        return False
    return True
