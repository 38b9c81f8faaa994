"""The node's work: series that are complete are segmented, their results sent, and what is over removed.

Everything that is to outlive a kill lies on disk: received instances, the ledger of masks, and a note of each delivery.
A node that starts in the same folder goes on where the last one was.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.files import write_json
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.locks import lock_file
from liver_pipeline.io.tables import read_json
from liver_pipeline.node.inbox import Inbox
from liver_pipeline.node.network import Peer, receive, send

logger = logging.getLogger(__name__)

RECEIVED, MASKS, DELIVERED = "received", "masks", ".delivered.json"
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 600.0  # between two tries to deliver

Segment = Callable[[list[dict[str, str]], Path], None]  # cases as find_scans gives them, folder of the masks


@dataclass(frozen=True)
class NodeSettings:
    """How a node works.

    Attributes:
        folder: Private; received scans and masks lie in it.
        title: Our AE title.
        address: Where we listen: host and port.
        allowed: AE titles that are served.
        peer: Where results go.
        dicom: Which results.
        quiet_seconds: A series is complete when nothing came for so long.
        keep_hours: What is older is removed, delivered or not.
    """

    folder: Path
    title: str
    address: tuple[str, int]
    allowed: Collection[str]
    peer: Peer
    dicom: DicomResults
    quiet_seconds: float = 30.0
    keep_hours: float = 24.0


@dataclass
class Memory:
    """What a node knows while it runs, to do nothing twice; all of it follows from the disk.

    Attributes:
        tried: Series to the instances it had when it was last segmented.
        wait: Series to when it may be sent again, and how long to wait after that; "" for segmenting.
    """

    tried: dict[str, frozenset[str]] = field(default_factory=dict)
    wait: dict[str, tuple[float, float]] = field(default_factory=dict)


def serve(settings: NodeSettings, segment: Segment, stopped: Callable[[float], bool]) -> None:
    """Receive, segment and send until ``stopped(seconds)``, which waits for so long, says true.

    Raises:
        IntakeError: PORT_TAKEN.
        ValueError: If another node works in the folder.
    """
    with _alone(settings.folder):
        inbox = Inbox(settings.folder / RECEIVED, settings.quiet_seconds)
        server = receive(inbox, settings.title, settings.address, settings.allowed)
        logger.info("%s listens on %s:%d", settings.title, *settings.address)
        memory = Memory()
        try:
            while not stopped(min(1.0, settings.quiet_seconds)):
                work(settings, inbox, memory, segment)
        finally:
            server.shutdown()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    before = os.umask(0o077)
    with (folder / "node.lock").open("a+b") as file:
        lock_file(file.fileno(), f"another node works in {folder}; name another folder")
        try:
            yield
        finally:
            os.umask(before)


def work(settings: NodeSettings, inbox: Inbox, memory: Memory, segment: Segment) -> None:
    """Do once what is to be done: segment what is complete, send what is done, remove what is over."""
    masks = settings.folder / MASKS
    due = {name: inbox.instances(name) for name in inbox.complete()}
    due = {name: n for name, n in due.items() if memory.tried.get(name) != n and _is_whole(masks, name, n)}
    if due and time.monotonic() >= memory.wait.get("", (0.0, 0.0))[0]:
        cases = [{"image": str(inbox.folder / name), "case": name, "root": str(inbox.folder)} for name in due]
        try:
            segment(cases, masks)
            memory.tried |= due
        except (IntakeError, OSError) as reason:  # of the folder, not of a case, such as a full disk
            logger.error("nothing was segmented, it is tried again: %s", reason)
            memory.wait[""] = time.monotonic() + FIRST_WAIT_S, FIRST_WAIT_S
    last, _ = read_ledger(masks / LEDGER)
    for name, files in list(memory.tried.items()):
        if inbox.instances(name) != files:  # more came meanwhile: it is segmented again when that is over
            continue
        row = last.get(name, {})
        if row.get("event") == "done" and "files" in (row.get("dicom") or {}):
            _deliver(settings, inbox, memory, name, files)
    _remove_expired(settings, inbox, memory)


def _is_whole(masks: Path, name: str, files: Collection[str]) -> bool:
    """Tell whether a series holds at least what it held when it was delivered: stragglers alone are no series."""
    note = masks / f"{name}{DELIVERED}"
    return not note.exists() or set(read_json(note)["instances"]) <= set(files)


def _deliver(settings: NodeSettings, inbox: Inbox, memory: Memory, name: str, files: Collection[str]) -> None:
    """Send the results of a series; note it, and remove what was received."""
    not_before, pause = memory.wait.get(name, (0.0, FIRST_WAIT_S))
    if time.monotonic() < not_before:
        return
    masks = settings.folder / MASKS
    results = []
    for path in settings.dicom.paths(masks / f"{name}.nii.gz").values():
        results += sorted(path.iterdir()) if path.is_dir() else [path]
    try:
        send(results, settings.title, settings.peer)
    except (IntakeError, OSError) as reason:
        logger.warning("%s is not delivered: %s", name, reason)
        memory.wait[name] = time.monotonic() + pause, min(2 * pause, LONGEST_WAIT_S)
        return
    write_json(masks / f"{name}{DELIVERED}", {"instances": sorted(files), "sent": len(results)})
    inbox.remove(name, files)
    memory.tried.pop(name, None)
    memory.wait.pop(name, None)
    logger.info("%s is delivered: %d instances", name, len(results))


def _remove_expired(settings: NodeSettings, inbox: Inbox, memory: Memory) -> None:
    """Remove what is older than the node keeps."""
    for name in inbox.expired(settings.keep_hours):
        logger.warning("%s was received more than %g hours ago and goes", name, settings.keep_hours)
        inbox.remove(name)
        memory.tried.pop(name, None)
    limit = time.time() - 3600 * settings.keep_hours
    masks = settings.folder / MASKS
    for path in masks.iterdir() if masks.is_dir() else ():
        if not path.name.startswith("ledger") and path.stat().st_mtime < limit:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
