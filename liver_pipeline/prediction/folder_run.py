"""Folder runs that lose nothing: one model load, every input ends done, failed with a code, or skipped."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import yaml
from monai.data import Dataset

from liver_pipeline.evaluation.description import describe_files
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import content_sha256, plain, remove_temporary, write_json
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import Ledger, read_ledger
from liver_pipeline.io.limits import available_bytes
from liver_pipeline.io.probabilities import write_probabilities
from liver_pipeline.io.volumes import read_scan, write_label_map
from liver_pipeline.networks.weights import load_networks
from liver_pipeline.prediction.case import Case, as_label_map, describe_case, without_voxels
from liver_pipeline.prediction.pipeline import Bar, MemoryBudget, one_ahead
from liver_pipeline.prediction.plan import find_scans, plan_cases, plan_lines, predicted_bytes, refuse_collisions
from liver_pipeline.prediction.provenance import machine, settings_of, versions
from liver_pipeline.prediction.resume import EarlierRuns, hash_input

__all__ = ["FolderRun", "Summary", "find_scans"]

logger = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"
EXIT_DONE, EXIT_SOME_FAILED, EXIT_NONE_DONE, EXIT_BAD_USAGE = 0, 3, 4, 2
# Keys of inference.yaml that say where and how to run, not what the masks are.
RUN_KEYS = {
    "dataset_dir",
    "output_dir",
    "bundle_root",
    "device",
    "overwrite",
    "retry_failed",
    "dry_run",
    "max_failures",
    "probabilities",  # a row says whether it has them
}
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
    that is done but lacks them is run again.

    Args:
        dataset: A MONAI Dataset whose data is from :func:`find_scans` and whose transform is the preprocessing: takes
            ``{"image": Scan}``, gives ``{"image": MetaTensor (C, X', Y', Z')}``.
        output_dir: Masks ``<case>.nii.gz`` go here; the tree of the input is mirrored.
        inferer: Called as ``inferer(inputs, network)`` with inputs (1, C, X', Y', Z'); gives labels (1, 1, X, Y, Z) on
            the scan's grid. A dict under ``inference`` in the meta of its result goes into the provenance.
        network: Put on ``device`` and set to eval mode; a ``ModuleList`` is an ensemble.
        postprocessing: Takes ``{"pred": MetaTensor (1, X, Y, Z), "image": ...}``, gives "pred" and maybe "effects".
        device: Where the network runs.
        ckpt_path: Weights (see :func:`load_weights`), of an ensemble one file for each member;
            ``None`` keeps those the network has.
        other_networks: Name to ``{"network", "ckpt_path"}`` of networks that the inferer runs besides; they are loaded
            and placed as ``network`` is.
        modality: "ct" or "mr"; which values are plausible.
        bundle_root: Its ``configs/inference.yaml`` is part of what identifies the config.
        retry_failed: Run failed cases again although nothing has changed.
        dry_run: Only print cases, outputs, collisions and predicted memory.
        max_failures: Stop after so many failures.
        overwrite: Replace masks that are in ``output_dir`` and that this folder's ledger does not know.
        describe: Also write ``<case>.description.json``, the clinical table of
            :func:`liver_pipeline.evaluation.description.describe_files`.
        progress: Show a bar on a terminal.
        accept: Intake codes to take as warnings.
        repair: Intake codes to repair, such as "SHEAR"; see :func:`liver_pipeline.io.volumes.read_scan`.
        memory_limit_gb: Budget for cases in flight; default 0.7 of the free memory.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        output_dir: str | Path,
        inferer: Callable[[torch.Tensor, torch.nn.Module], torch.Tensor],
        network: torch.nn.Module,
        postprocessing: Callable[[Any], Mapping[Any, Any]] | None = None,
        device: str | torch.device = "cpu",
        ckpt_path: str | Path | Sequence[str | Path] | None = None,
        other_networks: Mapping[str, Mapping[str, Any]] | None = None,
        modality: str = "ct",
        bundle_root: str | Path | None = None,
        retry_failed: bool = False,
        dry_run: bool = False,
        max_failures: int | None = None,
        overwrite: bool = False,
        describe: bool = False,
        progress: bool = True,
        accept: Sequence[str] = (),
        repair: Sequence[str] = (),
        memory_limit_gb: float | None = None,
    ) -> None:
        if max_failures is not None and max_failures < 1:
            raise ValueError(f"max_failures is {max_failures}; expected at least 1, or null")
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.inferer = inferer
        self.network = network
        self.postprocessing = postprocessing
        self.device = torch.device(device)
        self.ckpt_path = ckpt_path
        self.other_networks = dict(other_networks or {})
        self.modality = modality
        self.bundle_root = None if bundle_root is None else Path(bundle_root)
        self.retry_failed, self.overwrite, self.dry_run = retry_failed, overwrite, dry_run
        self.max_failures = max_failures
        self.describe = describe
        self.probabilities = bool(getattr(inferer, "probabilities", False))
        self.progress = progress
        self.accept, self.repair = tuple(accept), tuple(repair)
        self.settings = self._settings()
        self.config_sha256 = content_sha256(self.settings)
        limit = available_bytes() * MEMORY_SHARE if memory_limit_gb is None else memory_limit_gb * 1e9
        self._memory = MemoryBudget(int(limit))
        self._tally = {"done": 0, "failed": 0, "before": 0}
        self._lock = Lock()
        self._lost: OSError | None = None  # what made the ledger unwritable

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
            self._weights = load_networks(self.network, self.ckpt_path, self.other_networks, self.device)
            self.weights_sha256 = content_sha256(self._weights) if self.other_networks else self._weights["sha256"]
            self._earlier = EarlierRuns(
                self._ledger, self.config_sha256, self.weights_sha256,
                retry_failed=self.retry_failed, overwrite=self.overwrite, probabilities=self.probabilities,
            )  # fmt: skip
            self._versions, self._machine = versions(), machine(self.device)
            return self._run(cases)

    def _print_plan(self, cases: Sequence[Case]) -> Summary:
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

    def _settings(self) -> dict[str, Any]:
        """Return all that decides what the masks are, but for input and weights."""
        config: Any = None
        path = None if self.bundle_root is None else self.bundle_root / "configs" / "inference.yaml"
        if path is not None and path.is_file():
            config = yaml.safe_load(path.read_text())
            config = {key: value for key, value in config.items() if key not in RUN_KEYS}
        return {
            "inference_yaml_sha256": None if config is None else content_sha256(plain(config)),
            "modality": self.modality,
            "accept": sorted(self.accept),
            "describe": self.describe,
            "repair": sorted(self.repair),
            "network": settings_of(self.network),
            "preprocessing": settings_of(self.dataset.transform),
            "inferer": settings_of(self.inferer),
            "postprocessing": settings_of(self.postprocessing),
        }

    # --- the run ---

    def _run(self, cases: Sequence[Case]) -> Summary:
        pending: Future[None] | None = None
        reader, writer = ThreadPoolExecutor(1, "read-ahead"), ThreadPoolExecutor(1, "write-behind")
        try:
            with Bar(len(cases), self.progress) as self._bar:
                for case in one_ahead(cases, self._prepare, reader):
                    pred = None if case.failure or case.before else self._infer(case)
                    if pending is not None:
                        pending.result()
                    if pred is None:
                        self._settle(case)
                    pending = None if pred is None else writer.submit(self._finish, case, pred)
                    if self._must_stop():
                        break
                if pending is not None:
                    pending.result()
        finally:
            self._memory.close()
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
        summary = self._summary(len(cases))
        counts = f"{summary.done} done, {summary.failed} failed, {summary.skipped} skipped"
        sys.stdout.write(f"{counts}; {self.output_dir / LEDGER}\n")
        return summary

    def _must_stop(self) -> bool:
        enough = self.max_failures is not None and self._tally["failed"] >= self.max_failures
        return enough or self._lost is not None

    def _summary(self, total: int) -> Summary:
        done, failed, before = self._tally["done"], self._tally["failed"], self._tally["before"]
        skipped = total - done - failed
        if self._lost is not None:
            logger.error("%s cannot be written (%s); the run ended early", self.output_dir / LEDGER, self._lost)
        if failed == 0 and done + before == total:
            code = EXIT_DONE
        else:
            code = EXIT_SOME_FAILED if done + before else EXIT_NONE_DONE
        return Summary(done, failed, skipped, code)

    def _prepare(self, case: Case) -> Case:
        """Read and preprocess one case (in the read-ahead thread), unless an earlier run settled it."""
        try:
            case.started = time.time()
            if self._earlier.settles(case):
                return case
            self._earlier.guard_output(case)
            case.reserved = self._memory.reserve(predicted_bytes(case.one.path, probabilities=self.probabilities))
            with case.stages("read"):
                scan = read_scan(case.one.path, modality=self.modality, accept=self.accept, repair=self.repair)
            case.input_sha256 = scan.sha256
            with case.stages("preprocess"):
                case.data = dict(self.dataset.transform({"image": scan}))
            case.scan = without_voxels(scan)
        except Exception as reason:
            self._fail(case, reason)
        return case

    def _infer(self, case: Case) -> torch.Tensor | None:
        try:
            with case.stages("network"), torch.no_grad():
                pred = self.inferer(case.data["image"].unsqueeze(0), self.network)
            if self.probabilities:  # taken out at once: MetaTensor copies its meta with every operation
                case.levels = pred.meta.pop("probabilities")[0].numpy()  # type: ignore[attr-defined]
            return pred
        except Exception as reason:
            self._fail(case, reason)
            return None

    def _finish(self, case: Case, pred: torch.Tensor) -> None:
        """Clean and write one mask (in the write-behind thread), then its provenance and its row."""
        try:
            assert case.scan is not None
            with case.stages("postprocess"):
                cleaned: Mapping[Any, Any] = {"pred": pred[0], "image": case.data["image"]}
                if self.postprocessing is not None:
                    cleaned = self.postprocessing(dict(cleaned))
                label_map = as_label_map(cleaned["pred"])
            effects = cleaned.get("effects", {})

            def announce(sha256: str) -> None:
                """Make ledger and provenance know the mask before it is there."""
                self._record(case, "writing", output_sha256=sha256)
                record = describe_case(case, label_map, sha256, pred, effects)
                write_json(case.provenance, plain({**record, **self._common()}))

            with case.stages("write"):
                case.output.parent.mkdir(parents=True, exist_ok=True)
                self._write_probabilities(case)
                sha256 = write_label_map(case.output, label_map, case.scan, overwrite=True, announce=announce)
            if self.describe:
                with case.stages("describe"):
                    self._describe(case)
            self._record(case, "done", output_sha256=sha256, probabilities_sha256=case.probabilities_sha256)
        except Exception as reason:
            self._fail(case, reason, writing=True)
            with contextlib.suppress(OSError):
                if not case.output.exists():
                    case.provenance.unlink(missing_ok=True)
        self._settle(case)

    def _write_probabilities(self, case: Case) -> None:
        """Write the probabilities, which the ledger knows before they are there; or remove those of an older mask."""
        assert case.scan is not None
        if case.levels is None:
            case.probabilities.unlink(missing_ok=True)  # ours, or overwrite: see EarlierRuns.guard_output
            return

        def announce(sha256: str) -> None:
            self._record(case, "writing", probabilities_sha256=sha256)

        case.probabilities_sha256 = write_probabilities(case.probabilities, case.levels, case.scan, announce)
        case.classes, case.levels = case.levels.shape[-1], None

    def _describe(self, case: Case) -> None:
        """Write the clinical table."""
        confidence = case.probabilities if case.classes > 1 else None  # of tumor; one class is liver
        table = describe_files(case.output, case.one.path, confidence=confidence, modality=self.modality)
        write_json(case.description, plain(table))

    def _common(self) -> dict[str, Any]:
        """Return the part of the provenance that all cases share."""
        return {
            "weights": self._weights,
            "config": {"sha256": self.config_sha256, "settings": self.settings},
            "versions": self._versions,
            "machine": self._machine,
        }

    def _fail(self, case: Case, reason: BaseException, *, writing: bool = False) -> None:
        case.failure = finding_of(reason, writing=writing)
        logger.debug("%s failed", case.one.case, exc_info=reason)
        if case.input_sha256 is None:
            case.input_sha256 = hash_input(case)

    def _settle(self, case: Case) -> None:
        """Count a case that has come to its end, and record a failure."""
        if case.failure is not None and not case.before:
            logger.warning("%s: %s: %s", case.one.path, case.failure.code, case.failure.detail)
            self._record_failure(case)
        kind = "failed" if case.failure is not None else "before" if case.before else "done"
        with self._lock:
            self._tally[kind] += 1
        case.data, case.scan, case.levels = {}, None, None
        self._memory.release(case.reserved)
        self._bar.update(case.stages.seconds, self._tally["done"], self._tally["failed"])

    def _record_failure(self, case: Case) -> None:
        assert case.failure is not None
        try:
            self._record(case, "failed", code=case.failure.code, detail=case.failure.detail)
        except OSError as reason:
            self._lost = reason

    def _record(self, case: Case, event: str, **more: Any) -> None:
        self._ledger.append(
            {
                "case": case.one.case,
                "event": event,
                "input_sha256": case.input_sha256,
                "config_sha256": self.config_sha256,
                "weights_sha256": self.weights_sha256,
                **more,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
        )
