"""The steps of one case of a folder run, from its scan to its row in the ledger."""

from __future__ import annotations

import contextlib
import logging
import socket
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.clocks import Beginning, now
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import remove
from liver_pipeline.io.formats import hash_input
from liver_pipeline.io.outputs import refuse_full_disk
from liver_pipeline.io.paths import is_there
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.case_files import write_case, write_case_description, write_case_page
from liver_pipeline.prediction.case_results import write_case_results
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.pipeline import MemoryBudget, Turns
from liver_pipeline.prediction.plan import predicted_bytes
from liver_pipeline.prediction.resume import EarlierRuns, set_aside

logger = logging.getLogger(__name__)

HOST = socket.gethostname()


class CaseSteps:
    """``prepare``, ``infer`` and ``finish`` bring one case to its end, whoever hands out the cases; nothing is raised.

    The steps of different cases may run side by side in threads, but for ``infer``.

    Args:
        runner: From scan to mask; loaded.
        output_dir: Of the masks.
        earlier: What the ledger says of a case; rows go to its ledger.
        memory: For the cases in flight.
        describe: Also write the clinical table.
        dicom: Which DICOM results to write beside each mask.
        view: Also write the page to look at.

    Attributes:
        failures: Cases that failed now.
        stale: Masks of earlier runs that were set aside.
        broken: Why no further case should be begun: nothing can be written, or the device failed; "" until then.
    """

    def __init__(
        self,
        runner: CaseRunner,
        output_dir: Path,
        earlier: EarlierRuns,
        memory: MemoryBudget,
        *,
        describe: bool,
        dicom: DicomResults,
        view: bool,
    ) -> None:
        self.runner = runner
        self.output_dir = output_dir
        self.earlier = earlier
        self.memory = memory
        self.describe, self.view = describe, view
        self.dicom = dicom
        self.failures = 0
        self.stale = 0
        self.broken = ""
        self._turns = Turns()
        self._lock = Lock()
        self._running: dict[str, Beginning] = {}

    def running(self) -> list[dict[str, Any]]:
        """Return the cases in flight, for the ledger's lock file: name, host, for how long."""
        with self._lock:
            return [{"case": name, "host": HOST, "seconds": begun.seconds} for name, begun in self._running.items()]

    def prepare(self, numbered: tuple[int, FolderCase]) -> FolderCase:
        """Read and preprocess one case (in a read-ahead thread), unless an earlier run settled it.

        Args:
            numbered: Number of the case, from 0 in the order in which cases are read, and the case.
        """
        number, case = numbered
        try:
            case.started = Beginning()
            with self._lock:
                self._running[case.name] = case.started
            with self._turns.of(number):
                if self.earlier.settles(case):
                    return case
                self.earlier.guard_output(case)
                needed = predicted_bytes(case, probabilities=self.runner.probabilities or self.runner.shown)
                case.reserved = self.memory.reserve(needed)
            self.runner.prepare(case)
        except Exception as reason:
            self._fail(case, reason)
        if case.scan is not None:
            case.input_sha256 = case.scan.sha256
        return case

    def infer(self, case: FolderCase) -> None:
        """Run the network on a case, unless it has come to its end."""
        if case.failure or case.before:
            return
        try:
            assert case.scan is not None, "prepare comes first"
            refuse_full_disk(case.output, case.scan.array.size)
            self.runner.infer(case)
        except Exception as reason:
            self._fail(case, reason)

    def finish(self, case: FolderCase) -> None:
        """Clean and write one mask (in a write-behind thread), then its provenance and its row."""
        try:
            if not (case.failure or case.before):
                self.runner.clean(case)
                self._write(case)
        except Exception as reason:
            self._fail(case, reason, writing=True)
            with contextlib.suppress(OSError):
                if not case.output.exists():
                    remove(case.provenance)
        if case.failure is None:
            self._write_results(case)
            self._write_beside(case)
        self._settle(case)

    def _write(self, case: FolderCase) -> None:
        if not self.runner.probabilities and is_there(case.probabilities):  # of an older mask
            remove(case.probabilities)  # ours, or overwrite: see EarlierRuns.guard_output
        self.earlier.remove_results(case)
        announce = partial(self._record, case, "writing")  # the ledger knows a file before it is there
        sha256 = write_case(case, self.runner, overwrite=True, announce=announce)
        more: dict[str, Any] = {"intervals": case.intervals}
        more |= {} if case.quality is None else {"quality": case.quality}
        more |= {"accepted": list(case.accepted)} if case.accepted else {}
        self._record(case, "done", output_sha256=sha256, probabilities_sha256=case.probabilities_sha256, **more)

    def _write_results(self, case: FolderCase) -> None:
        """Write the DICOM results of a mask that is done; it stays done where they cannot be written."""
        if not self.dicom.kinds:
            return
        with case.stages("dicom"):
            write_case_results(self.dicom, case, self.earlier, self.runner.reader)
        if case.refusal is not None:
            logger.warning("%s: no DICOM results: %s: %s", case.path, case.refusal.code, case.refusal.detail)

    def _write_beside(self, case: FolderCase) -> None:
        """Write table and page of a mask that is done, unless they are there; it stays done where they cannot be."""
        asked = (
            (self.describe, case.description, write_case_description),
            (self.view, case.page, write_case_page),
        )
        for path, write in ((path, write) for wanted, path, write in asked if wanted):
            try:
                if not self.earlier.has_made(path, file_sha256(case.output)):
                    write(case, self.runner.reader)
                    case.added |= bool(case.before) and is_there(path)  # of a picture nothing is written
            except Exception as reason:
                logger.debug("%s has no %s", case.name, path.name, exc_info=reason)
                refusal = finding_of(reason, writing=True)
                logger.warning("%s: no %s: %s: %s", case.path, path.name, refusal.code, refusal.detail)
                case.refusal = case.refusal or refusal

    def _fail(self, case: FolderCase, reason: BaseException, *, writing: bool = False) -> None:
        case.failure = finding_of(reason, writing=writing)
        with self._lock:
            self.failures += 1
        logger.debug("%s failed", case.name, exc_info=reason)
        if case.input_sha256 is None:
            case.input_sha256 = hash_input(case.path, case.series)

    def _settle(self, case: FolderCase) -> None:
        """Record a failure, and let go of what the case holds."""
        if case.failure is not None and case.before != "failed":
            case.before = ""
            logger.warning("%s: %s: %s", case.path, case.failure.code, case.failure.detail)
            self._record_failure(case)
        case.data, case.scan, case.pred, case.label_map, case.levels = {}, None, None, None, None
        self.memory.release(case.reserved)
        with self._lock:
            self._running.pop(case.name, None)

    def _record_failure(self, case: FolderCase) -> None:
        assert case.failure is not None
        try:
            self._record(case, "failed", code=case.failure.code, detail=case.failure.detail)
            self.stale += set_aside(case, self.earlier.ledger.written.get(case.name, set()))
        except OSError as reason:
            self.broken = f"{self.output_dir} cannot be written ({reason})"

    def _record(self, case: FolderCase, event: str, **more: Any) -> None:
        self.earlier.ledger.append(
            {
                "case": case.name,
                "event": event,
                **({} if case.series is None else {"series": case.series}),
                "run": self.runner.run_name,
                "input_sha256": case.input_sha256,
                "config_sha256": self.runner.config_sha256,
                "weights_sha256": self.runner.weights_sha256,
                **more,
                "host": HOST,
                "time": now(),
            }
        )
