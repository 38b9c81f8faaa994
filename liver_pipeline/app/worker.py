"""The process that segments, and the thread that looks after it: queue, stages, cancelling, crashes that are rows."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Condition, Thread
from typing import Any, cast

from liver_pipeline.app.cases import CANCELLED, CaseFolder
from liver_pipeline.io.ledger import LEDGER, Ledger

STAGES = {  # and how much is done when one begins, in per cent
    "waiting": 0, "loading the network": 5, "reading": 15, "segmenting": 25, "cleaning and measuring": 75,
    "drawing the page": 85,
}  # fmt: skip
LOST = "PREDICT_FAILED"


class Supervisor:
    """Hands one case after the other to a worker process; starts it anew when it ends or is cancelled.

    Args:
        cases: Where they lie; those that were started and have no end are taken up again.
    """

    def __init__(self, cases: CaseFolder) -> None:
        self.cases = cases
        self._thread = Thread(target=self._work, daemon=True, name="supervisor")
        self._queue = deque(cases.unfinished())
        self._changed = Condition()
        self._current: str | None = None
        self._stage = "waiting"
        self._stopped = self._cancelled = False
        self._process: Any = None
        self._pipe: Connection | None = None

    def submit(self, case: str) -> None:
        """Put a case at the end of the queue."""
        with self._changed:
            self._queue.append(case)
            self._changed.notify_all()

    def cancel(self, case: str) -> bool:
        """Take a case out of the queue, or end its run; return whether it was there."""
        with self._changed:
            if case in self._queue:
                self._queue.remove(case)
                return True
            if case != self._current:
                return False
            self._cancelled = True
            return self._changed.wait_for(lambda: self._current != case, timeout=30)

    def running(self) -> dict[str, dict[str, Any]]:
        """Return state, stage and per cent of every case that waits or runs."""
        with self._changed:
            told = {case: {"state": "waiting", "stage": f"{place} before it", "percent": 0}
                    for place, case in enumerate(self._queue, 1 if self._current else 0)}  # fmt: skip
            if self._current:
                told[self._current] = {"state": "running", "stage": self._stage, "percent": STAGES[self._stage]}
            return told

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
                self._current, self._stage, self._cancelled = self._queue.popleft(), "waiting", False
            failure = self._run_one(self._current)
            if failure is not None and not self._stopped:
                self._record(self._current, failure)
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def _run_one(self, case: str) -> tuple[str, str] | None:
        """Have one case worked on; return code and detail if it failed in a way that the ledger cannot know."""
        try:
            note, scan = self.cases.note(case), self.cases.scan(case)
            reference = self.cases.reference(case)
            if scan is None:
                return "NO_SCANS", "nothing was uploaded"
            pipe = self._worker()
            pipe.send((case, note["run"], scan, reference, self.cases.masks))
            return self._followed(case, pipe)
        except (KeyError, ValueError) as reason:
            return LOST, f"the case cannot be started: {reason}"
        except OSError as reason:  # the pipe of a worker that has gone
            return self._gone(reason)
        except Exception as reason:  # the queue goes on, whatever it was
            return LOST, f"{type(reason).__name__}: {reason}"

    def _followed(self, case: str, pipe: Connection) -> tuple[str, str] | None:
        while not self._stopped:
            if self._cancelled:
                self._end_process()
                self.cases.amend(case, state=CANCELLED)
                return None
            if pipe.poll(0.2):
                try:
                    kind, *told = pipe.recv()
                except EOFError as reason:
                    return self._gone(reason)
                if kind == "end":
                    return None if told[0] is None else (told[0], told[1])
                self._stage = told[0]
        return None

    def _gone(self, reason: Exception) -> tuple[str, str]:
        code = None
        if self._process is not None:
            self._process.join(timeout=5)
            code = self._process.exitcode
        self._end_process()
        why = f"signal {-code}, often too little memory" if code is not None and code < 0 else f"code {code}, {reason}"
        return LOST, f"the process that segments has ended ({why}); try the case again"

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
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(timeout=10)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _record(self, case: str, failure: tuple[str, str]) -> None:
        with contextlib.suppress(ValueError), contextlib.closing(Ledger(self.cases.masks / LEDGER)) as ledger:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            ledger.append({"case": case, "event": "failed", "code": failure[0], "detail": failure[1], "time": now})


def work_through(pipe: Connection) -> None:
    """Segment what comes through the pipe until it closes: the worker's main. Prints nothing: logs would name scans."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    logging.getLogger("liver_pipeline").setLevel(logging.CRITICAL)
    segmenters: dict[str, Any] = {}
    while True:
        try:
            case, run, scan, reference, masks = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            _segment(pipe, segmenters, case, run, scan, reference, masks)
            pipe.send(("end", None))
        except Exception as reason:
            from liver_pipeline.io.failures import finding_of

            found = finding_of(reason)
            pipe.send(("end", found.code, found.detail))


def _segment(
    pipe: Connection, segmenters: dict[str, Any], case: str, run: str, scan: Path, reference: Path | None, masks: Path
) -> None:
    """Run one case as a folder run of one, then judge it and draw its page."""
    from monai.data import Dataset

    from liver_pipeline.app.judging import judge
    from liver_pipeline.prediction.case_runner import CaseRunner
    from liver_pipeline.prediction.folder_run import FolderRun
    from liver_pipeline.prediction.segmenter import load_segmenter

    if run not in segmenters:
        pipe.send(("stage", "loading the network"))
        segmenters.clear()  # one network at a time
        segmenters[run] = load_segmenter(run)
    runner = segmenters[run].runner
    told = cast(CaseRunner, _Told(runner, pipe))
    items = [{"image": str(scan), "case": case, "root": str(scan.parent)}]
    done = FolderRun(
        dataset=Dataset(items), output_dir=masks, runner=told, retry_failed=True, describe=True, progress=False
    ).run()
    if done.failed:
        return
    pipe.send(("stage", "drawing the page"))
    judge(masks / f"{case}.nii.gz", scan, reference, runner.reader)


class _Told:
    """A runner that says which step it is at."""

    def __init__(self, runner: Any, pipe: Connection) -> None:
        self._runner, self._pipe = runner, pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def prepare(self, case: Any) -> None:
        self._pipe.send(("stage", "reading"))
        self._runner.prepare(case)

    def infer(self, case: Any) -> None:
        self._pipe.send(("stage", "segmenting"))
        self._runner.infer(case)

    def clean(self, case: Any) -> None:
        self._pipe.send(("stage", "cleaning and measuring"))
        self._runner.clean(case)
