"""What a folder run needs to read ahead and write behind: order, a memory budget, a progress bar."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import TypeVar

from tqdm import tqdm

from liver_pipeline.inferers.progress import progress_to

_T = TypeVar("_T")
_R = TypeVar("_R")


class MemoryBudget:
    """Bytes that cases in flight may take together; a case that is alone is always let in."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._closed = False
        self._changed = Condition()

    def reserve(self, amount: int) -> int:
        """Wait until ``amount`` fits; return it.

        Raises:
            RuntimeError: If the budget is closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.used == 0 or self.used + amount <= self.limit)
            if self._closed:
                raise RuntimeError("the run has ended")
            self.used += amount
        return amount

    def release(self, amount: int) -> None:
        """Give ``amount`` back."""
        with self._changed:
            self.used -= amount
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits; nothing is let in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Turns:
    """Lets numbered callers through one after the other, whoever comes first.

    Cases that are read side by side take their memory in the order in which they are needed: otherwise a later one
    could have what an earlier one waits for, and wait for the earlier one itself.
    """

    def __init__(self) -> None:
        self._next = 0
        self._changed = Condition()

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Wait until all numbers below ``number`` (from 0) have been through."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number)
        try:
            yield
        finally:
            with self._changed:
                self._next += 1
                self._changed.notify_all()


def ahead(items: Iterable[_T], work: Callable[[_T], _R], pool: ThreadPoolExecutor, count: int) -> Iterator[_R]:
    """Yield ``work(item)`` in order; while the caller has one, the next ``count`` are being worked on in ``pool``."""
    ready: deque[Future[_R]] = deque()
    for item in items:
        ready.append(pool.submit(work, item))
        if len(ready) > count:
            yield ready.popleft().result()
    while ready:
        yield ready.popleft().result()


@contextmanager
def network_bar() -> Iterator[None]:
    """Show how far the network has come with the one scan that the block segments; on a terminal only."""
    with tqdm(total=1.0, bar_format="{percentage:3.0f} %|{bar}| {elapsed}", disable=None) as bar:

        def show(share: float) -> None:
            bar.update(share - bar.n)

        with progress_to(show):
            yield


class Bar:
    """A progress bar with cases per hour and the stage that takes longest; on a terminal only."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar = tqdm(total=total, unit="case", disable=None if shown else True)
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *reason: object) -> None:
        self._bar.close()

    def update(self, stage_seconds: Mapping[str, float], done: int, failed: int) -> None:
        """Count one case and the seconds of its stages."""
        for name, seconds in stage_seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        self._bar.set_postfix_str(self.text(done, failed), refresh=False)
        self._bar.update()

    def text(self, done: int, failed: int) -> str:
        """Return cases per hour, failures and the slowest stage."""
        hours = (time.perf_counter() - self._started) / 3600.0
        text = f"{done / hours:.0f} cases/h, {failed} failed"
        if total := sum(self._seconds.values()):
            slow = max(self._seconds, key=lambda name: self._seconds[name])
            text += f", slow: {slow} {100 * self._seconds[slow] / total:.0f} %"
        return text
