"""The files of a case that is clean, whoever keeps account of them: mask, provenance, probabilities, table, page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from liver_pipeline.evaluation.description import describe
from liver_pipeline.io.file_names import PICTURE_MASK
from liver_pipeline.io.files import plain, write_json
from liver_pipeline.io.probabilities import classes_of, write_probabilities
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import write_label_map
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.reports.viewer import write_viewer_page


def write_case(
    case: FolderCase, runner: CaseRunner, *, overwrite: bool, announce: Callable[..., Any] = lambda **hashes: None
) -> str:
    """Write the probabilities, where the case has them, then the provenance, then the mask.

    Args:
        case: Clean; it lets go of probabilities that are written.
        runner: What made it.
        overwrite: Replace a mask that is there.
        announce: Called with ``probabilities_sha256=`` and with ``output_sha256=`` just before that file appears.

    Returns:
        sha256 of the mask.

    Raises:
        FileExistsError: If the mask is there already and ``overwrite`` is false.
        OSError: If one cannot be written.
    """
    assert case.scan is not None and case.label_map is not None
    with case.stages("write"):
        case.output.parent.mkdir(parents=True, exist_ok=True)
        if case.levels is not None and runner.probabilities:
            case.probabilities_sha256 = write_probabilities(
                case.probabilities, case.levels, case.scan, lambda sha256: announce(probabilities_sha256=sha256)
            )
            case.classes = case.levels.shape[-1]
            case.levels = case.levels if runner.shown else None

        def told(sha256: str) -> None:
            announce(output_sha256=sha256)
            write_json(case.provenance, runner.record(case, case.output_record(sha256)))

        return write_label_map(case.output, case.label_map, case.scan, overwrite=overwrite, announce=told)


def write_case_description(case: FolderCase, reader: ScanReader) -> None:
    """Write the clinical table of a case whose mask is there; of a picture, which has no millimetres, nothing."""
    if case.suffix == PICTURE_MASK:
        return
    confidence = case.probabilities if case.classes > 1 else None  # of tumor; one class is liver
    with case.stages("describe"):
        table = describe(case.output, case.path, confidence=confidence, reader=reader, series=case.series)
        write_json(case.description, plain(table))


def write_case_page(case: FolderCase, reader: ScanReader) -> None:
    """Write the page to look at of a case whose mask is there; of a picture nothing. It lets go of probabilities."""
    if case.suffix == PICTURE_MASK:
        return
    with case.stages("view"):
        kept = None if case.levels is None or case.scan is None else classes_of(case.levels, case.scan)
        write_viewer_page(case.page, case.path, case.output, reader=reader, series=case.series, probabilities=kept)
    case.levels = None
