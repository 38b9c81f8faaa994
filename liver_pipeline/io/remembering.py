"""Answers about a folder or file, kept until it changes: what many cases share is looked at once, not by each."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

SETTLED = 3.0  # seconds after which a change would have another time, also on file systems that count by two seconds


def remembers(count: int) -> Callable[[Callable[[Path], _T]], Callable[[Path], _T]]:
    """Let a function of a folder or file keep its last ``count`` answers, each until the time of change moves.

    Of a folder that is the time at which an entry came, went or got another name; what is written into its files does
    not move it. What has changed within the last :data:`SETTLED` seconds is looked at each time.
    """

    def remembering(look: Callable[[Path], _T]) -> Callable[[Path], _T]:
        @lru_cache(maxsize=count)
        def seen(path: Path, device: int, inode: int, changed: int) -> _T:
            return look(path)

        @wraps(look)
        def ask(path: Path) -> _T:
            told = path.stat()
            age = time.time() - told.st_mtime  # noqa: TID251 (the file system's times are by this clock)
            if age < SETTLED:
                return look(path)
            return seen(path, told.st_dev, told.st_ino, told.st_mtime_ns)

        return ask

    return remembering
