"""A crash-safe record of a folder run: one JSON object a line, appended and synced, the last line of a case counts.

Lines rather than a database: an append needs no recovery, a torn last line is seen and cut off, people can read it, and
it works on network file systems on which SQLite's locks do not. Each shard of a folder has a ledger of its own beside
the one of whole runs. Who reads takes them together; a whole run takes their rows into its own ledger before it
begins, so that a shard's rows are always the newer ones, whatever the clocks of the hosts say.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from liver_pipeline.io.files import remove, sync
from liver_pipeline.io.lock_files import LockFile, is_gone, living, lock_file_of, read_lock_file, said
from liver_pipeline.io.locks import lock_file
from liver_pipeline.io.shards import Shard

logger = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"  # in the output folder of a run; beside it ledger.0.jsonl, ... of its shards


class Rows(Protocol):
    """What a case needs of a ledger, wherever that is: a process of another machine may hold it."""

    last: dict[str, dict[str, Any]]
    written: dict[str, set[str]]

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on disk when this returns."""


class Ledger:
    """The record of one output folder, open and locked for one process; a killed process gives the lock back.

    Shards are open side by side, but not beside a whole run.

    Args:
        path: Of the ledger of whole runs.
        shard: The part of the folder; its ledger lies beside ``path``.

    Attributes:
        last: Case name to its last row, in whichever ledger of the folder.
        written: Case name to the sha256 of every mask, file of probabilities and DICOM result that these ledgers say
            was (about to be) written.

    Raises:
        ValueError: If another process has it open, or the folder was begun with another number of shards.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.shard = shard
        self.path = path if shard is None else path.with_name(f"{path.stem}.{shard.index}{path.suffix}")
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        try:
            self._lock_all(path)
            self._size = _cut_torn_line(self._file)
            with contextlib.suppress(OSError):  # not every file system syncs folders
                sync(path.parent)
            if shard is None:
                self._take_shards()
            self.last, self.written = read_ledger(path)
        except BaseException:
            self.close()
            raise

    def _lock_all(self, path: Path) -> None:
        """Keep others out: a shard those of the same number and whole runs, a whole run all."""
        _refuse_other_count(path, self.shard)
        whole = self._open.enter_context(path.open("a+b", buffering=0))
        lock_files = [lock_file_of(path), *map(lock_file_of, shard_ledgers(path))]
        lock = lock_file(whole.fileno(), _busy(path, lock_files), shared=self.shard is not None)
        trust = self._open.enter_context(lock)
        self._file = whole
        if self.shard is not None:
            self._file = self._open.enter_context(self.path.open("a+b", buffering=0))
            lock_files = [lock_file_of(path), lock_file_of(self.path)]
            trust = self._open.enter_context(lock_file(self._file.fileno(), _busy(path, lock_files))) and trust
        if (told := living(lock_files, trust_locks=trust)) is not None:
            raise ValueError(_refusal(path, said(told)))
        self._lock_file = LockFile(lock_file_of(self.path), None if self.shard is None else str(self.shard))
        self._open.callback(self._lock_file.close)  # before the files: who opens them next has a lock file, too
        _refuse_other_count(path, self.shard)  # whoever began meanwhile sees our lock file, or we see theirs

    def _take_shards(self) -> None:
        """Move the rows of all shards into this ledger; a kill in between leaves some in both, which says the same."""
        for path in shard_ledgers(self.path):
            rows = path.read_bytes()
            self._write(rows[: rows.rfind(b"\n") + 1])
            remove(path)
            remove(lock_file_of(path))

    def report(self, progress: Callable[[], Mapping[str, Any]]) -> None:
        """Let the lock file say how far the run is: what ``progress`` gives, ready for JSON, every few seconds."""
        self._lock_file.progress = progress
        self._lock_file.beat()

    def append(self, row: dict[str, Any]) -> None:
        """Add a row (``case`` and ``event`` at least) and return once it is on the disk.

        Raises:
            OSError: If it cannot be written; what was written of it is cut off again.
        """
        if self._lock_file.lost:
            raise OSError(f"another run has taken over {self.path}: this one was silent for too long")
        if self.shard is not None:
            row = {**row, "shard": str(self.shard)}
        with self._lock:
            self._write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            _remember(row, self.last, self.written)

    def _write(self, lines: bytes) -> None:
        try:
            written = 0
            while written < len(lines):
                written += self._file.write(lines[written:])
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._size)  # a full disk gives space back, never takes it
            raise
        self._size += len(lines)

    def close(self) -> None:
        """Close the file, which gives the lock back."""
        self._open.close()


def shard_ledgers(path: Path) -> list[Path]:
    """Return the ledgers of shards beside the ledger of whole runs, by number."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    found = {int(match[1]): entry for entry in path.parent.glob("*") if (match := name.fullmatch(entry.name))}
    return [found[number] for number in sorted(found)]


def read_ledger(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    """Return ``last`` and ``written`` of a ledger and its shards' without opening them for writing.

    Empty where there is none.
    """
    last: dict[str, dict[str, Any]] = {}
    written: dict[str, set[str]] = {}
    for one in (path, *shard_ledgers(path)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # taken in just now; a mask of that name
            _load(one, last, written)
    return last, written


def _refusal(path: Path, who: str) -> str:
    return f"another run is writing to {path.parent} ({who}); wait for it, or choose another folder"


def _busy(path: Path, lock_files: list[Path]) -> str:
    """Return what to say if the operating system keeps a lock: who that is."""
    told = [one for one in map(read_lock_file, lock_files) if one is not None and not is_gone(one)]
    return _refusal(path, said(told[0]) if told else "on this or another host")


def _refuse_other_count(path: Path, shard: Shard | None) -> None:
    """Refuse a shard of another N than the ones before: a case would be in two of them."""
    if shard is None:
        return
    for one in shard_ledgers(path):
        told = read_lock_file(lock_file_of(one)) or _first_row(one)
        known = told.get("shard")
        if known and Shard.of(known).count != shard.count:
            raise ValueError(
                f"{path.parent} was begun with --shard {known}, and this is {shard}: keep the number of shards; "
                f"the same command without --shard takes all in, and then another number is free"
            )


def _first_row(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        row = json.loads(file.readline())
        return row if isinstance(row, dict) else {}
    return {}


def _load(path: Path, last: dict[str, dict[str, Any]], written: dict[str, set[str]]) -> None:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            _remember(row, last, written)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: line %d cannot be read; its case will be run again", path, number)


def _remember(row: dict[str, Any], last: dict[str, dict[str, Any]], written: dict[str, set[str]]) -> None:
    last[row["case"]] = row
    for key in ("output_sha256", "probabilities_sha256"):
        if row.get(key):
            written.setdefault(row["case"], set()).add(row[key])
    if files := (row.get("dicom") or {}).get("files"):
        written.setdefault(row["case"], set()).update(files.values())


def _cut_torn_line(file: Any) -> int:
    """Cut off a last line without its end, as a kill or a power cut leaves it; return the size that is left."""
    size: int = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(0)
    whole: int = file.readall().rfind(b"\n") + 1
    if whole < size:
        file.truncate(whole)
    return whole
