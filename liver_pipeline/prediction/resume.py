"""What earlier runs into the same folder mean for a case: settled, to be run again, or in the way."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liver_pipeline.dicom_results.results import result_paths
from liver_pipeline.io.checksums import file_sha256, folder_sha256
from liver_pipeline.io.failures import PASSING
from liver_pipeline.io.file_names import (
    DESCRIPTION,
    DICOM_ENDINGS,
    PAGE,
    PICTURE_MASK,
    PROBABILITIES,
    RECORD,
    STALE,
    case_name,
    fitting_name,
)
from liver_pipeline.io.files import remove
from liver_pipeline.io.findings import CODES, FIRM, error, refuse
from liver_pipeline.io.formats import hash_input
from liver_pipeline.io.ledger import Rows
from liver_pipeline.io.paths import is_there
from liver_pipeline.prediction.case import FolderCase

logger = logging.getLogger(__name__)

ENDINGS = (*DICOM_ENDINGS.values(), PROBABILITIES, DESCRIPTION, PAGE, RECORD)  # beside a mask
TOLD_MASK = re.compile(rb'"mask_sha256": "([0-9a-f]{64})"')  # in tables, and in the data of pages


@dataclass(frozen=True)
class EarlierRuns:
    """The ledger's word on a case, for a run with these settings.

    Attributes:
        ledger: Of the output folder.
        config_sha256: Of this run; a row of another configuration does not count.
        weights_sha256: Likewise.
        retry_failed: Failed cases are run again although nothing has changed.
        overwrite: Files that the ledger does not know may be replaced.
        probabilities: This run writes them; a case that lacks them is run again.
        judged: This run judges its masks; likewise.
        accept: Codes of errors that this run takes as warnings. Only the cases that one concerns are run again where
            an earlier run took others.
    """

    ledger: Rows
    config_sha256: str
    weights_sha256: str
    retry_failed: bool
    overwrite: bool
    probabilities: bool
    judged: bool
    accept: Collection[str]

    def settles(self, case: FolderCase) -> bool:
        """Find out whether an earlier run ended with this case and nothing has changed since; if so, say in it how."""
        row = self.ledger.last.get(case.name)
        if row is None or row.get("event") not in ("done", "failed"):
            return False
        if (row.get("config_sha256"), row.get("weights_sha256")) != (self.config_sha256, self.weights_sha256):
            return False
        failed = row["event"] == "failed"
        if not (self._fails_again(row) if failed else self._has_all(case, row)):
            return False
        if row.get("series") != case.series:
            return False
        if bool(case.elsewhere) != (row.get("code") == "MIXED_SERIES"):
            return False  # other parts of the series came, or went, since
        if row.get("input_sha256") is None or hash_input(case.path, case.series) != row["input_sha256"]:
            return False
        if failed:
            case.failure = error(row["code"], row.get("detail", ""))
            logger.warning("%s: %s before; retry_failed tries again", case.path, row["code"])
        elif file_sha256(case.output) != row.get("output_sha256"):
            logger.warning("%s was changed since it was written; it is left as it is", case.output)
        case.before = row["event"]
        return True

    def _fails_again(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a case that failed would fail again."""
        code = row.get("code")
        return not self.retry_failed and code in CODES and code not in PASSING | (set(self.accept) - FIRM)

    def _has_all(self, case: FolderCase, row: Mapping[str, Any]) -> bool:
        """Tell whether a case that is done has all that this run would make, and no more accepted than it accepts."""
        if not set(row.get("accepted", ())) <= set(self.accept):
            return False
        if self.judged and case.suffix != PICTURE_MASK and row.get("quality") is None:
            return False
        if self.probabilities and not (row.get("probabilities_sha256") and is_there(case.probabilities)):
            return False
        return case.output.exists() and case.provenance.exists()

    def guard_output(self, case: FolderCase) -> None:
        """Refuse to replace what this folder's ledger did not write.

        Raises:
            IntakeError: OUTPUT_EXISTS.
        """
        if self.overwrite:
            return
        known = self.ledger.written.get(case.name, set())
        for path in (case.output, case.probabilities):
            if is_there(path) and (path.is_dir() or file_sha256(path) not in known):
                detail = "a file that this folder's ledger did not write, or that was changed; overwrite replaces it"
                raise refuse(path, "OUTPUT_EXISTS", detail)
        if case.provenance.exists() and not known:
            detail = "a file lies where the provenance goes; overwrite replaces it"
            raise refuse(case.provenance, "OUTPUT_EXISTS", detail)

    def has_made(self, path: Path, mask_sha256: str) -> bool:
        """Tell whether a table or a page is there that was made of the mask with this hash.

        Raises:
            IntakeError: OUTPUT_EXISTS if something else is there, which may not be replaced.
            OSError: If it cannot be read.
        """
        if not is_there(path):
            return False
        told = mask_told_by(path)
        if told is None and not self.overwrite:
            raise refuse(path, "OUTPUT_EXISTS", "a file of somebody else's; overwrite replaces it")
        return told == mask_sha256

    def remove_results(self, case: FolderCase) -> None:
        """Remove table, page and DICOM results of an older mask, before a new one appears; what is not ours stays.

        Raises:
            OSError: If one cannot be removed.
        """
        known = self.ledger.written.get(case.name, set())
        for path in result_paths(case.output).values():
            if is_there(path) and (self.overwrite or content_of(path) in known):
                remove(path)
        for path in (case.description, case.page):
            if is_there(path) and mask_told_by(path) is not None:
                remove(path)


def mask_told_by(path: Path) -> str | None:
    """Return the hash of the mask that a table or a page says it was made of; None where it is no such file.

    Raises:
        OSError: If it cannot be read.
    """
    found = TOLD_MASK.search(path.read_bytes()) if path.is_file() else None
    return None if found is None else found[1].decode()


def content_of(path: Path) -> str:
    """Return the hash of a DICOM result: a file, or the folder of captures."""
    return folder_sha256(path) if path.is_dir() else file_sha256(path)


def set_aside(case: FolderCase, known: Collection[str]) -> bool:
    """Rename what earlier runs wrote for a case that failed now to ``<case>.stale...``: it is not this scan's.

    A file that this folder's ledger does not know, or that was changed since, stays as it is. A name that would be too
    long is shortened.

    Returns:
        Whether there was a mask to set aside.

    Raises:
        OSError: If it cannot be renamed.
    """
    if not case.output.is_file() or file_sha256(case.output) not in known:
        return False
    stem = case_name(case.output.name)
    beside = (case.probabilities, case.description, case.page, case.provenance, case.output)
    for path in (*result_paths(case.output).values(), *beside):
        if is_there(path):
            ending = next((one for one in ENDINGS if path.name.endswith(one)), case.suffix)
            path.replace(path.with_name(fitting_name(stem, f"{STALE}{ending}")))
    return True
