"""The process that segments, and the thread that looks after it: queue, stages, cancelling, crashes that are rows."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import deque
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Condition, Thread
from typing import Any, NamedTuple, cast

from liver_pipeline.app.cases import CANCELLED, ENDED, LOST, STARTED, CaseFolder, NoSuchCase
from liver_pipeline.inferers.progress import progress_to
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import remove_temporary
from liver_pipeline.io.findings import Finding
from liver_pipeline.io.ledger import LEDGER, Ledger

STAGES = {  # of a case, in their order: what people are told, and how much is done at its end, in per cent
    "start": ("starting", 0), "load": ("loading the network", 10), "read": ("reading", 14),
    "preprocess": ("reading", 15), "network": ("segmenting", 66), "postprocess": ("cleaning the mask", 68),
    "quality": ("judging the mask", 70), "write": ("writing the mask", 72), "describe": ("measuring", 76),
    "dicom": ("making DICOM results", 90), "page": ("drawing the page", 100),
}  # fmt: skip


class CaseEnd(NamedTuple):
    """How the work at a case ended: what its note says from now on; a failure that the run has not recorded itself."""

    state: str
    code: str = ""
    detail: str = ""


class Supervisor:
    """Hands one case after the other to a worker process; starts it anew when it ends or is cancelled.

    Args:
        cases: Where they lie; those that were started and have come to no end are taken up again.
    """

    def __init__(self, cases: CaseFolder) -> None:
        self.cases = cases
        self._thread = Thread(target=self._work, daemon=True, name="supervisor")
        self._queue = deque(cases.unfinished())
        self._changed = Condition()
        self._current: str | None = None
        self._stage, self._share = "start", 0.0
        self._unwritten: dict[str, Finding] = {}  # why the end of a case could not be noted
        self._stopped = self._cancelled = False
        self._process: Any = None
        self._pipe: Connection | None = None

    def submit(self, case: str) -> None:
        """Put a case at the end of the queue."""
        with self._changed:
            self.cases.amend(case, state=STARTED)
            self._unwritten.pop(case, None)
            self._queue.append(case)
            self._changed.notify_all()

    def cancel(self, case: str) -> bool:
        """Take a case out of the queue, or end its run and remove what it made; return whether it was there."""
        with self._changed:
            if case in self._queue:
                self._queue.remove(case)
                self.cases.amend(case, state=CANCELLED)
                return True
            if case != self._current:
                return False
            self._cancelled = True
            self._changed.wait_for(lambda: self._current != case, timeout=30)
            return bool(self.cases.note(case)["state"] == CANCELLED)  # it may have come to its end just before

    def running(self) -> dict[str, dict[str, Any]]:
        """Return state, stage and per cent of every case that waits or runs."""
        with self._changed:
            told: dict[str, dict[str, Any]] = {
                case: {"state": "failed", "code": found.code, "detail": found.detail}
                for case, found in self._unwritten.items()
            }
            for place, case in enumerate(self._queue, 1 if self._current else 0):
                told[case] = {"state": "waiting", "stage": f"{place} before it", "percent": 0}
            if self._current:
                told[self._current] = {"state": "running", **self._progress()}
            return told

    def _progress(self) -> dict[str, Any]:
        place = list(STAGES).index(self._stage)
        (_, begin), (text, end) = [("", 0), *STAGES.values()][place : place + 2]
        return {"stage": text, "percent": int(begin + (end - begin) * self._share)}

    def stop(self) -> None:
        """End the worker; what it was at will be taken up by the next start."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=10)
        self._end_process()

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or bool(self._queue))
                if self._stopped:
                    return
                case = self._queue.popleft()
                self._current, self._stage, self._share, self._cancelled = case, "start", 0.0, False
            end = self._run_one(case)
            with self._changed:
                self._note(case, end)
                self._current = None
                self._changed.notify_all()

    def _run_one(self, case: str) -> CaseEnd:
        """Have one case worked on."""
        try:
            note, scan = self.cases.note(case), self.cases.scan(case)
            reference = self.cases.reference(case)
            if scan is None:
                return CaseEnd(ENDED, "NO_SCANS", "nothing was uploaded")
            pipe = self._worker()
            pipe.send((case, note["run"], scan, reference, self.cases.masks))
            return self._followed(pipe)
        except (KeyError, ValueError) as reason:
            return CaseEnd(ENDED, LOST, f"the case cannot be started: {reason}")
        except OSError as reason:  # the pipe of a worker that has gone
            return self._gone(reason)
        except Exception as reason:  # the queue goes on, whatever it was
            return CaseEnd(ENDED, LOST, f"{type(reason).__name__}: {reason}")

    def _followed(self, pipe: Connection) -> CaseEnd:
        while not self._stopped:
            if self._cancelled:
                self._end_process()
                return CaseEnd(CANCELLED)
            if pipe.poll(0.2):
                try:
                    told = pipe.recv()
                except EOFError as reason:
                    return self._gone(reason)
                if isinstance(told, CaseEnd):
                    return told
                if told[0] in STAGES:
                    self._stage, self._share = told
        return CaseEnd(STARTED)

    def _gone(self, reason: Exception) -> CaseEnd:
        code = None
        if self._process is not None:
            self._process.join(timeout=5)
            code = self._process.exitcode
        self._end_process()
        why = f"signal {-code}, often too little memory" if code is not None and code < 0 else f"code {code}, {reason}"
        return CaseEnd(ENDED, LOST, f"the process that segments has ended ({why}); try the case again")

    def _worker(self) -> Connection:
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=work_through, args=(theirs,), daemon=True, name="liver-pipeline-worker"
            )
            self._process.start()
            theirs.close()
        assert self._pipe is not None
        return self._pipe

    def _end_process(self) -> None:
        """End the worker, and remove what it had half written."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(timeout=10)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        with self.cases.results:
            remove_temporary(self.cases.masks)

    def _note(self, case: str, end: CaseEnd) -> None:
        try:
            if end.state == CANCELLED:
                self.cases.remove_results(case)
            if end.code:
                with contextlib.closing(Ledger(self.cases.masks / LEDGER)) as ledger:
                    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                    row = {"case": case, "event": "failed", "code": end.code, "detail": end.detail, "time": now}
                    ledger.append(row)
            self.cases.amend(case, state=end.state)
        except NoSuchCase:  # deleted meanwhile
            pass
        except (OSError, ValueError) as reason:  # such as a full disk: the next start takes the case up again
            self._unwritten[case] = finding_of(reason, writing=True)


def work_through(pipe: Connection) -> None:
    """Segment what comes through the pipe until it closes: the worker's main. Prints nothing: logs would name scans."""
    with Path(os.devnull).open("w") as nowhere:
        for printed in (1, 2):  # whoever prints: pydicom's warnings quote tags
            os.dup2(nowhere.fileno(), printed)
    segmenters: dict[str, Any] = {}
    while True:
        try:
            case, run, scan, reference, masks = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            _segment(pipe, segmenters, case, run, scan, reference, masks)
            pipe.send(CaseEnd(ENDED))
        except Exception as reason:
            found = finding_of(reason)
            pipe.send(CaseEnd(ENDED, found.code, found.detail))


