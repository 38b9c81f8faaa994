"""Lines for the screen, which may be closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def say(text: str) -> None:
    """Print text, unless it is empty, if somebody takes it: a job is not undone by who stops listening."""
    if sys.stdout is None or not text:
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        hang_up()


def open_streams() -> None:
    """Let what is closed of standard input, output and error take everything and give nothing.

    Else a file that is opened later, such as a mask, has the number that libraries print to.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def hang_up() -> None:
    """Send what is still to be printed to nowhere: Python would fail at its end to print it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
