"""Threads that each compute on one core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def one_core_each(count: int) -> ThreadPoolExecutor:
    """Return a pool of ``count`` threads whose PyTorch operations run on one core; the caller keeps its own number."""
    torch.get_num_threads()  # settles the number of the calling thread, which the workers' would otherwise become
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
