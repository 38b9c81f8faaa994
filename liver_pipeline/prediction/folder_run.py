"""Folder runs that lose nothing: one model load, every input ends done, failed with a code, or skipped."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from monai.data import Dataset

from liver_pipeline.evaluation.description import describe
from liver_pipeline.evaluation.quality import QUALITY_TABLE, quality_table
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import is_there, plain, remove_temporary, write_json
from liver_pipeline.io.findings import Finding, IntakeError
from liver_pipeline.io.ledger import LEDGER, Ledger, read_ledger
from liver_pipeline.io.limits import available_bytes
from liver_pipeline.io.probabilities import write_probabilities
from liver_pipeline.io.tables import write_table
from liver_pipeline.io.volumes import write_label_map
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.pipeline import Bar, MemoryBudget, Turns, ahead
from liver_pipeline.prediction.plan import plan_cases, plan_lines, predicted_bytes, refuse_collisions
from liver_pipeline.prediction.resume import EarlierRuns, hash_input, set_aside

logger = logging.getLogger(__name__)

EXIT_DONE, EXIT_SOME_FAILED, EXIT_NONE_DONE, EXIT_BAD_USAGE = 0, 3, 4, 2
MEMORY_SHARE = 0.7  # of what is free at the start, for cases that are read ahead or written behind


@dataclass(frozen=True)
class Summary:
    """How a folder run ended: cases done now, failed (now or before), and skipped (done before, or not reached)."""

    done: int
    failed: int
    skipped: int
    exit_code: int

    def exit(self) -> None:
        """End the process with the exit code if it is not 0: for ``run:`` of a bundle config."""
        if self.exit_code:
            sys.exit(self.exit_code)


class FolderRun:
    """Segment every scan of a folder with one network; the ``evaluator`` of ``inference.yaml``.

    The network loads once. While it works on one case, a thread reads the next and another one writes the last, within
    a memory budget. A case that fails gets a code and does not stop the others. Each mask appears by a rename, with its
    provenance in a JSON file beside it, and then its row in ``ledger.jsonl``, which is synced to disk: after a kill at
    any point the same command continues. A row holds as long as the hashes of input, config and weights are the same.
    Where the inferer keeps probabilities they go into ``<case>.probabilities.nii.gz``, before the mask appears; a case
    that is done but lacks them is run again. The mask of an earlier run whose case now fails becomes
    ``<case>.stale.nii.gz``. A failure of the device itself ends the run: nothing that follows would say more.

    Args:
        dataset: Its ``data`` is from :func:`~liver_pipeline.prediction.plan.find_scans`.
        output_dir: Masks ``<case>.nii.gz`` go here; the tree of the input is mirrored.
        runner: From scan to mask.
        retry_failed: Run failed cases again although nothing has changed.
        dry_run: Only print cases, outputs, collisions and predicted memory.
        max_failures: Stop after so many failures.
        overwrite: Replace masks that are in ``output_dir`` and that this folder's ledger does not know.
        describe: Also write ``<case>.description.json``, the clinical table of
            :func:`liver_pipeline.evaluation.description.describe`; for masks that are done, this alone.
        progress: Show a bar on a terminal.
        memory_limit_gb: Budget for cases in flight; default 0.7 of the free memory.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        output_dir: str | Path,
        runner: CaseRunner,
        retry_failed: bool = False,
        dry_run: bool = False,
        max_failures: int | None = None,
        overwrite: bool = False,
        describe: bool = False,
        progress: bool = True,
        memory_limit_gb: float | None = None,
    ) -> None:
        if max_failures is not None and max_failures < 1:
            raise ValueError(f"max_failures is {max_failures}; expected at least 1, or null")
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.runner = runner
        self.retry_failed, self.overwrite, self.dry_run = retry_failed, overwrite, dry_run
        self.max_failures = max_failures
        self.describe = describe
        self.progress = progress
        limit = available_bytes() * MEMORY_SHARE if memory_limit_gb is None else memory_limit_gb * 1e9
        self._memory = MemoryBudget(int(limit))
        # cases that are read, and written, at a time: one thread of each cannot keep up with a GPU
        self.at_once = max(1, min(4, (os.cpu_count() or 1) // 4)) if self.runner.device.type == "cuda" else 1
        self._tally = {"done": 0, "failed": 0, "before": 0}
        self._failures = 0  # of this run
        self._stale = 0
        self._lock = Lock()
        self._broken: str = ""  # what ended the run early

    # --- before the first case ---

    def run(self) -> Summary:
        """Run all cases; return how it ended. Nothing is raised for a case, only for bad usage.

        Raises:
            IntakeError: NOT_FOUND, NO_SCANS, DUPLICATE_NAME, OUTPUT_READ_ONLY, DISK_FULL: nothing was run.
            ValueError: If the weights belong to another network, outputs would replace inputs, or another run is at it.
        """
        cases = plan_cases(self.dataset.data, self.output_dir)
        if self.dry_run:
            return self._print_plan(cases)
        refuse_collisions(cases)
        with contextlib.closing(self._open_ledger()) as self._ledger:
            self.runner.load()
            self._earlier = EarlierRuns(
                self._ledger, self.runner.config_sha256, self.runner.weights_sha256,
                retry_failed=self.retry_failed, overwrite=self.overwrite, probabilities=self.runner.probabilities,
            )  # fmt: skip
            return self._run(cases)

    def _print_plan(self, cases: Sequence[FolderCase]) -> Summary:
        last, _ = read_ledger(self.output_dir / LEDGER)
        lines, collisions = plan_lines(cases, last, self._memory.limit)
        sys.stdout.write("\n".join(lines) + "\n")
        return Summary(0, 0, len(cases), EXIT_BAD_USAGE if collisions else EXIT_DONE)

    def _open_ledger(self) -> Ledger:
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise ValueError(f"{self.output_dir} is a file; name a folder for the masks")
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            ledger = Ledger(self.output_dir / LEDGER)
            remove_temporary(self.output_dir)  # left by a run that was killed; the lock is ours
        except OSError as reason:
            raise IntakeError(self.output_dir, [finding_of(reason, writing=True)]) from reason
        return ledger

    # --- the run ---

    def _run(self, cases: Sequence[FolderCase]) -> Summary:
        self._turns = Turns()
        pending: deque[Future[None]] = deque()
        reader, writer = (ThreadPoolExecutor(self.at_once, name) for name in ("read-ahead", "write-behind"))
        try:
            with Bar(len(cases), self.progress) as self._bar:
                for case in ahead(enumerate(cases), self._prepare, reader, self.at_once):
                    self._infer(case)
                    failed = case.failure
                    while len(pending) >= self.at_once or (pending and self.max_failures is not None):
                        pending.popleft().result()
                    pending.append(writer.submit(self._finish, case))
                    if self._must_stop(failed):
                        break
                while pending:
                    pending.popleft().result()
        finally:
            self._memory.close()
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
        summary = self._summary(len(cases))
        stale = f", {self._stale} earlier masks set aside as *.stale.nii.gz" if self._stale else ""
        flagged = self._write_quality()
        counts = f"{summary.done} done, {summary.failed} failed, {summary.skipped} skipped{stale}"
        sys.stdout.write(f"{counts}; {self.output_dir / LEDGER}\n{flagged}")
        return summary

    def _write_quality(self) -> str:
        """Write the table of all masks that were judged, if there are any; return what is to be said of it."""
        done = (row for row in self._ledger.last.values() if row.get("event") == "done")
        table = quality_table(row for row in done if row.get("quality"))
        if not table:
            return ""
        try:
            write_table(self.output_dir / QUALITY_TABLE, table)
        except OSError as reason:  # the ledger has it all
            logger.warning("%s was not written: %s", self.output_dir / QUALITY_TABLE, reason)
        flagged = sum(row["flagged"] for row in table)
        return f"{flagged} of {len(table)} masks that were judged are flagged; {self.output_dir / QUALITY_TABLE}\n"

    def _must_stop(self, failure: Finding | None) -> bool:
        if failure is not None and failure.code == "DEVICE_FAILED":
            self._broken = failure.detail
        return bool(self._broken) or (self.max_failures is not None and self._failures >= self.max_failures)

    def _summary(self, total: int) -> Summary:
        done, failed, before = self._tally["done"], self._tally["failed"], self._tally["before"]
        skipped = total - done - failed
        if self._broken:
            logger.error("%s; the run ended early: mend it and run the same command again", self._broken)
        if failed == 0 and done + before == total:
            code = EXIT_DONE
        else:
            code = EXIT_SOME_FAILED if done + before else EXIT_NONE_DONE
        return Summary(done, failed, skipped, code)

    def _prepare(self, numbered: tuple[int, FolderCase]) -> FolderCase:
        """Read and preprocess one case (in a read-ahead thread), unless an earlier run settled it."""
        number, case = numbered
        try:
            case.started = time.time()
            with self._turns.of(number):
                if self._earlier.settles(case):
                    return case
                self._earlier.guard_output(case)
                needed = predicted_bytes(case.path, probabilities=self.runner.probabilities)
                case.reserved = self._memory.reserve(needed)
            self.runner.prepare(case)
        except Exception as reason:
            self._fail(case, reason)
        if case.scan is not None:
            case.input_sha256 = case.scan.sha256
        return case

    def _infer(self, case: FolderCase) -> None:
        if case.failure or case.before:
            return
        try:
            self.runner.infer(case)
        except Exception as reason:
            self._fail(case, reason)

    def _finish(self, case: FolderCase) -> None:
        """Clean and write one mask (in a write-behind thread), then its provenance and its row."""
        try:
            if case.before == "done" and self.describe and not is_there(case.description):
                self._describe(case)
            if not (case.failure or case.before):
                self.runner.clean(case)
                self._write(case)
        except Exception as reason:
            self._fail(case, reason, writing=True)
            with contextlib.suppress(OSError):
                if not case.output.exists():
                    case.provenance.unlink(missing_ok=True)
        self._settle(case)

    def _write(self, case: FolderCase) -> None:
        assert case.scan is not None and case.label_map is not None

        def announce(sha256: str) -> None:
            """Make ledger and provenance know the mask before it is there."""
            self._record(case, "writing", output_sha256=sha256)
            write_json(case.provenance, self.runner.record(case, case.output_record(sha256)))

        with case.stages("write"):
            case.output.parent.mkdir(parents=True, exist_ok=True)
            self._write_probabilities(case)
            sha256 = write_label_map(case.output, case.label_map, case.scan, overwrite=True, announce=announce)
        if self.describe:
            self._describe(case)
        more = {} if case.quality is None else {"quality": case.quality}
        self._record(case, "done", output_sha256=sha256, probabilities_sha256=case.probabilities_sha256, **more)

    def _write_probabilities(self, case: FolderCase) -> None:
        """Write the probabilities, which the ledger knows before they are there; or remove those of an older mask."""
        assert case.scan is not None
        if case.levels is None:
            if is_there(case.probabilities):
                case.probabilities.unlink()  # ours, or overwrite: see EarlierRuns.guard_output
            return

        def announce(sha256: str) -> None:
            self._record(case, "writing", probabilities_sha256=sha256)

        case.probabilities_sha256 = write_probabilities(case.probabilities, case.levels, case.scan, announce)
        case.classes, case.levels = case.levels.shape[-1], None

    def _describe(self, case: FolderCase) -> None:
        """Write the clinical table."""
        confidence = case.probabilities if case.classes > 1 else None  # of tumor; one class is liver
        with case.stages("describe"):
            table = describe(case.output, case.path, confidence=confidence, reader=self.runner.reader)
            write_json(case.description, plain(table))

    def _fail(self, case: FolderCase, reason: BaseException, *, writing: bool = False) -> None:
        case.failure = finding_of(reason, writing=writing)
        with self._lock:
            self._failures += 1
        logger.debug("%s failed", case.name, exc_info=reason)
        if case.input_sha256 is None:
            case.input_sha256 = hash_input(case.path)

    def _settle(self, case: FolderCase) -> None:
        """Count a case that has come to its end, and record a failure."""
        if case.failure is not None and case.before != "failed":
            case.before = ""
            logger.warning("%s: %s: %s", case.path, case.failure.code, case.failure.detail)
            self._record_failure(case)
        kind = "failed" if case.failure is not None else "before" if case.before else "done"
        case.data, case.scan, case.pred, case.label_map, case.levels = {}, None, None, None, None
        self._memory.release(case.reserved)
        with self._lock:
            self._tally[kind] += 1
            self._bar.update(case.stages.seconds, self._tally["done"], self._tally["failed"])

    def _record_failure(self, case: FolderCase) -> None:
        assert case.failure is not None
        try:
            self._record(case, "failed", code=case.failure.code, detail=case.failure.detail)
            self._stale += set_aside(case, self._ledger.written.get(case.name, set()))
        except OSError as reason:
            self._broken = f"{self.output_dir} cannot be written ({reason})"

    def _record(self, case: FolderCase, event: str, **more: Any) -> None:
        self._ledger.append(
            {
                "case": case.name,
                "event": event,
                "run": self.runner.run_name,
                "input_sha256": case.input_sha256,
                "config_sha256": self.runner.config_sha256,
                "weights_sha256": self.runner.weights_sha256,
                **more,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
        )
