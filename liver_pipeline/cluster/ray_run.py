"""A folder run on a Ray cluster: the driver, which hands out cases, counts their ends and outlives its workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from monai.bundle import ConfigParser
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cluster.crew import IDLE, LOOK, Crew, Member
from liver_pipeline.cluster.ledger_actor import LedgerKeeper, answer
from liver_pipeline.cluster.queue import CaseQueue
from liver_pipeline.cluster.start import ray_cluster
from liver_pipeline.cluster.worker import End, Errand
from liver_pipeline.io.clocks import Beginning, now
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.file_names import FORMATS
from liver_pipeline.io.files import remove, temporary_name
from liver_pipeline.io.formats import hash_input
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.pipeline import Bar
from liver_pipeline.prediction.plan import plan_cases, refuse_collisions, refuse_other_formats
from liver_pipeline.prediction.summary import Summary, say_end, summary_of

logger = logging.getLogger(__name__)

TELL = 5.0  # seconds between two words on how far the run is


def predict_on_ray(
    run: Path, scans: Path, masks: Path, values: Mapping[str, Any], *, address: str, worker_cores: int | None = None
) -> Summary:
    """Segment a folder on the machines of a Ray cluster; see :class:`~liver_pipeline.prediction.folder_run.FolderRun`.

    Args:
        run: The run folder; all nodes see it, the scans and the masks under the same paths.
        scans: The folder of scans.
        masks: The output folder.
        values: Overrides of the run's ``configs/inference.yaml``.
        address: ``host:port``, ``auto`` or ``local``.
        worker_cores: Of a worker where no GPUs are.

    Raises:
        IntakeError: Before anything is run: see :meth:`liver_pipeline.prediction.folder_run.FolderRun.run`; also where
            a folder is not shared.
        FileNotFoundError: If a node does not see the run folder.
        ValueError: If the cluster cannot be used: no Ray, no answer, other versions on a node.
    """
    overrides = {**values, "dataset_dir": str(scans), "output_dir": str(masks)}
    config = load_config(run, "inference", overrides)
    suffix = FORMATS[config.get("format", "nifti")]
    found = list_scans(ConfigParser(config).get_parsed_content("dataset").data, masks, suffix)
    errand = Errand(run.resolve(), overrides, scans, masks, suffix, masks / temporary_name(), found[0].path, Path.cwd())
    with ray_cluster(address):
        keeper = start_keeper(masks)
        on_gpus = not str(values.get("device", "")).startswith("cpu")
        crew = Crew(errand, keeper, use_gpus=on_gpus, worker_cores=worker_cores)
        driver = _Driver(crew, found, config.get("max_failures"))
        try:
            errand.probe.write_text(errand.probe.name)
            crew.begin()
            driver.work()
        finally:
            remove(errand.probe)
            crew.end()
            answer(keeper.close.remote())
    if driver.broken:
        logger.error("%s; the run ended early: mend it and run the same command again", driver.broken)
    summary = summary_of(len(found), **driver.tally)
    say_end(summary, driver.stale, masks / LEDGER, judged=crew.model is not None and crew.model["judged"])
    return summary


def start_keeper(masks: Path) -> Any:
    """Start the actor that holds the ledger of ``masks``, on this machine.

    Raises:
        IntakeError: OUTPUT_READ_ONLY, DISK_FULL.
        ValueError: If another run is at it.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper: Any = ray.remote(LedgerKeeper).options(num_cpus=0, scheduling_strategy=here).remote()
    answer(keeper.open.remote(masks))
    return keeper


def list_scans(items: Iterable[Mapping[str, Any]], masks: Path, suffix: str) -> list[ScanInput]:
    """Return the cases of :func:`liver_pipeline.prediction.plan.find_scans`, largest first.

    Raises:
        IntakeError: NO_SCANS, DUPLICATE_NAME.
        ValueError: If a mask would replace a scan, or the folder holds masks of another format.
    """
    cases = plan_cases(items, masks, suffix)
    refuse_collisions(cases)
    refuse_other_formats(cases, read_ledger(masks / LEDGER)[1])
    found = [ScanInput(case.path, case.name, case.series, case.why, elsewhere=case.elsewhere) for case in cases]
    return sorted(found, key=lambda one: -_size(one.path))


