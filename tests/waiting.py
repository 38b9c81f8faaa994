"""Waiting in tests: for a state, never for a time that an idle machine would need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 600.0  # after which something hangs, however busy the machine is
Found = TypeVar("Found")


def wait_for(found: Callable[[], Found | None], pause_s: float = 0.05) -> Found:
    """Ask until what comes back is not empty; return it."""
    end = time.monotonic() + PATIENCE_S
    while not (answer := found()):
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(pause_s)
    return answer
