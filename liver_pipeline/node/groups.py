"""What of the received is segmented, sent and removed together: a series, or a study of which one series is chosen."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.studies import volumes_of
from liver_pipeline.node.inbox import Inbox
from liver_pipeline.prediction.plan import scan_items

FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 600.0  # between two tries

Send = Callable[[Sequence[Path]], Mapping[str, str]]  # files to what is refused for good, by SOP class


@dataclass
class Wait:
    """How long to wait for the next try: twice as long each time."""

    until: float = 0.0
    pause: float = 0.0

    def again(self) -> None:
        """A try has failed."""
        self.pause = min(2 * self.pause, LONGEST_WAIT_S) if self.pause else FIRST_WAIT_S
        self.until = time.monotonic() + self.pause

    @property
    def is_over(self) -> bool:
        """Whether it is time to try."""
        return time.monotonic() >= self.until


@dataclass(eq=False)
class SeriesGroup:
    """Series that are segmented, sent and removed together.

    Attributes:
        series: Name to the files that it has.
        cases: As :func:`liver_pipeline.prediction.find_scans` gives them; none where no series is chosen.
        left: What has not got the results yet.
        refused: What was not taken of them, and why, by SOP class.
        wait: For the next try to send.
    """

    series: dict[str, frozenset[str]]
    cases: list[dict[str, Any]]
    left: list[Send] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    wait: Wait = field(default_factory=Wait)

    @property
    def name(self) -> str:
        """The name that stands for it in the log."""
        return " ".join(case["case"] for case in self.cases) or next(iter(self.series))


def groups_of(
    inbox: Inbox,
    complete: Mapping[str, frozenset[str]],
    coming: Collection[str],
    *,
    series: str | None,
    accept: Collection[str],
) -> list[SeriesGroup]:
    """Return what can be segmented of what is complete.

    Args:
        inbox: What was received.
        complete: Names of complete series to their files.
        coming: Names of the others, whose study waits for them where one of its series is to be chosen.
        series: As for ``predict``; None: each series by itself.
        accept: As for ``predict``.
    """
    if series is None:
        together = [[name] for name in complete]
    else:
        by_study: dict[str, list[str]] = defaultdict(list)
        for name in complete:
            by_study[_study(inbox, name)].append(name)
        for name in coming:
            by_study.pop(_study(inbox, name), None)
        together = list(by_study.values())
    return [
        SeriesGroup({name: complete[name] for name in names}, _cases(inbox.folder, names, series, accept))
        for names in together
    ]


def _study(inbox: Inbox, name: str) -> str:
    return str(inbox.header(name).get("StudyInstanceUID") or name)


def _cases(folder: Path, names: Collection[str], series: str | None, accept: Collection[str]) -> list[dict[str, Any]]:
    """Return the cases of some series, each under its series' name."""
    found = [ScanInput(folder / name, name) for name in names]
    try:
        return scan_items(volumes_of(found, folder, series=series, accept=accept), folder)
    except IntakeError:  # the series that is named is not among them
        return []
