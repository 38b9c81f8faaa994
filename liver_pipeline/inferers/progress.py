"""How far the network has come with a scan, for whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[float], None]

_LISTENER: ContextVar[Listener] = ContextVar("listener", default=lambda share: None)


@contextmanager
def progress_to(listener: Listener) -> Iterator[None]:
    """Have ``listener`` called with the share of the windows that are done, 0 to 1, while the block runs a network.

    Only what this thread runs is told.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def progress_part(begin: float, end: float) -> Iterator[None]:
    """Count what the block tells as the part from ``begin`` to ``end`` of the whole: one network of several."""
    whole = _LISTENER.get()
    with progress_to(lambda share: whole(begin + (end - begin) * share)):
        yield


def tell_progress(share: float) -> None:
    """Say how much is done, 0 to 1."""
    _LISTENER.get()(share)
