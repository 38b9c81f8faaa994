"""The thread that looks after the process that segments: queue, cancelling, crashes that are rows."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from multiprocessing.connection import Connection
from threading import Condition, Thread
from typing import Any

from liver_pipeline.app.cases import CANCELLED, ENDED, LOST, STARTED, CaseFolder, NoSuchCase
from liver_pipeline.app.runs import Model
from liver_pipeline.app.studies import split_study
from liver_pipeline.app.uploads import Refusal
from liver_pipeline.app.worker import STAGES, CaseEnd, work_through
from liver_pipeline.io.clocks import now
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import remove_temporary
from liver_pipeline.io.findings import Finding
from liver_pipeline.io.ledger import LEDGER, Ledger


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
            end, series = self._split(case, self._run_one(case))
            with self._changed:
                if series and self._cancelled:
                    end = CaseEnd(CANCELLED)
                for one in series or [case]:
                    self._note(one, end)
                if end.state == STARTED:
                    self._queue.extendleft(reversed(series))
                self._current = None
                self._changed.notify_all()

    def _split(self, case: str, end: CaseEnd) -> tuple[CaseEnd, list[str]]:
        """Make a case of each series of a study, and return them; none of anything else."""
        if not end.volumes or self._cancelled:
            return CaseEnd(CANCELLED) if end.volumes else end, []
        try:
            return CaseEnd(STARTED), [case, *split_study(self.cases, case, end.volumes)]
        except Refusal as reason:
            return CaseEnd(ENDED, reason.code, str(reason)), []
        except NoSuchCase:  # deleted meanwhile
            return end, []
        except OSError as reason:
            found = finding_of(reason, writing=True)
            return CaseEnd(ENDED, found.code, found.detail), []

    def _run_one(self, case: str) -> CaseEnd:
        """Have one case worked on."""
        try:
            note, scan = self.cases.note(case), self.cases.scan(case)
            reference = self.cases.reference(case)
            if scan is None:
                return CaseEnd(ENDED, "NO_SCANS", "nothing was uploaded")
            pipe = self._worker()
            choice = Model(note["run"], note.get("modality"))
            pipe.send((choice, scan, reference, self.cases.masks))
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
                    row = {"case": case, "event": "failed", "code": end.code, "detail": end.detail, "time": now()}
                    ledger.append(row)
            self.cases.amend(case, state=end.state)
        except NoSuchCase:  # deleted meanwhile
            pass
        except (OSError, ValueError) as reason:  # such as a full disk: the next start takes the case up again
            self._unwritten[case] = finding_of(reason, writing=True)
