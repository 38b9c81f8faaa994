"""Folder runs that lose nothing: one model load, every input ends done, failed with a code, or skipped."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from monai.data import Dataset

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.exits import EXIT_BAD_USAGE, EXIT_DONE
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.file_names import FORMATS
from liver_pipeline.io.files import remove_temporary
from liver_pipeline.io.findings import Finding, IntakeError
from liver_pipeline.io.ledger import LEDGER, Ledger, Rows, read_ledger
from liver_pipeline.io.limits import available_bytes, cores
from liver_pipeline.io.screen import say
from liver_pipeline.io.shards import Shard
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.case_steps import CaseSteps
from liver_pipeline.prediction.pipeline import Bar, MemoryBudget, ahead
from liver_pipeline.prediction.plan import plan_cases, plan_lines, refuse_collisions, refuse_other_formats
from liver_pipeline.prediction.resume import EarlierRuns
from liver_pipeline.prediction.summary import Summary, say_end, summary_of

logger = logging.getLogger(__name__)

FREE_MEMORY_SHARE = 0.7  # of what is free at the start, for cases that are read ahead or written behind


class FolderRun:
    """Segment every scan of a folder with one network; the ``evaluator`` of ``inference.yaml``.

    The network loads once. While it works on one case, a thread reads the next and another one writes the last, within
    a memory budget. A case that fails gets a code and does not stop the others. Each mask appears by a rename, with its
    provenance in a JSON file beside it, and then its row in ``ledger.jsonl``, which is synced to disk: after a kill at
    any point the same command continues. A row holds as long as the hashes of input, config and weights are the same.
    Where the inferer keeps probabilities they go into ``<case>.probabilities.nii.gz``, before the mask appears; a case
    that is done but lacks them is run again. Masks that the runner judges are listed in ``quality.csv``, flagged ones
    first; one that was done without is not run again for it. The mask of an earlier run whose case now fails becomes
    ``<case>.stale`` with its suffix. A failure of the device itself ends the run: nothing that follows would say more.

    Args:
        dataset: Its ``data`` is from :func:`~liver_pipeline.prediction.plan.find_scans`.
        output_dir: Masks ``<case>.nii.gz`` go here; the tree of the input is mirrored.
        runner: From scan to mask.
        retry_failed: Run failed cases again although nothing has changed.
        dry_run: Only print cases, outputs, collisions and predicted memory.
        max_failures: Stop after so many failures.
        overwrite: Replace masks that are in ``output_dir`` and that this folder's ledger does not know.
        format: Of the masks: nifti, nrrd or mha; a folder holds one.
        describe: Also write ``<case>.description.json``, the clinical table of
            :func:`liver_pipeline.evaluation.description.describe`; for masks that are done, this alone. All of them
            have a row in ``livers.csv``.
        dicom: Which DICOM results to write beside each mask; for masks that are done, these alone. A scan that they
            cannot refer to gets its mask all the same, and the run ends with exit code 3.
        view: Also write ``<case>.html``, the page of :func:`liver_pipeline.view`; likewise.
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
        format: str = "nifti",
        describe: bool = False,
        dicom: DicomResults | None = None,
        view: bool = False,
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
        self.describe, self.view = describe, view
        if view:
            runner.show_probabilities()
        self.dicom = dicom or DicomResults()
        self.progress = progress
        self.suffix = FORMATS[format]
        limit = available_bytes() * FREE_MEMORY_SHARE if memory_limit_gb is None else memory_limit_gb * 1e9
        self.memory_limit = int(limit)
        # cases that are read, and written, at a time: one thread of each cannot keep up with a GPU
        self.at_once = max(1, min(4, cores() // 4)) if self.runner.device.type == "cuda" else 1
        self._tally = {"done": 0, "failed": 0, "before": 0, "refused": 0, "added": 0}
        self._lock = Lock()

    # --- before the first case ---

    def run(self, shard: str | None = None) -> Summary:
        """Run all cases; return how it ended. Nothing is raised for a case, only for bad usage.

        Args:
            shard: ``I/N``: only the cases of part I of N (see :class:`~liver_pipeline.io.shards.Shard`), while other
                processes, on this machine or others, run the other parts.

        Raises:
            IntakeError: NOT_FOUND, NO_SCANS, DUPLICATE_NAME, OUTPUT_READ_ONLY, DISK_FULL: nothing was run.
            ValueError: If the weights belong to another network, outputs would replace inputs, another run is at it, or
                the folder was begun with another number of shards.
        """
        part = None if shard is None else Shard.of(shard)
        cases = plan_cases(self.dataset.data, self.output_dir, self.suffix)
        if not self.dry_run:
            refuse_collisions(cases)
        cases = [case for case in cases if part is None or part.holds(case.input_path)]
        if self.dry_run:
            return self._print_plan(cases)
        with contextlib.closing(open_ledger(self.output_dir, part)) as ledger:
            refuse_other_formats(cases, ledger.written)
            steps = self.steps(ledger, MemoryBudget(self.memory_limit))
            ledger.report(lambda: {"total": len(cases), **self._tally, "running": steps.running()})
            summary = self._run(cases, steps)
            say_end(summary, steps.stale, ledger.path, judged=self.runner.thresholds is not None)
            return summary

    def steps(self, ledger: Rows, memory: MemoryBudget) -> CaseSteps:
        """Load the network and return the steps of a case, whose rows go to ``ledger``.

        Raises:
            ValueError: If the weights belong to another network.
        """
        self.runner.load()
        earlier = EarlierRuns(
            ledger, self.runner.config_sha256, self.runner.weights_sha256,
            retry_failed=self.retry_failed, overwrite=self.overwrite, probabilities=self.runner.probabilities,
            judged=self.runner.thresholds is not None, accept=self.runner.reader.accept,
        )  # fmt: skip
        return CaseSteps(
            self.runner, self.output_dir, earlier, memory, describe=self.describe, dicom=self.dicom, view=self.view
        )

    def _print_plan(self, cases: Sequence[FolderCase]) -> Summary:
        last, _ = read_ledger(self.output_dir / LEDGER)
        lines, collisions = plan_lines(cases, last, self.memory_limit)
        say("\n".join(lines))
        return Summary(0, 0, len(cases), EXIT_BAD_USAGE if collisions else EXIT_DONE)

    # --- the run ---

    def _run(self, cases: Sequence[FolderCase], steps: CaseSteps) -> Summary:
        pending: deque[Future[None]] = deque()
        reader, writer = (ThreadPoolExecutor(self.at_once, name) for name in ("read-ahead", "write-behind"))
        try:
            with Bar(len(cases), self.progress) as self._bar:
                for case in ahead(enumerate(cases), steps.prepare, reader, self.at_once):
                    steps.infer(case)
                    failed = case.failure
                    while len(pending) >= self.at_once or (pending and self.max_failures is not None):
                        pending.popleft().result()
                    pending.append(writer.submit(self._end, case, steps))
                    if self._must_stop(failed, steps):
                        break
                while pending:
                    pending.popleft().result()
        finally:
            steps.memory.close()
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
        if steps.broken:
            logger.error("%s; the run ended early: mend it and run the same command again", steps.broken)
        return summary_of(len(cases), **self._tally)

    def _end(self, case: FolderCase, steps: CaseSteps) -> None:
        """Finish a case and count it."""
        steps.finish(case)
        kind = "failed" if case.failure is not None else "before" if case.before else "done"
        with self._lock:
            self._tally[kind] += 1
            self._tally["refused"] += case.refusal is not None
            self._tally["added"] += case.added
            self._bar.update(case.stages.seconds, self._tally["done"], self._tally["failed"])

    def _must_stop(self, failure: Finding | None, steps: CaseSteps) -> bool:
        if failure is not None and failure.code == "DEVICE_FAILED":
            steps.broken = failure.detail
        return bool(steps.broken) or (self.max_failures is not None and steps.failures >= self.max_failures)


def open_ledger(output_dir: Path, shard: Shard | None = None) -> Ledger:
    """Make an output folder and open its ledger; a whole run removes what killed ones left half written.

    Raises:
        IntakeError: OUTPUT_READ_ONLY, DISK_FULL.
        ValueError: If it is a file; see also :class:`~liver_pipeline.io.ledger.Ledger`.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file; name a folder for the masks")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(output_dir / LEDGER, shard)
        if shard is None:  # the lock is ours alone
            remove_temporary(output_dir)
    except OSError as reason:
        raise IntakeError(output_dir, [finding_of(reason, writing=True)]) from reason
    return ledger
