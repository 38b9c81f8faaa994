"""Which case is next, and what the death of a worker means for those it had."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from liver_pipeline.io.discovery import ScanInput

DEATHS = 3  # a case whose worker died so many times has failed
IN_FLIGHT = 2  # cases a worker has: one is computed while the next is read


class CaseQueue:
    """The cases that are still to be begun, in the order given.

    A case whose worker died may have killed it. It waits until all others have been handed out, and then has a worker
    to itself, so that it takes none of them along a second time.
    """

    def __init__(self, scans: Iterable[ScanInput]) -> None:
        self._waiting = deque(scans)
        self._suspects: deque[ScanInput] = deque()
        self._deaths: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def next_for(self, in_flight: Iterable[ScanInput]) -> ScanInput | None:
        """Return the next case for a worker that has ``in_flight``; None if it should have no more now."""
        has = list(in_flight)
        if len(has) >= IN_FLIGHT or any(self._deaths[one.case] for one in has):
            return None
        if self._waiting:
            return self._waiting.popleft()
        return self._suspects.popleft() if self._suspects and not has else None

    def put_back(self, one: ScanInput) -> None:
        """Take back a case that was lost through no fault of its own, such as with its node; it is next."""
        (self._suspects if self._deaths[one.case] else self._waiting).appendleft(one)

    def worker_died(self, one: ScanInput) -> bool:
        """Take back a case whose worker died; return whether that was once too often, and it has failed."""
        self._deaths[one.case] += 1
        if self._deaths[one.case] >= DEATHS:
            return True
        self._suspects.append(one)
        return False
