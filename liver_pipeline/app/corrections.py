"""Corrected masks of the app's cases: written apart from the mask they were made from, measured again, taken back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from liver_pipeline.app.cases import CaseFolder, json_or_nothing
from liver_pipeline.app.edits import Edit, changes, lay_on
from liver_pipeline.app.judging import score_and_draw
from liver_pipeline.app.uploads import Refusal, full_disk_refused
from liver_pipeline.dicom_results.results import DicomResults, result_paths, write_results
from liver_pipeline.evaluation.description import describe
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.io.clocks import now
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.file_names import DESCRIPTION, DICOM_ENDINGS, EDITED, PAGE, RECORD, SCORES
from liver_pipeline.io.files import plain, remove, write_json
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.paths import is_there
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.records import reader_of
from liver_pipeline.io.volumes import read_label_map, write_label_map

MADE = (DESCRIPTION, SCORES, PAGE, *DICOM_ENDINGS.values())  # of a corrected mask


def save_edit(cases: CaseFolder, case: str, edit: Edit) -> None:
    """Write ``<case>.edited.nii.gz`` and its provenance, whole or not at all: the mask as it is, with what was drawn.

    Raises:
        NoSuchCase: If the case was deleted meanwhile.
        Refusal: NO_MASK; MASK_CHANGED if the mask is not the one that was drawn on; BAD_EDIT if the page's box does not
            lie in its grid; DISK_FULL. The mask stays as it was.
        IntakeError: If the mask cannot be read.
    """
    with cases.results:
        original, edited = (cases.result(case, f"{kind}.nii.gz") for kind in ("", EDITED))
        current = cases.result(case, f"{cases.kind(case)}.nii.gz")
        if not current.is_file():
            raise Refusal(409, "NO_MASK", "the case has no mask that could be corrected")
        mask = read_label_map(current, accept=ACCEPTED)
        if mask.sha256 != edit.made_from:
            raise Refusal(409, "MASK_CHANGED", "the mask was changed since the page was opened, perhaps in another tab")
        corrected = replace(mask, array=mask.array.copy(order="K"))
        try:
            lay_on(to_ras(corrected)[0], edit)
        except ValueError as reason:
            raise Refusal(422, "BAD_EDIT", str(reason)) from None
        before = mask.array if current == original else read_label_map(original, accept=ACCEPTED).array
        record = _record(cases, case, edit) | {"changed": changes(before, corrected.array)}
        record["edits"][-1]["changed"] = changes(mask.array, corrected.array)

        def announce(sha256: str) -> None:
            """Make the provenance know the mask before it is there; figures of the earlier one go."""
            _remove(cases, case, MADE)
            record["output"] = {"path": edited.name, "sha256": sha256}
            record["edits"][-1]["output_sha256"] = sha256
            write_json(cases.result(case, f"{EDITED}{RECORD}"), plain(record))

        detail = "no space is left; what was drawn is still on the page: free some space and save it again"
        with full_disk_refused(detail):
            write_label_map(edited, corrected.array, mask, overwrite=True, announce=announce)


def _record(cases: CaseFolder, case: str, edit: Edit) -> dict[str, Any]:
    """Return the provenance of a new correction, but for what it changed and what came out."""
    network, earlier = (json_or_nothing(cases.result(case, f"{kind}{RECORD}")) for kind in ("", EDITED))
    steps = earlier.get("edits", [])
    made = [number for number, step in enumerate(steps, 1) if step["output_sha256"] == edit.made_from]
    moment = now()
    page = edit.model_dump(include={"made_from", "start", "size", "steps"})
    return {
        "case": case,
        "input": network.get("input"),
        "original": network.get("output"),
        "tool": {"name": "liver-pipeline app", "version": version("liver-pipeline")},
        "edits": [*steps[: made[-1] if made else 0], {"time": moment, **page}],
        "timing": {"started": moment},
        "warnings": network.get("warnings", []),
        "accepted": network.get("accepted", []),
        "weights": network.get("weights", {}),
    }


def take_back(cases: CaseFolder, case: str) -> None:
    """Delete the correction of a case; the mask that it was made from is the case's mask again.

    Raises:
        NoSuchCase: If there is no such case.
        Refusal: NOT_FOUND if it has no correction.
    """
    with cases.results:
        if not cases.kind(case):
            raise Refusal(404, "NOT_FOUND", "the case has no correction")
        _remove(cases, case, (".nii.gz", RECORD, *MADE))


def _remove(cases: CaseFolder, case: str, endings: Iterable[str]) -> None:
    for path in (cases.result(case, f"{EDITED}{ending}") for ending in endings):
        if is_there(path):
            remove(path)


def measured(cases: CaseFolder, case: str, *, dicom: bool = False) -> None:
    """Write table, scores and page of a correction, where they are not there yet; nothing to do without a correction.

    Args:
        cases: Of an app.
        case: Which.
        dicom: Also those DICOM results that there are of the network's mask: they take longer.

    Raises:
        NoSuchCase: If there is no such case.
        IntakeError: If the scan or a mask cannot be used any more.
        OSError: If something cannot be written.
    """
    with cases.results:
        mask, original = (cases.result(case, f"{kind}.nii.gz") for kind in (EDITED, ""))
        if not mask.exists():
            return
        page, table = (cases.result(case, f"{EDITED}{ending}") for ending in (PAGE, DESCRIPTION))
        network = json_or_nothing(cases.result(case, RECORD))
        scan, reader = scan_of(cases, case), reader_of(network)
        if not page.exists():
            write_json(table, plain(describe(mask, scan.path, reader=reader, series=scan.series)))
            score_and_draw(mask, scan, cases.reference(case), reader, original=original)
        wanted = DicomResults([kind for kind, path in result_paths(original).items() if path.exists()])
        if dicom and not all(path.exists() for path in wanted.paths(mask).values()):
            told: dict[str, Any] = {"record": network, "table": json_or_nothing(table)}
            write_results(wanted, mask, scan.path, series=scan.series, reader=reader, **told)


def scan_of(cases: CaseFolder, case: str) -> ScanInput:
    """Return the scan of a case that has a mask.

    Raises:
        IntakeError: NOT_FOUND if it is gone.
    """
    try:
        scan = cases.scan(case)
    except ValueError:  # it was named by path
        scan = None
    if scan is None:
        raise refuse(case, "NOT_FOUND", "the scan of the case is not there any more")
    return scan
