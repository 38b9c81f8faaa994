"""A folder run on a Ray cluster: the driver, which hands out cases, counts their ends and outlives its workers."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from monai.bundle import ConfigParser
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cluster.ledger_actor import LedgerKeeper, answer
from liver_pipeline.cluster.queue import CaseQueue
from liver_pipeline.cluster.start import Place, places, ray_cluster
from liver_pipeline.cluster.worker import End, Errand, Worker
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.files import temporary_name
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.masks import FORMATS
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.folder_run import Summary, summary_line, summary_of
from liver_pipeline.prediction.pipeline import Bar
from liver_pipeline.prediction.plan import plan_cases, refuse_collisions, refuse_other_formats
from liver_pipeline.prediction.provenance import versions
from liver_pipeline.prediction.resume import hash_input

logger = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at the cluster
DOUBT = 3.0  # seconds after a worker's death in which its node may turn out to be dead
GRACE = 60.0  # seconds that workers have to begin once the first has
IDLE = 300.0  # seconds without any worker after which a run ends


@dataclass
class _Crew:
    """A worker at its place; ``about`` is None until it has begun."""

    place: Place
    actor: Any
    beginning: Any
    about: dict[str, Any] | None = None
    jobs: dict[Any, tuple[ScanInput, float]] = field(default_factory=dict)  # reference -> case, when it was begun


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
        IntakeError: Before anything is run: see :meth:`FolderRun.run`; also where a folder is not shared.
        FileNotFoundError: If a node does not see the run folder.
        ValueError: If the cluster cannot be used: no Ray, no answer, other versions on a node.
    """
    overrides = {**values, "dataset_dir": str(scans), "output_dir": str(masks)}
    config = load_config(run, "inference", overrides)
    suffix = FORMATS[config.get("format", "nifti")]
    found = list_scans(ConfigParser(config).get_parsed_content("dataset").data, masks, suffix)
    with ray_cluster(address):
        return _Driver(run, scans, masks, overrides, config, found, worker_cores).run()


