"""A crash-safe record of a folder run: one JSON object a line, appended and synced, the last line of a case counts.

Lines rather than a database: an append needs no recovery, a torn last line is seen and cut off, people can read it, and
it works on network file systems on which SQLite's locks do not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from liver_pipeline.io.files import sync
from liver_pipeline.io.locks import lock_file

logger = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"  # in the output folder of a run


class Ledger:
    """The record of one output folder, open and locked for one process; a killed process gives the lock back.

    Attributes:
        last: Case name to its last row.
        written: Case name to the sha256 of every mask, file of probabilities and DICOM result that this ledger says was
            (about to be) written.

    Raises:
        ValueError: If another process has it open.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a+b", buffering=0)
        try:
            busy = f"another run is writing to {path.parent}; wait for it, or choose another folder"
            lock_file(self._file.fileno(), busy)
            self._size = _cut_torn_line(self._file)
        except BaseException:
            self._file.close()
            raise
        with contextlib.suppress(OSError):  # not every file system syncs folders
            sync(path.parent)
        self.last, self.written = _load(path)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row (``case`` and ``event`` at least) and return once it is on the disk.

        Raises:
            OSError: If it cannot be written; what was written of it is cut off again.
        """
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._size)  # a full disk gives space back, never takes it
                raise
            self._size += len(line)
            _remember(row, self.last, self.written)

    def close(self) -> None:
        """Close the file, which gives the lock back."""
        self._file.close()


def read_ledger(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    """Return ``last`` and ``written`` of a ledger without opening it for writing; empty where there is none."""
    return _load(path) if path.exists() else ({}, {})


def _load(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    last: dict[str, dict[str, Any]] = {}
    written: dict[str, set[str]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            _remember(row, last, written)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: line %d cannot be read; its case will be run again", path, number)
    return last, written


def _remember(row: dict[str, Any], last: dict[str, dict[str, Any]], written: dict[str, set[str]]) -> None:
    last[row["case"]] = row
    for key in ("output_sha256", "probabilities_sha256"):
        if row.get(key):
            written.setdefault(row["case"], set()).add(row[key])
    written.setdefault(row["case"], set()).update(((row.get("dicom") or {}).get("files") or {}).values())


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
