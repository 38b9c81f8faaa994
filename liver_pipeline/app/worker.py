"""The process that segments: cases come through a pipe, stages and ends go back."""

from __future__ import annotations

import os
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

from liver_pipeline.app.cases import ENDED, STARTED
from liver_pipeline.app.runs import Model
from liver_pipeline.inferers.progress import progress_to
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.failures import finding_of

STAGES = {  # of a case, in their order: what people are told, and how much is done at its end, in per cent
    "start": ("starting", 0), "load": ("loading the network", 10), "series": ("looking for series", 11),
    "read": ("reading", 14), "preprocess": ("reading", 15), "network": ("segmenting", 66),
    "postprocess": ("cleaning the mask", 68), "quality": ("judging the mask", 70), "write": ("writing the mask", 72),
    "dicom": ("making DICOM results", 86), "describe": ("measuring", 90), "page": ("drawing the page", 100),
}  # fmt: skip


class CaseEnd(NamedTuple):
    """How the work at a case ended: what its note says from now on; a failure that the run has not recorded itself.

    ``volumes`` are the series of a study that was looked at and not segmented: each is a case from now on.
    """

    state: str
    code: str = ""
    detail: str = ""
    volumes: tuple[ScanInput, ...] = ()


def work_through(pipe: Connection) -> None:
    """Segment what comes through the pipe until it closes: the worker's main. Prints nothing: logs would name scans."""
    with Path(os.devnull).open("w") as nowhere:
        for printed in (1, 2):  # whoever prints: pydicom's warnings quote tags
            os.dup2(nowhere.fileno(), printed)
    segmenters: dict[Model, Any] = {}
    while True:
        try:
            choice, scan, reference, masks = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(_segment(pipe, segmenters, choice, scan, reference, masks))
        except Exception as reason:
            found = finding_of(reason)
            pipe.send(CaseEnd(ENDED, found.code, found.detail))


def _segment(
    pipe: Connection,
    segmenters: dict[Model, Any],
    choice: Model,
    scan: ScanInput,
    reference: Path | None,
    masks: Path,
) -> CaseEnd:
    """Run one case as a folder run of one, then judge it and draw its page; a study of several series is looked at."""
    from monai.data import Dataset

    from liver_pipeline.app.judging import score_and_draw
    from liver_pipeline.dicom_results.results import DicomResults
    from liver_pipeline.dicom_results.source import is_series
    from liver_pipeline.io.file_names import DICOM_ENDINGS
    from liver_pipeline.io.studies import volumes_of
    from liver_pipeline.prediction.case_runner import CaseRunner
    from liver_pipeline.prediction.folder_run import FolderRun
    from liver_pipeline.prediction.plan import scan_items
    from liver_pipeline.prediction.segmenter import load_segmenter

    if choice not in segmenters:
        pipe.send(("load", 0.0))
        segmenters.clear()  # one network at a time
        other: dict[str, Any] = {} if choice.modality is None else {"modality": choice.modality}
        segmenters[choice] = load_segmenter(choice.run, **other)
    runner = segmenters[choice].runner
    if scan.series is None:
        pipe.send(("series", 0.0))
        volumes = volumes_of([scan], scan.path, accept=runner.reader.accept)
        if volumes[0].series is not None:
            return CaseEnd(STARTED, volumes=tuple(volumes))
    done = FolderRun(
        dataset=Dataset(scan_items([scan], scan.path.parent)), output_dir=masks,
        runner=cast(CaseRunner, _Told(runner, pipe)), retry_failed=True, progress=False,
        describe=True, dicom=DicomResults(tuple(DICOM_ENDINGS) if is_series(scan.path) else ()),
    ).run()  # fmt: skip
    if not done.failed:
        pipe.send(("page", 0.0))
        score_and_draw(masks / f"{scan.case}.nii.gz", scan, reference, runner.reader)
    return CaseEnd(ENDED)


class _Told:
    """A runner that says which stage of a case begins, and how far the network is."""

    def __init__(self, runner: Any, pipe: Connection) -> None:
        self._runner, self._pipe = runner, pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def _say(self, stage: str, share: float = 0.0) -> None:
        self._pipe.send((stage, share))

    def prepare(self, case: Any) -> None:
        from liver_pipeline.prediction.provenance import Stages

        case.stages = Stages(self._say)
        self._runner.prepare(case)

    def infer(self, case: Any) -> None:
        with progress_to(partial(self._say, "network")):
            self._runner.infer(case)
