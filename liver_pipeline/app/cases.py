"""The app's cases on disk: uploads with a note of each beside them, and one folder run with its ledger."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any

from liver_pipeline.app.data_folder import DataFolder
from liver_pipeline.io.clocks import Ages
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.file_names import EDITED
from liver_pipeline.io.files import remove, write_json
from liver_pipeline.io.remembering import remembers

# What a case's note says of it; the ledger says how it ended.
UPLOADING, STARTED, CANCELLED, ENDED = "uploading", "started", "cancelled", "ended"
LOST = "PREDICT_FAILED"
MAX_CASES = 10_000
CASE_NAME = "[0-9a-f]{16}"


class NoSuchCase(KeyError):
    """There is no case of that name."""


class CaseFolder:
    """Cases below one folder: ``uploads/<id>`` is one's own, ``masks`` is the output of a folder run over all of them.

    ``corrected`` holds corrected masks, apart from ``masks``, which is its folder run's alone; ``training`` is the data
    set that was made of them last, if one was.

    Only the process that serves the app writes notes and corrections, only its worker writes masks. The folders are
    private (0700).

    Args:
        work: The folder; made if it is not there.
        data: Scans below it can be named instead of being uploaded; None allows no path.
    """

    def __init__(self, work: Path, data: DataFolder | None = None) -> None:
        self.uploads, self.masks, self.corrected, self.training = (
            work / name for name in ("uploads", "masks", "corrected", "training")
        )
        self.data = data
        self._lock = RLock()
        self._incomplete = Ages(self._last_bytes)
        self.results = RLock()  # held by whoever writes or deletes results in this process
        for folder in (work, self.uploads, self.masks, self.corrected):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)

    def ids(self) -> list[str]:
        """Return all cases, the oldest first."""
        return list(self.notes())

    def notes(self) -> dict[str, Mapping[str, Any]]:
        """Return what is noted of all cases, the oldest first; see :meth:`note`."""
        found = {}
        for path in self.uploads.iterdir():
            with contextlib.suppress(NoSuchCase):  # somebody else's folder, or deleted just now
                found[path.name] = self.note(path.name)
        return dict(sorted(found.items(), key=lambda one: (one[1]["created"], one[0])))

    def create(self, name: str, run: str, modality: str | None = None, source: str | None = None) -> str:
        """Make a case; ``name`` is what people call it, ``source`` a path below the data folder; see Model.

        Raises:
            ValueError: If there is no such path below the data folder.
            OSError: If it cannot be written; nothing is left of the case.
        """
        if source is not None:
            self._below_data(source)
        case = secrets.token_hex(8)  # see CASE_NAME
        (self.uploads / case).mkdir(mode=0o700)
        note = {"name": name, "run": run, "modality": modality, "source": source, "verdict": "", "note": ""}
        try:
            created = time.time()  # noqa: TID251 (for the order)
            write_json(self.uploads / case / "case.json", {**note, "state": UPLOADING, "created": created})
        except OSError:
            remove(self.uploads / case)
            raise
        return case

    def drop_abandoned(self, seconds: float) -> None:
        """Delete the cases whose files did not all come, and of which nothing has come for so long: a tab was closed.

        Args:
            seconds: Since the last byte.
        """
        for name, age in self._incomplete.look().items():
            if age >= seconds:
                remove(self.uploads / name)

    def _last_bytes(self) -> dict[str, float]:
        """Return the cases whose files did not all come, and when the last byte came; nothing of others."""
        return {
            folder.name: max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            for folder in self.uploads.iterdir()
            if folder.is_dir() and re.fullmatch(CASE_NAME, folder.name)
            if not (folder / "case.json").exists() or self.note(folder.name)["state"] == UPLOADING
        }

    def note(self, case: str) -> Mapping[str, Any]:
        """Return what is noted of a case; it is not to be changed, see :meth:`amend`.

        Raises:
            NoSuchCase: If there is no such case.
        """
        if not re.fullmatch(CASE_NAME, case):
            raise NoSuchCase(case)
        try:
            return _note(self.uploads / case / "case.json")
        except (OSError, ValueError):
            raise NoSuchCase(case) from None

    def amend(self, case: str, **values: Any) -> None:
        """Change what is noted of a case; NoSuchCase if there is none."""
        with self._lock:
            write_json(self.uploads / case / "case.json", {**self.note(case), **values})

    def folder(self, case: str, part: str) -> Path:
        """Return the folder of a case's ``scan`` or ``reference``, made if it is not there; NoSuchCase if no case."""
        self.note(case)
        path = self.uploads / case / part
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def scan(self, case: str) -> ScanInput | None:
        """Return the case's scan: a file or folder of slices, and which series there; None if nothing was given."""
        note = self.note(case)
        path = self._given(case, "scan") if note["source"] is None else self._below_data(note["source"])
        return None if path is None else ScanInput(path, case, note.get("series"), note.get("why", ""))

    def reference(self, case: str) -> Path | None:
        """Return the case's reference label map, None without one."""
        return self._given(case, "reference")

    def _given(self, case: str, part: str) -> Path | None:
        entries = sorted(self.folder(case, part).iterdir())
        headers = [path for path in entries if path.name.lower().endswith((".mhd", ".nhdr", ".hdr"))]
        if len(entries) == 1 or len(headers) == 1:
            return (headers or entries)[0]
        return self.folder(case, part) if entries else None

    def _below_data(self, source: str) -> Path:
        if self.data is None:
            raise ValueError("the app was started without --data, so that no path can be named")
        return self.data.find(source)

    def result(self, case: str, ending: str) -> Path:
        """Return where a result of a case lies, by what stands behind its name; NoSuchCase if there is no case."""
        if not re.fullmatch(CASE_NAME, case) or not (self.uploads / case / "case.json").exists():
            raise NoSuchCase(case)
        return (self.corrected if ending.startswith(EDITED) else self.masks) / f"{case}{ending}"

    def kind(self, case: str) -> str:
        """Return :data:`EDITED` if the case's mask was corrected, else ""; NoSuchCase if there is no case."""
        return EDITED if self.result(case, f"{EDITED}.nii.gz").exists() else ""

    def unfinished(self) -> list[str]:
        """Return the cases that were started and have come to no end, the oldest first."""
        return [case for case, note in self.notes().items() if note["state"] == STARTED]

    def remove_results(self, case: str) -> None:
        """Remove all that was made of a case; NoSuchCase if there is none."""
        self.note(case)
        for folder in (self.masks, self.corrected):
            for path in folder.glob(f"{case}.*"):
                remove(path)

    def delete(self, case: str) -> None:
        """Remove a case with all that was uploaded and made; its row in the ledger, which names nobody, stays."""
        with self.results:
            self.remove_results(case)
            for path in self.training.glob(f"*/{case}.*"):
                remove(path)
            remove(self.uploads / case)


@remembers(2 * MAX_CASES)
def _note(path: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def json_or_nothing(path: Path) -> dict[str, Any]:
    """Return what a file of JSON says, nothing where it is not there or no JSON."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    except (OSError, ValueError):
        return {}
