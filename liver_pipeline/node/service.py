"""The node's work: series that are complete are segmented, their results sent, and what is over removed.

Everything that is to outlive a kill lies on disk: received instances, the ledger of masks, and a note of each delivery.
A node that starts in the same folder goes on where the last one was.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.clocks import Ages, now
from liver_pipeline.io.failures import PASSING
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import hash_input
from liver_pipeline.io.ledger import LEDGER, Ledger, read_ledger
from liver_pipeline.io.locks import lock_file
from liver_pipeline.node.delivery import deliver, is_straggler, last_changes, opened_ledger, remove_expired
from liver_pipeline.node.groups import Send, SeriesGroup, Wait, groups_of
from liver_pipeline.node.inbox import Inbox

logger = logging.getLogger(__name__)

RECEIVED_FOLDER, MASKS_FOLDER = "received", "masks"
DONE = "done"
EARLY = 5  # a sender is asked after this part of the quiet time
LOOKS = 1000  # at how old things are, in the time for which they are kept: a minute and a half of a day

Segment = Callable[[list[dict[str, Any]], Path], None]  # cases as find_scans gives them, folder of the masks
Ask = Callable[[Dataset], int | None]  # study and series to the number of instances


@dataclass(frozen=True)
class NodeSettings:
    """How a node works.

    Attributes:
        folder: Private; received scans and masks lie in it.
        listen: Starts to fill the inbox; what it returns has a ``shutdown()``.
        destinations: Results go to each of them.
        dicom: Which results.
        ask: How many instances a series has; None: nobody can be asked.
        series: Of a study's series take one, as for ``predict``; None: each.
        accept: As for ``predict``.
        quiet_seconds: A series is complete when nothing came for so long.
        keep_hours: What is older is removed, delivered or not.
    """

    folder: Path
    listen: Callable[[Inbox], Any]
    destinations: Sequence[Send]
    dicom: DicomResults
    ask: Ask | None = None
    series: str | None = None
    accept: Collection[str] = ()
    quiet_seconds: float = 30.0
    keep_hours: float = 24.0


@dataclass
class Memory:
    """What a node knows while it runs, to do nothing twice; all of it follows from the disk.

    Attributes:
        kept: How long series and results have been there.
        tried: Series to the instances it had when it was last segmented, or found incomplete.
        open: Segmented, and not delivered.
        told: Series to what it was when its sender was asked (files, quiet), and the answer.
        wait: Series to when it may be segmented again.
        look_at_kept: When, by the clock that nobody sets.
    """

    kept: Ages
    tried: dict[str, frozenset[str]] = field(default_factory=dict)
    open: list[SeriesGroup] = field(default_factory=list)
    told: dict[str, tuple[tuple[frozenset[str], bool], int | None]] = field(default_factory=dict)
    wait: dict[str, Wait] = field(default_factory=lambda: defaultdict(Wait))
    look_at_kept: float = 0.0


def serve(settings: NodeSettings, segment: Segment, stopped: Callable[[float], bool]) -> None:
    """Receive, segment and send until ``stopped(seconds)``, which waits for so long, says true.

    Raises:
        IntakeError: PORT_TAKEN.
        ValueError: If another node works in the folder, or a file for TLS cannot be used.
    """
    with _alone(settings.folder):
        inbox = Inbox(settings.folder / RECEIVED_FOLDER)
        memory, wait = Memory(Ages(partial(last_changes, inbox, settings.folder / MASKS_FOLDER))), Wait()
        memory.kept.look()
        server = settings.listen(inbox)
        try:
            while not stopped(min(1.0, settings.quiet_seconds)):
                if not wait.is_over:
                    continue
                try:
                    work(settings, inbox, memory, segment)
                    wait = Wait()
                except Exception as reason:  # what was received is on disk, and reception goes on
                    logger.error("the node waits, for it cannot work: %s", _reason(reason))
                    logger.debug("the node cannot work", exc_info=reason)
                    wait.again()
        finally:
            server.shutdown()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        with (
            (folder / "node.lock").open("a+b") as file,
            lock_file(file.fileno(), f"another node works in {folder}; name another folder"),
        ):
            yield
    finally:
        os.umask(before)


def _reason(reason: BaseException) -> str:
    """Return what may stand in a log: of an unknown error its kind, for what it says may quote a header."""
    return str(reason.strerror) if isinstance(reason, OSError) and reason.strerror else type(reason).__name__


def work(settings: NodeSettings, inbox: Inbox, memory: Memory, segment: Segment) -> None:
    """Do once what is to be done: remove what is over, segment what is complete, send what is done.

    Raises:
        OSError: If the disk is full, or the like.
    """
    if time.monotonic() >= memory.look_at_kept:
        remove_expired(inbox, memory.kept, settings.keep_hours)
        memory.look_at_kept = time.monotonic() + 3600 * settings.keep_hours / LOOKS
    complete, coming = _sort(settings, inbox, memory)
    due = groups_of(inbox, complete, coming, series=settings.series, accept=settings.accept) if complete else []
    if due:
        _segment(settings, memory, segment, due)
    _deliver(settings, inbox, memory)
    there = set(inbox.idle(0.0))
    for known in (memory.tried, memory.told, memory.wait):
        for name in set(known) - there:
            known.pop(name)


def _deliver(settings: NodeSettings, inbox: Inbox, memory: Memory) -> None:
    """Send what is segmented and due, in the order in which it was segmented."""
    silent: set[Send] = set()
    with contextlib.ExitStack() as opened:
        ledger: Ledger | None = None
        for group in list(memory.open):
            if any(inbox.instances(name) != files for name, files in group.series.items()):
                memory.open.remove(group)  # more came meanwhile: it is segmented again when that is over
            elif group.wait.is_over:
                ledger = ledger or opened.enter_context(opened_ledger(settings.folder / MASKS_FOLDER))
                if deliver(group, inbox, ledger, settings.dicom, silent):
                    memory.open.remove(group)


def _sort(settings: NodeSettings, inbox: Inbox, memory: Memory) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Return the series that are complete and to be segmented, with their files, and the names of those coming."""
    complete: dict[str, frozenset[str]] = {}
    coming: list[str] = []
    incomplete: list[tuple[dict[str, Any], frozenset[str]]] = []
    quiet = set(inbox.idle(settings.quiet_seconds))
    early = quiet if settings.series else set(inbox.idle(settings.quiet_seconds / EARLY))  # another series may follow
    for name in inbox.names():
        files = inbox.instances(name)
        if memory.tried.get(name) == files or is_straggler(settings.folder / MASKS_FOLDER, name, files):
            continue
        expected = _ask(settings, inbox, memory, name, files, name in quiet) if name in early else None
        if expected is not None and len(files) < expected and name in quiet:
            detail = f"{len(files)} of {expected} instances came, by the word of the sender"
            logger.warning("%s: SERIES_INCOMPLETE: %s; nothing is sent", name, detail)
            row = {"case": name, "event": "failed", "code": "SERIES_INCOMPLETE", "detail": detail, "time": now()}
            incomplete.append((row, files))
        elif memory.wait[name].is_over and (name in quiet or (expected or math.inf) <= len(files)):
            complete[name] = files
        else:
            coming.append(name)
    if incomplete:
        with opened_ledger(settings.folder / MASKS_FOLDER) as ledger:
            for row, files in incomplete:
                ledger.append(row)
                memory.tried[row["case"]] = files
    return complete, coming


