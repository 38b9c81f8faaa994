"""The app's cases on disk: uploads with a note of each beside them, and one folder run with its ledger."""

from __future__ import annotations

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
from liver_pipeline.io.files import remove, write_json
from liver_pipeline.io.ledger import LEDGER, read_ledger

# What a case's note says of it; the ledger says how it ended.
UPLOADING, STARTED, CANCELLED, ENDED = "uploading", "started", "cancelled", "ended"
LOST = "PREDICT_FAILED"
CASE_NAME = "[0-9a-f]{16}"
EDITED = ".edited"  # stands before the ending of what belongs to a corrected mask


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
        found = [path.parent for path in self.uploads.glob("*/case.json")]
        return [folder.name for folder in sorted(found, key=lambda folder: (self.note(folder.name)["created"], folder))]

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

    def note(self, case: str) -> dict[str, Any]:
        """Return what is noted of a case.

        Raises:
            NoSuchCase: If there is no such case.
        """
        if not re.fullmatch(CASE_NAME, case):
            raise NoSuchCase(case)
        try:
            found: dict[str, Any] = json.loads((self.uploads / case / "case.json").read_bytes())
            return found
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

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Return the last row of each case."""
        return read_ledger(self.masks / LEDGER)[0]

    def unfinished(self) -> list[str]:
        """Return the cases that were started and have come to no end, the oldest first."""
        return [case for case in self.ids() if self.note(case)["state"] == STARTED]

    def row(self, case: str, rows: Mapping[str, Mapping[str, Any]], running: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that is known of a case, for tables.

        Args:
            case: Which.
            rows: The ledger's last rows.
            running: Of cases in the queue: what to say of them.
        """
        note, ledger = self.note(case), rows.get(case, {})
        row: dict[str, Any] = {"id": case, **{key: note[key] for key in ("name", "run", "created", "verdict", "note")}}
        row |= {key: note.get(key) for key in ("study", "series")}
        row |= {"state": note["state"], "stage": "", "percent": None, "code": None, "detail": None, "flags": []}
        if case in running:
            return {**row, **running[case]}
        if note["state"] != ENDED:
            return {**row, "state": "waiting"} if note["state"] == STARTED else row  # it came to its end just now
        if ledger.get("event") != "done":
            lost = "the run has left no word on how it ended; is the disk full? Try again"
            return {**row, "state": "failed", "code": ledger.get("code", LOST), "detail": ledger.get("detail", lost)}
        dicom = ledger.get("dicom") or {}
        refusal = {key: dicom[key] for key in ("code", "detail")} if "code" in dicom else None
        figures = self._figures(case)
        flags = [*figures["flags"], *([refusal["code"]] if refusal else [])]
        return {**row, "state": "done", **figures, "flags": flags, "no_dicom": refusal}

    def _figures(self, case: str) -> dict[str, Any]:
        kind, endings = self.kind(case), (".description.json", ".json", ".scores.json")
        table, record, scores = (json_or_nothing(self.result(case, f"{kind}{end}")) for end in endings)
        liver, lesions, quality = table.get("liver", {}), table.get("lesions", []), record.get("quality") or {}
        flags = [str(found["code"]) for found in (*record.get("warnings", []), *quality.get("reasons", []))]
        flags += ["LIVER_CUT_OFF"] if liver.get("truncated") and "LIVER_CUT_OFF" not in flags else []
        return {
            "edited": bool(kind),
            "mask_sha256": record.get("output", {}).get("sha256"),
            "stage": "" if table else "measuring",
            "liver_ml": liver.get("liver_with_tumor_ml"),
            "tumor_ml": liver.get("tumor_ml"),
            "lesions": liver.get("lesion_count"),
            "largest_mm": max((lesion["diameter_mm"] for lesion in lesions), default=None),
            "burden": liver.get("tumor_burden"),
            "quality": None if not quality else "look at it" if quality.get("flagged") else "no doubt found",
            "flags": sorted(set(flags)),
            "scores": scores or None,
        }

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


def json_or_nothing(path: Path) -> dict[str, Any]:
    """Return what a file of JSON says, nothing where it is not there or no JSON."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    except (OSError, ValueError):
        return {}
