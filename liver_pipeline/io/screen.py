"""Lines for the screen, which may be closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import os
import sys


def say(text: str) -> None:
    """Print text, unless it is empty, if somebody takes it: a job is not undone by who stops listening."""
    if sys.stdout is None or not text:
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        hang_up()


def hang_up() -> None:
    """Send what is still to be printed to nowhere: Python would fail at its end to print it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
