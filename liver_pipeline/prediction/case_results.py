"""The DICOM results of a case: written when its mask is there, and made again later without predicting again."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

from liver_pipeline.dicom_results.results import DicomResults, write_results
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.clocks import now
from liver_pipeline.io.failures import PASSING, finding_of
from liver_pipeline.io.findings import CODES, error, refuse
from liver_pipeline.io.paths import is_there
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.resume import EarlierRuns, content_of

logger = logging.getLogger(__name__)


def write_case_results(settings: DicomResults, case: FolderCase, earlier: EarlierRuns, reader: ScanReader) -> None:
    """Write the results of a case whose last row is "done", unless they are there; nothing is raised.

    The row is written again with the hash of each result just before the results appear, so that after a kill the same
    command makes them again. They hold as long as the mask beside them and the settings are the same. Where they cannot
    be written, ``case.refusal`` and the row say why; it is tried again if that may pass, or with ``retry_failed``.

    Args:
        settings: Which results; at least one.
        case: The case.
        earlier: What its ledger says.
        reader: How the run reads scans.
    """
    row = {**earlier.ledger.last[case.name], "time": now()}
    told: dict[str, Any] = {"settings": settings.as_json(), "mask_sha256": None}
    try:
        told["mask_sha256"] = file_sha256(case.output)
        if _is_settled(settings, case, earlier, told):
            return
        _guard(settings, case, earlier)
        write_results(
            settings,
            case.output,
            case.path,
            series=case.series,
            reader=reader,
            record=json.loads(case.provenance.read_bytes()),
            announce=lambda hashes: earlier.ledger.append({**row, "dicom": {**told, "files": hashes}}),
        )
    except Exception as reason:
        logger.debug("%s has no DICOM results", case.name, exc_info=reason)
        case.refusal = finding_of(reason, writing=True)
        with contextlib.suppress(OSError):
            refusal = {"code": case.refusal.code, "detail": case.refusal.detail}
            earlier.ledger.append({**row, "dicom": {**told, **refusal}})


def _is_settled(settings: DicomResults, case: FolderCase, earlier: EarlierRuns, told: dict[str, Any]) -> bool:
    """Tell whether an earlier run has written these results, or found that they cannot be written."""
    before = earlier.ledger.last[case.name].get("dicom") or {}
    if any(before.get(key) != value for key, value in told.items()):
        return False
    if "code" in before:
        if earlier.retry_failed or before["code"] not in CODES or before["code"] in PASSING:
            return False
        case.refusal = error(before["code"], before.get("detail", ""))
        return True
    paths = settings.paths(case.output)
    if not all(is_there(path) for path in paths.values()):
        return False
    for kind, path in paths.items():
        if content_of(path) != before["files"].get(kind):
            logger.warning("%s was changed since it was written; it is left as it is", path)
    return True


def _guard(settings: DicomResults, case: FolderCase, earlier: EarlierRuns) -> None:
    """Refuse to replace what this folder's ledger did not write."""
    known = earlier.ledger.written.get(case.name, set())
    for path in settings.paths(case.output).values():
        if is_there(path) and not earlier.overwrite and content_of(path) not in known:
            detail = (
                "a DICOM result that this folder's ledger did not write, or that was changed; overwrite replaces it"
            )
            raise refuse(path, "OUTPUT_EXISTS", detail)
