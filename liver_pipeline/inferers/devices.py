"""Time and memory of the device that works: what it took by its own clock, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up how long something takes; on a GPU by its own clock, so that the processor need not wait for it."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """Count the block, whose work is done on ``device``."""
        if device.type != "cuda":
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(device)
        begin.record(stream)
        yield
        end.record(stream)
        self._spans.append((begin, end))

    @property
    def seconds(self) -> float:
        """What it took so far; waits for the GPU."""
        for _, end in self._spans:
            end.synchronize()
        return self._seconds + sum(float(begin.elapsed_time(end)) for begin, end in self._spans) / 1000.0  # ms


def free_cache() -> None:
    """Give memory that PyTorch keeps on the GPU back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
