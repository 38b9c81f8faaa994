"""Lines for the screen, which may be closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")

_unwritten: list[OSError] = []


def one_line(text: str) -> str:
    """Return text without its line breaks: a name that holds one is not taken for two."""
    return " ".join(text.splitlines())


def say(text: str) -> None:
    """Print text, unless it is empty, if somebody takes it: a job is not undone by who stops listening."""
    if sys.stdout is None or not text:
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError:  # nobody reads the pipe any more, or the disk of a log is full
        hang_up()


def with_bar(items: Iterable[_T], what: str, unit: str) -> Iterator[_T]:
    """Yield items; on a terminal a bar counts them from the second second on: a slow disk makes even a list long."""
    yield from tqdm(items, desc=what, unit=unit, disable=None, leave=False, delay=1)


class Screen(io.RawIOBase):
    """Standard output or error whose disk may be full, or whose pipe nobody reads any more: that stops no job."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the number of the stream."""
        return self._number

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether a person looks at it."""
        return os.isatty(self._number)

    def write(self, text: Any) -> int:
        """Write bytes; after the first that cannot be written all go to nowhere, and :func:`unwritten` says why.

        Who closes a pipe, as ``| head`` does, wants no more of it: nothing is lost then.
        """
        try:
            return os.write(self._number, text)
        except BlockingIOError:
            raise
        except OSError as reason:
            if not isinstance(reason, BrokenPipeError):
                _unwritten.append(reason)
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._number)
            return len(text)


def unwritten() -> OSError | None:
    """Return why something could not be printed, if something could not."""
    return _unwritten[0] if _unwritten else None


def open_streams() -> None:
    """Let what is closed of standard input, output and error take everything and give nothing, and a full disk, too.

    Else a file that is opened later, such as a mask, has the number that libraries print to. Lines go out as they come,
    into a log or a pipe as well: who looks at the log of a training sees where it is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 (likewise)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # not what a test captures
            stream.flush()
            kept = {key: getattr(stream, key) for key in ("encoding", "errors")}
            screen = io.BufferedWriter(Screen(stream.fileno()))
            setattr(sys, name, io.TextIOWrapper(screen, line_buffering=True, **kept))


def hang_up() -> None:
    """Send what is still to be printed to nowhere: Python would fail at its end to print it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
