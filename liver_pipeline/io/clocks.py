"""Time that passes. A computer's clock is set while programs run: by hand, by NTP after a start, by a hypervisor.

So how long something takes, or is kept, is measured by a clock that nobody sets; the other one is for people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def now() -> str:
    """Return the time for records, such as ``2026-11-27T04:05:06+0000``."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class Beginning:
    """The moment in which it is made.

    Attributes:
        time: As :func:`now` gives it.
    """

    def __init__(self) -> None:
        self.time = now()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long ago that is."""
        return time.monotonic() - self._began


class Ages:
    """How long files have been as they are, whatever is done to the clock while this process runs.

    For what is there at the first look, the time of its last change is compared with the clock. What comes or changes
    later is as old as the look that finds it.

    Args:
        changed: Gives names, and when each was last changed, in seconds as the file system has it.
    """

    def __init__(self, changed: Callable[[], Mapping[str, float]]) -> None:
        self._changed = changed
        self._seen: dict[str, tuple[float, float]] | None = None  # name to its last change, and that by our clock

    def look(self) -> dict[str, float]:
        """Return for how many seconds each has not changed."""
        moment, clock = time.monotonic(), time.time()  # noqa: TID251 (the file system's times are by this clock)
        seen = {}
        for name, changed in self._changed().items():
            before = (self._seen or {}).get(name)
            age = max(clock - changed, 0.0) if self._seen is None else 0.0
            seen[name] = before if before is not None and before[0] == changed else (changed, moment - age)
        self._seen = seen
        return {name: moment - since for name, (_, since) in seen.items()}