def _segment(
    pipe: Connection, segmenters: dict[str, Any], case: str, run: str, scan: Path, reference: Path | None, masks: Path
) -> None:
    """Run one case as a folder run of one, then judge it and draw its page."""
    from monai.data import Dataset

    from liver_pipeline.app.judging import score_and_draw
    from liver_pipeline.dicom_results.results import DicomResults
    from liver_pipeline.dicom_results.source import is_series
    from liver_pipeline.io.discovery import DICOM_ENDINGS
    from liver_pipeline.prediction.case_runner import CaseRunner
    from liver_pipeline.prediction.folder_run import FolderRun
    from liver_pipeline.prediction.segmenter import load_segmenter

    if run not in segmenters:
        pipe.send(("load", 0.0))
        segmenters.clear()  # one network at a time
        segmenters[run] = load_segmenter(run)
    runner = segmenters[run].runner
    items = [{"image": str(scan), "case": case, "root": str(scan.parent)}]
    done = FolderRun(
        dataset=Dataset(items), output_dir=masks, runner=cast(CaseRunner, _Told(runner, pipe)), retry_failed=True,
        describe=True, dicom=DicomResults(tuple(DICOM_ENDINGS) if is_series(scan) else ()), progress=False,
    ).run()  # fmt: skip
    if done.failed:
        return
    pipe.send(("page", 0.0))
    score_and_draw(masks / f"{case}.nii.gz", scan, reference, runner.reader)


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