def _size(path: Path) -> int:
    """Return the bytes of a scan on disk: the largest are begun first, so that none is left over at the end."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        return path.stat().st_size
    except OSError:
        return 0


class _Driver:
    """Hands out cases and counts their ends."""

    def __init__(self, crew: Crew, found: list[ScanInput], max_failures: int | None) -> None:
        self.crew = crew
        self.total = len(found)
        self.queue = CaseQueue(found)
        self.max_failures = max_failures
        self.tally = {"done": 0, "failed": 0, "before": 0, "refused": 0, "added": 0}
        self.failures = self.stale = 0
        self.broken = ""

    def work(self) -> None:
        """Bring every case to its end, or stop early."""
        looked = told = busy = time.monotonic()
        with Bar(self.total, shown=True) as self.bar:
            while not self._is_over():
                moment = time.monotonic()
                if moment - looked >= LOOK:
                    looked = moment
                    self._take_deaths()
                    self.crew.recruit()
                if moment - told >= TELL:
                    told = moment
                    self.crew.keeper.tell.remote(self._progress())
                self._hand_out()
                if self.crew.members:
                    busy = moment
                    self._wait()
                elif moment - busy > IDLE:
                    self.broken = f"no worker was left for {IDLE:.0f} s"
                else:
                    time.sleep(LOOK / 10)

    def _is_over(self) -> bool:
        if self.broken or (self.max_failures is not None and self.failures >= self.max_failures):
            return True
        in_flight = any(member.in_flight for member in self.crew.members.values())
        return not (len(self.queue) or in_flight or self.crew.in_doubt())

    def _hand_out(self) -> None:
        for member in self.crew.ready():
            while (one := self.queue.next_for(member.scans())) is not None:
                member.in_flight[member.actor.segment.remote(one)] = one, Beginning()

    def _wait(self) -> None:
        """Wait a moment for a worker that begins, or a case that ends."""
        waiting = [member.beginning for member in self.crew.beginners()]
        waiting += [reference for member in self.crew.ready() for reference in member.in_flight]
        if not waiting:
            time.sleep(LOOK / 10)
            return
        come, _ = ray.wait(waiting, num_returns=1, timeout=LOOK)
        for member in list(self.crew.members.values()):
            if member.about is None and member.beginning in come:
                self.crew.greet(member)
            elif done := [reference for reference in member.in_flight if reference in come]:
                self._take(member, done[0])

    def _take(self, member: Member, reference: Any) -> None:
        """Take the end of a case, or the death of its worker."""
        try:
            end: End = ray.get(reference)
        except RayActorError:
            return self.crew.lost(member)
        except RayTaskError as error:  # the ledger cannot be reached: a case's own error is in its end
            self.broken = str(error.cause)
            return None
        one, _ = member.in_flight.pop(reference)
        if end.kind == "failed":
            logger.warning("%s: %s: %s", one.path, end.code, end.detail)
            self.failures += 1
        if end.refusal:
            logger.warning("%s lacks what was asked for beside its mask: %s", one.path, end.refusal)
            self.tally["refused"] += 1
        self.tally["added"] += end.added
        self.stale += end.stale
        self._count(end.kind, end.seconds)
        self.broken = self.broken or end.broken
        if end.code == "DEVICE_FAILED":
            for other in self.crew.dismiss(member, ban=member.place):
                self.queue.put_back(other)
            if not self.crew.members:
                self.broken = self.broken or end.detail
        return None

    def _take_deaths(self) -> None:
        for one, with_its_node in self.crew.deaths():
            if with_its_node:
                self.queue.put_back(one)
            elif self.queue.worker_died(one):
                self._record_death(one)

    def _record_death(self, one: ScanInput) -> None:
        """Give a case that three workers did not survive its code."""
        model, errand = self.crew.model, self.crew.errand
        assert model is not None
        detail = "three workers died with this case: too little memory, or its reader or network crashes"
        row = {
            "case": one.case, "event": "failed", "run": model["run"], "input_sha256": hash_input(one.path, one.series),
            "config_sha256": model["config_sha256"], "weights_sha256": model["weights_sha256"],
            "code": "WORKER_DIED", "detail": detail, "host": model["host"],
            "time": now(),
        }  # fmt: skip
        logger.warning("%s: WORKER_DIED: %s", one.path, detail)
        case = FolderCase.of(one, errand.scans, errand.masks, errand.suffix)
        self.stale += answer(self.crew.keeper.fail.remote(case, row))
        self.failures += 1
        self._count("failed", {})

    def _count(self, kind: str, seconds: Mapping[str, float]) -> None:
        self.tally[kind] += 1
        self.bar.update(seconds, self.tally["done"], self.tally["failed"])

    def _progress(self) -> dict[str, Any]:
        running = [
            {"case": one.case, "host": (member.about or {}).get("host"), "seconds": begun.seconds}
            for member in self.crew.ready()
            for one, begun in member.in_flight.values()
        ]
        return {"total": self.total, **self.tally, "workers": len(self.crew.ready()), "running": running}