def list_scans(items: Iterable[Mapping[str, Any]], masks: Path, suffix: str) -> list[ScanInput]:
    """Return the cases of :func:`liver_pipeline.prediction.plan.find_scans`, largest first.

    Raises:
        IntakeError: NO_SCANS, DUPLICATE_NAME.
        ValueError: If a mask would replace a scan, or the folder holds masks of another format.
    """
    cases = plan_cases(items, masks, suffix)
    refuse_collisions(cases)
    refuse_other_formats(cases, read_ledger(masks / LEDGER)[1])
    found = [ScanInput(case.path, case.name, case.series, case.why) for case in cases]
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
    def __init__(
        self,
        run: Path,
        scans: Path,
        masks: Path,
        values: dict[str, Any],
        config: Mapping[str, Any],
        found: list[ScanInput],
        worker_cores: int | None,
    ) -> None:
        probe = masks / temporary_name()
        self.errand = Errand(run.resolve(), values, scans, masks, probe, found[0].path, Path.cwd())
        self.max_failures = config.get("max_failures")
        self.progress = True
        self.suffix = FORMATS[config.get("format", "nifti")]
        self.use_gpus = not str(values.get("device", "cuda")).startswith("cpu")
        self.worker_cores = worker_cores
        self.total = len(found)
        self.queue = CaseQueue(found)
        self.tally = {"done": 0, "failed": 0, "before": 0}
        self.failures = self.stale = 0
        self.broken = ""
        self.crews: dict[Place, _Crew] = {}
        self.doubtful: list[tuple[float, Place, list[ScanInput]]] = []  # workers that died, and what they had
        self.banned: set[str] = set()  # nodes and places that are not used again
        self.model: dict[str, Any] | None = None  # what the first worker said of itself
        self.other_hardware = False

    def run(self) -> Summary:
        """Run all cases."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
        self.keeper: Any = ray.remote(LedgerKeeper).options(**options).remote()
        answer(self.keeper.open.remote(self.errand.masks))
        try:
            self.errand.probe.write_text(self.errand.probe.name)
            with Bar(self.total, self.progress) as self.bar:
                self._begin()
                self._work()
        finally:
            self.errand.probe.unlink(missing_ok=True)
            for crew in self.crews.values():
                ray.kill(crew.actor)
            answer(self.keeper.close.remote())
        if self.broken:
            logger.error("%s; the run ended early: mend it and run the same command again", self.broken)
        summary = summary_of(self.total, **self.tally)
        sys.stdout.write(summary_line(summary, self.stale, self.errand.masks / LEDGER))
        return summary

    # --- workers ---

    def _begin(self) -> None:
        """Start the workers; whatever is wrong with one of them is said before the first case."""
        self._staff()
        if not self.crews:
            raise ValueError("the Ray cluster has no core and no GPU for a worker")
        end = time.monotonic() + IDLE
        while any(crew.about is None for crew in self.crews.values()):
            waited, _ = ray.wait([crew.beginning for crew in self._beginners()], timeout=LOOK)
            for crew in [crew for crew in self._beginners() if crew.beginning in waited]:
                self._greet(crew, refuse=True)
                end = min(end, time.monotonic() + GRACE)
            if time.monotonic() > end:
                break  # others wait for cores that somebody else has; they join when they get them
        if self.model is None:
            raise ValueError(f"no worker began in {IDLE:.0f} s: the cores or GPUs of the Ray cluster are taken")

    def _beginners(self) -> list[_Crew]:
        return [crew for crew in self.crews.values() if crew.about is None]

    def _staff(self) -> None:
        """Start a worker at every place that has none; forget those whose node is gone."""
        nodes = ray.nodes()
        doubted = {place for _, place, _ in self.doubtful}
        for place in places(nodes, use_gpus=self.use_gpus, worker_cores=self.worker_cores):
            if place in self.crews or place in doubted or self.banned & {place.node, _name(place)}:
                continue
            options = {
                "num_cpus": place.cpus, "num_gpus": place.gpus, "max_concurrency": 2,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(place.node, soft=False),
            }  # fmt: skip
            actor = ray.remote(Worker).options(**options).remote(self.errand, self.keeper, place.cpus, place.share)
            self.crews[place] = _Crew(place, actor, actor.begin.remote())

    def _greet(self, crew: _Crew, *, refuse: bool) -> None:
        """Look at what a worker says of itself once it has begun; one that differs would make other masks."""
        try:
            about = ray.get(crew.beginning)
            fault = self._fault(about)
        except RayActorError:
            if refuse:
                raise ValueError("a worker died while it loaded the network: is the memory enough?") from None
            return self._lost(crew)
        except RayTaskError as error:
            if refuse:
                raise error.cause from None
            fault = str(error.cause)
        if fault:
            if refuse:
                raise ValueError(fault)
            logger.warning("%s; this node is not used", fault)
            return self._dismiss(crew, crew.place.node)
        crew.about = about
        return None

    def _fault(self, about: dict[str, Any]) -> str:
        """Return why a worker must not take part, "" if it may."""
        ours = self.model["versions"] if self.model is not None else versions()
        if about["versions"] != ours:
            names = sorted(
                name for name in {*ours, *about["versions"]} if ours.get(name) != about["versions"].get(name)
            )
            differing = ", ".join(f"{n} {about['versions'].get(n)} rather than {ours.get(n)}" for n in names)
            return f"{about['host']} has {differing}: masks would differ; install the same versions on all nodes"
        if self.model is None:
            self.model = about
        for key, what in (("weights_sha256", "weights"), ("config_sha256", "configs/inference.yaml")):
            if about[key] != self.model[key]:
                return f"{about['host']} has other {what} in {self.errand.run}; is it the same folder everywhere?"
        hardware = [{**one["machine"], "cores": None} for one in (about, self.model)]
        if hardware[0] != hardware[1] and not self.other_hardware:
            self.other_hardware = True
            names = [one.get("gpu") or one["processor"] for one in hardware]
            logger.warning("nodes differ (%s, %s): masks may differ in single voxels", *names)
        return ""

    def _dismiss(self, crew: _Crew, ban: str) -> None:
        """Use a worker no more, nor what ``ban`` names; its cases go back."""
        self.banned.add(ban)
        del self.crews[crew.place]
        for one, _ in crew.jobs.values():
            self.queue.put_back(one)
        ray.kill(crew.actor)

    def _lost(self, crew: _Crew) -> None:
        """Note that a worker died; whether with its node shows a little later."""
        if self.crews.pop(crew.place, None) is not None:
            self.doubtful.append((time.monotonic() + DOUBT, crew.place, [one for one, _ in crew.jobs.values()]))

    def _settle_deaths(self) -> None:
        due = [one for one in self.doubtful if one[0] <= time.monotonic()]
        if not due:
            return
        self.doubtful = [one for one in self.doubtful if one not in due]
        alive = {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
        for _, place, jobs in due:
            for one in jobs:
                if place.node not in alive:
                    self.queue.put_back(one)
                elif self.queue.worker_died(one):
                    self._record_death(one)

    # --- cases ---

    def _work(self) -> None:
        looked = told = idle = time.monotonic()
        while not self._is_over():
            now = time.monotonic()
            if now - looked >= LOOK:
                looked = now
                self._settle_deaths()
                self._staff()
            if now - told >= 5.0:
                told = now
                self.keeper.tell.remote(self._progress())
            self._hand_out()
            waiting = [crew.beginning for crew in self._beginners()]
            waiting += [reference for crew in self.crews.values() for reference in crew.jobs]
            if waiting or self.doubtful:
                idle = now
            elif now - idle > IDLE:
                self.broken = f"no node was left for {IDLE:.0f} s"
                return
            if not waiting:
                time.sleep(0.1)
                continue
            ready, _ = ray.wait(waiting, num_returns=1, timeout=LOOK)
            for crew in list(self.crews.values()):
                if crew.about is None and crew.beginning in ready:
                    self._greet(crew, refuse=False)
                for reference in [done for done in crew.jobs if done in ready]:
                    if self.crews.get(crew.place) is crew:
                        self._take(crew, reference)

    def _is_over(self) -> bool:
        if self.broken or (self.max_failures is not None and self.failures >= self.max_failures):
            return True
        in_flight = any(crew.jobs for crew in self.crews.values())
        return not (len(self.queue) or in_flight or self.doubtful)

    def _hand_out(self) -> None:
        for crew in self.crews.values():
            if crew.about is None:
                continue
            while (one := self.queue.next_for(one for one, _ in crew.jobs.values())) is not None:
                crew.jobs[crew.actor.segment.remote(one)] = one, time.time()

    def _take(self, crew: _Crew, reference: Any) -> None:
        """Take the end of a case, or the death of its worker."""
        try:
            end: End = ray.get(reference)
        except RayActorError:
            return self._lost(crew)
        except RayTaskError as error:  # the ledger cannot be reached: a case's own error is in its end
            self.broken = str(error.cause)
            return None
        one, _ = crew.jobs.pop(reference)
        if end.kind == "failed":
            logger.warning("%s: %s: %s", one.path, end.code, end.detail)
            self.failures += 1
        self.stale += end.stale
        self._count(end.kind, end.seconds)
        self.broken = self.broken or end.broken
        if end.code == "DEVICE_FAILED" and not self.broken:
            self._dismiss(crew, _name(crew.place))
            if not self.crews:
                self.broken = end.detail
        return None

    def _count(self, kind: str, seconds: Mapping[str, float]) -> None:
        self.tally[kind] += 1
        self.bar.update(seconds, self.tally["done"], self.tally["failed"])

    def _record_death(self, one: ScanInput) -> None:
        """Give a case that three workers did not survive its code."""
        assert self.model is not None
        case = FolderCase.of(one, self.errand.scans, self.errand.masks, self.suffix)
        detail = "three workers died with this case: too little memory, or its reader or network crashes"
        row = {
            "case": one.case, "event": "failed", "run": self.model["run"], "input_sha256": hash_input(one.path),
            "config_sha256": self.model["config_sha256"], "weights_sha256": self.model["weights_sha256"],
            "code": "WORKER_DIED", "detail": detail, "host": self.model["host"],
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }  # fmt: skip
        logger.warning("%s: WORKER_DIED: %s", one.path, detail)
        self.stale += answer(self.keeper.fail.remote(case, row))
        self.failures += 1
        self._count("failed", {})

    def _progress(self) -> dict[str, Any]:
        running = [
            {"case": one.case, "host": crew.about["host"], "since": since}
            for crew in self.crews.values() if crew.about is not None
            for one, since in crew.jobs.values()
        ]  # fmt: skip
        return {"total": self.total, **self.tally, "workers": len(self.crews), "running": running}


def _name(place: Place) -> str:
    return f"{place.node} {place.number}"