def _ask(
    settings: NodeSettings, inbox: Inbox, memory: Memory, name: str, files: frozenset[str], quiet: bool
) -> int | None:
    """Return how many instances a series has; its sender is asked once in each state."""
    if settings.ask is None:
        return None
    state = files, quiet
    if name not in memory.told or memory.told[name][0] != state:
        memory.told[name] = state, settings.ask(inbox.header(name))
    return memory.told[name][1]


def _segment(settings: NodeSettings, memory: Memory, segment: Segment, due: Sequence[SeriesGroup]) -> None:
    """Segment some groups, and see how each has ended."""
    masks = settings.folder / MASKS_FOLDER
    cases = [case for group in due for case in group.cases]
    try:
        if cases:
            segment(cases, masks)
    except (IntakeError, OSError) as reason:  # of the folder, not of a case, such as a full disk
        code = reason.code if isinstance(reason, IntakeError) else _reason(reason)
        logger.error("segmenting has ended early: %s", code)
    last, _ = read_ledger(masks / LEDGER)
    for group in due:
        codes = [_end(case, last.get(case["case"], {}), masks, settings.dicom) for case in group.cases]
        if "" in codes or PASSING & set(codes):
            told = ", ".join(sorted(set(codes) - {"", DONE})) or "it was not segmented"
            logger.warning("%s: %s; it is tried again later", group.name, told)
            for name in group.series:
                memory.wait[name].again()
            continue
        memory.tried |= group.series
        group.left = list(settings.destinations)
        memory.open.append(group)
        for case, code in zip(group.cases, codes, strict=True):
            logger.info("%s: %s", case["case"], "segmented" if code == DONE else f"{code}: nothing is sent")


def _end(case: Mapping[str, Any], row: Mapping[str, Any], masks: Path, dicom: DicomResults) -> str:
    """Return how a case has ended: "done" with its results, a code, or "" if what is there now has not ended."""
    if row.get("input_sha256") != hash_input(Path(case["image"]), case.get("series")):
        return ""  # of fewer instances, earlier
    told = row.get("dicom") or {}
    if row.get("event") == DONE and "files" in told:
        return DONE if all(path.exists() for path in dicom.paths(masks / f"{case['case']}.nii.gz").values()) else ""
    return str(row.get("code") or told.get("code") or "")
