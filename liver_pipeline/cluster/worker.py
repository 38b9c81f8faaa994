"""A worker of a run on many machines: its own network and memory budget, the steps of a case as everywhere."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cluster.ledger_actor import RemoteLedger
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.files import remove
from liver_pipeline.io.findings import refuse
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.case_steps import CaseSteps
from liver_pipeline.prediction.folder_run import FolderRun
from liver_pipeline.prediction.pipeline import MemoryBudget
from liver_pipeline.prediction.provenance import machine, versions


@dataclass(frozen=True)
class Errand:
    """What every worker of a run is told.

    Attributes:
        run: The run folder.
        values: Overrides of its ``configs/inference.yaml``.
        scans: The searched folder.
        masks: The output folder.
        suffix: Of the masks.
        probe: A file in it, which the driver wrote.
        first: The first scan: it must be seen from everywhere.
        working_dir: Where own classes are found.
    """

    run: Path
    values: dict[str, Any]
    scans: Path
    masks: Path
    suffix: str
    probe: Path
    first: Path
    working_dir: Path


@dataclass(frozen=True)
class End:
    """How a case ended: ``kind`` is done, failed or before; ``refusal`` says what it lacks beside its mask, and why."""

    kind: str
    code: str
    detail: str
    refusal: str
    added: bool
    seconds: dict[str, float]
    stale: int
    broken: str


class Worker:
    """Takes one case after the other; an actor of Ray whose ``segment`` may run in two threads.

    Args:
        errand: The run.
        keeper: Handle of the ledger's actor.
        threads: For PyTorch and OpenVINO.
        share: Of the node's memory.
    """

    def __init__(self, errand: Errand, keeper: Any, threads: int, share: float) -> None:
        logging.getLogger("liver_pipeline").setLevel(logging.ERROR)  # the driver says what failed
        self.errand = errand
        self.ledger = RemoteLedger(keeper)
        self.threads, self.share = threads, share
        self._steps: CaseSteps | None = None
        self._number = self._stale = 0
        self._taking, self._inferring = threading.Lock(), threading.Lock()

    def begin(self) -> dict[str, Any]:
        """Check that this node sees what the driver sees, and load the network.

        Returns:
            Of this worker ``host``, ``versions``, ``machine``, ``config_sha256``, ``weights_sha256``, the name of the
            ``run``, and whether masks are ``judged``.

        Raises:
            IntakeError: NOT_FOUND, OUTPUT_READ_ONLY: a folder is not shared.
            FileNotFoundError: If the run folder or its weights are not here.
            ValueError: If the run cannot be used.
        """
        _check_folders(self.errand)
        sys.path.append(str(self.errand.working_dir))
        torch.set_num_threads(self.threads)
        config = load_config(self.errand.run, "inference", self.errand.values)
        run = ConfigParser(config).get_parsed_content("evaluator")
        assert isinstance(run, FolderRun)
        self._steps = run.steps(self.ledger, MemoryBudget(int(run.memory_limit * self.share)))
        runner = run.runner
        return {
            "host": socket.gethostname(), "versions": versions(), "machine": machine(runner.device),
            "config_sha256": runner.config_sha256, "weights_sha256": runner.weights_sha256, "run": runner.run_name,
            "judged": runner.thresholds is not None,
        }  # fmt: skip

    def segment(self, one: ScanInput) -> End:
        """Bring one case to its end."""
        assert self._steps is not None
        steps = self._steps
        self.ledger.look_up(one.case)
        case = FolderCase.of(one, self.errand.scans, self.errand.masks, self.errand.suffix)
        with self._taking:
            number, self._number = self._number, self._number + 1
        steps.prepare((number, case))
        with self._inferring:
            steps.infer(case)
        steps.finish(case)
        self.ledger.forget([one.case])
        with self._taking:
            stale, self._stale = steps.stale - self._stale, steps.stale
        kind = "failed" if case.failure is not None else "before" if case.before else "done"
        code, detail = (case.failure.code, case.failure.detail) if case.failure is not None else ("", "")
        refusal = "" if case.refusal is None else f"{case.refusal.code}: {case.refusal.detail}"
        return End(kind, code, detail, refusal, case.added, case.stages.seconds, stale, steps.broken)


def _check_folders(errand: Errand) -> None:
    host = socket.gethostname()
    try:
        there = errand.probe.read_text()
    except OSError:
        there = ""
    if there != errand.probe.name:
        detail = f"{host} does not see what the driver wrote there; name a folder that all machines share"
        raise refuse(errand.masks, "NOT_FOUND", detail)
    try:
        beside = errand.probe.with_name(f"{errand.probe.name}.part")  # its ending is that of a temporary file
        beside.write_text("")
        remove(beside)
    except OSError as reason:
        raise refuse(errand.masks, "OUTPUT_READ_ONLY", f"{host} cannot write there ({reason})") from reason
    if not errand.first.exists():
        detail = f"{host} does not see {errand.first.name}; name a folder that all machines share"
        raise refuse(errand.scans, "NOT_FOUND", detail)
