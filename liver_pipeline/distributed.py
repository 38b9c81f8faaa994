"""Processes that train together: which one writes, how many there are, and sums over all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist


def process_count() -> int:
    """Return how many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Tell whether this process writes: the only one, or the first of several that train together."""
    return not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0


def sum_over_processes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sum of ``values``, of one shape everywhere, over the processes; with one process they themselves."""
    if not dist.is_available() or not dist.is_initialized():
        return values
    total = torch.from_numpy(values).to("cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    summed: npt.NDArray[np.float64] = total.cpu().numpy()
    return summed
