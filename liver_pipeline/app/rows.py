"""All that is known of cases, for tables that a browser asks for again and again: what has not changed is kept."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from liver_pipeline.app.cases import CASE_NAME, ENDED, LOST, STARTED, CaseFolder, json_or_nothing
from liver_pipeline.app.downloads import DOWNLOADS
from liver_pipeline.evaluation.liver_table import longest_mm
from liver_pipeline.io.file_names import DESCRIPTION, EDITED, RECORD, SCORES
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.remembering import Stamp, remembers, stamp_of

RESULT = re.compile(rf"({CASE_NAME})(\..+)")  # a file beside masks: its case, and what stands behind that name
THERE: Stamp = (0, 0, 0, 0)  # of a file whose content no row tells

Row = dict[str, Any]
Told = Mapping[str, Mapping[str, Any]]  # by case
Results = Mapping[str, Stamp | None]  # what there is of a case, by the ending of its file


class CaseRows:
    """The rows of cases, each kept until its note, its word in the ledger or one of its results is another.

    What was written just now is read each time. Results appear by a rename, so that their folder tells of each.

    Args:
        cases: Where they lie.
    """

    def __init__(self, cases: CaseFolder) -> None:
        self.cases = cases
        self._kept: dict[str, tuple[Any, Row]] = {}
        self._lock = Lock()

    def of(self, case: str, running: Told) -> Row:
        """Return the row of a case; NoSuchCase if there is none.

        Args:
            case: Which.
            running: Of cases in the queue: what to say of them.
        """
        with self._lock:
            return self._rows({case: self.cases.note(case)}, running)[0]

    def all(self, running: Told) -> list[Row]:
        """Return the rows of all cases, the oldest first."""
        with self._lock:
            notes = self.cases.notes()
            self._kept = {case: kept for case, kept in self._kept.items() if case in notes}
            return self._rows(notes, running)

    def _rows(self, notes: Told, running: Told) -> list[Row]:
        ledger = last_rows(self.cases.masks / LEDGER)
        masks, corrected = _results(self.cases.masks), _results(self.cases.corrected)
        rows = []
        for case, note in notes.items():
            there = {**masks.get(case, {}), **corrected.get(case, {})}
            state = note, ledger.get(case, {}), there
            kept = self._kept.get(case)
            if kept is None or kept[0] != state or None in there.values():
                kept = self._kept[case] = state, self._row(case, *state)
            rows.append({**_noted(case, note, there), **running[case]} if case in running else kept[1])
        return rows

    def _row(self, case: str, note: Mapping[str, Any], ledger: Mapping[str, Any], there: Results) -> Row:
        row = _noted(case, note, there)
        if note["state"] != ENDED:
            return {**row, "state": "waiting"} if note["state"] == STARTED else row  # it came to its end just now
        if ledger.get("event") != "done":
            lost = "the run has left no word on how it ended; is the disk full? Try again"
            return {**row, "state": "failed", "code": ledger.get("code", LOST), "detail": ledger.get("detail", lost)}
        dicom = ledger.get("dicom") or {}
        refusal = {key: dicom[key] for key in ("code", "detail")} if "code" in dicom else None
        figures = self._figures(case, there)
        flags = [*figures["flags"], *([refusal["code"]] if refusal else [])]
        return {**row, "state": "done", **figures, "flags": flags, "no_dicom": refusal}

    def _figures(self, case: str, there: Results) -> Row:
        kind = EDITED if f"{EDITED}.nii.gz" in there else ""
        endings = (f"{kind}{end}" for end in (DESCRIPTION, RECORD, SCORES))
        table, record, scores = (
            json_or_nothing(self.cases.result(case, ending)) if ending in there else {} for ending in endings
        )
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
            "largest_mm": longest_mm(lesions),
            "burden": liver.get("tumor_burden"),
            "quality": None if not quality else "look at it" if quality.get("flagged") else "no doubt found",
            "flags": sorted(set(flags)),
            "scores": scores or None,
        }


def _noted(case: str, note: Mapping[str, Any], there: Results) -> Row:
    """Return what stands in every row."""
    row: Row = {"id": case, **{key: note[key] for key in ("name", "run", "created", "verdict", "note")}}
    row |= {key: note.get(key) for key in ("study", "series")}
    row |= {"state": note["state"], "stage": "", "percent": None, "code": None, "detail": None, "flags": []}
    return {**row, "results": [name for name, (ending, _) in DOWNLOADS.items() if ending in there]}


@remembers(2)
def _read_rows(ledger: Path) -> Told:
    return read_ledger(ledger)[0]


def last_rows(ledger: Path) -> Told:
    """Return the last row of each case; none where there is no ledger yet."""
    with contextlib.suppress(FileNotFoundError):
        return _read_rows(ledger)
    return {}


@remembers(4)
def _results(folder: Path) -> Mapping[str, Results]:
    """Return what there is of each case in a folder of masks."""
    found: dict[str, dict[str, Stamp | None]] = defaultdict(dict)
    with os.scandir(folder) as entries:
        for entry in entries:
            if (match := RESULT.fullmatch(entry.name)) is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # removed just now
                found[match[1]][match[2]] = stamp_of(entry.stat()) if match[2].endswith(".json") else THERE
    return found
