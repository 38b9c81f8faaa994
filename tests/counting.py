"""How often files are opened and folders listed: what a slow network disk makes a user wait for."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_counting: list[tuple[str, Counter[str]]] = []  # a hook stays for as long as Python runs


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _counting and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | os.PathLike):
        name = os.fspath(arguments[0])
        for root, counts in _counting:
            if str(name).startswith(root):
                counts[str(name)] += 1


sys.addaudithook(_hook)


@contextmanager
def counted(root: Path) -> Iterator[Counter[str]]:
    """Count how often each file at ``root`` and below is opened, and each folder listed."""
    entry: tuple[str, Counter[str]] = (str(root), Counter())
    _counting.append(entry)
    try:
        yield entry[1]
    finally:
        _counting.remove(entry)


def let_settle(root: Path) -> None:
    """Let everything at ``root`` and below have been there for an hour."""
    before = time.time() - 3600
    for path in (root, *root.rglob("*")):
        os.utime(path, (before, before))
