"""Answers about a folder or file, kept until it changes: what many cases share is looked at once, not by each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
Stamp = tuple[int, int, int, int]  # device, inode, times of change in ns

SETTLED = 3.0  # seconds after which a change would have another time, also on file systems that count by two seconds


def stamp_of(told: os.stat_result) -> Stamp | None:
    """Return what another state of a file or folder does not have; None of what changed within :data:`SETTLED` seconds.

    Of a folder it stands for the entries that came, went or got another name, not for what is written into its files.
    """
    age = time.time() - told.st_mtime  # noqa: TID251 (the file system's times are by this clock)
    return (told.st_dev, told.st_ino, told.st_mtime_ns, told.st_ctime_ns) if age >= SETTLED else None


def remembers(count: int) -> Callable[[Callable[[Path], _T]], Callable[[Path], _T]]:
    """Let a function of a folder or file keep its last ``count`` answers, each as long as :func:`stamp_of` holds.

    What has changed just now, or is not there, is looked at each time. An answer is shared: nobody may change it.
    """

    def remembering(look: Callable[[Path], _T]) -> Callable[[Path], _T]:
        @lru_cache(maxsize=count)
        def seen(path: Path, stamp: Stamp) -> _T:
            return look(path)

        @wraps(look)
        def ask(path: Path) -> _T:
            stamp = stamp_of(path.stat())
            return look(path) if stamp is None else seen(path, stamp)

        return ask

    return remembering
