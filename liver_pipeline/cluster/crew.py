"""The workers of a run on a Ray cluster: one at each place, as long as its node is there and it makes equal masks."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from liver_pipeline.cluster.queue import DEATHS
from liver_pipeline.cluster.start import Place, worker_places
from liver_pipeline.cluster.worker import Errand, Worker
from liver_pipeline.io.clocks import Beginning
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.prediction.provenance import versions

logger = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at the cluster
DOUBT = 3.0  # seconds after a worker's death in which its node may turn out to be dead
GRACE = 60.0  # seconds that workers have to begin once the first has
IDLE = 300.0  # seconds without any worker after which a run ends


@dataclass
class Member:
    """A worker at its place.

    Attributes:
        place: Where it runs.
        actor: Ray's handle.
        beginning: Reference to what its ``begin`` gives.
        about: What that was; None until then.
        in_flight: Reference to a case that it has, and when it was handed out.
    """

    place: Place
    actor: Any
    beginning: Any
    about: dict[str, Any] | None = None
    in_flight: dict[Any, tuple[ScanInput, Beginning]] = field(default_factory=dict)

    def scans(self) -> list[ScanInput]:
        """Return the cases that it has."""
        return [one for one, _ in self.in_flight.values()]


class Crew:
    """All workers of a run.

    Args:
        errand: What each is told.
        keeper: Handle of the ledger's actor.
        use_gpus: See :func:`liver_pipeline.cluster.start.worker_places`.
        worker_cores: Likewise.

    Attributes:
        members: The workers by their places.
        model: What the first worker said of itself; the others must say the same.
    """

    def __init__(self, errand: Errand, keeper: Any, *, use_gpus: bool, worker_cores: int | None) -> None:
        self.errand, self.keeper = errand, keeper
        self.use_gpus, self.worker_cores = use_gpus, worker_cores
        self.members: dict[Place, Member] = {}
        self.model: dict[str, Any] | None = None
        self._doubtful: list[tuple[float, Place, list[ScanInput]]] = []  # workers that died, and what they had
        self._banned: set[object] = set()  # places, and nodes, that are used no more
        self._stillborn: Counter[Place] = Counter()  # workers that died while they loaded the network
        self._other_hardware = False

    def begin(self) -> None:
        """Start the workers that there is room for; whatever is wrong with one of them is raised.

        Raises:
            IntakeError: A folder is not shared.
            FileNotFoundError: A node does not see the run folder.
            ValueError: A node has other versions, weights or config; or there is no worker.
        """
        self.recruit()
        if not self.members:
            raise ValueError("the Ray cluster has no core and no GPU for a worker")
        end = time.monotonic() + IDLE
        while (self.beginners() or self.in_doubt()) and time.monotonic() < end:
            for member in self._begun():
                if objection := self._objection(member):
                    raise objection
                end = min(end, time.monotonic() + GRACE)  # others may wait for cores that somebody else has
            assert not list(self.deaths())  # nobody has a case yet
            self.recruit()
        if self.model is None:
            reason = "too little memory to load the network?" if self._stillborn else "others have its cores or GPUs"
            raise ValueError(f"no worker of the Ray cluster could begin: {reason}")

    def _begun(self) -> list[Member]:
        """Wait a moment for workers that begin."""
        if not (waiting := self.beginners()):
            time.sleep(LOOK)
            return []
        begun, _ = ray.wait([member.beginning for member in waiting], timeout=LOOK)
        return [member for member in waiting if member.beginning in begun]

    def beginners(self) -> list[Member]:
        """Return the workers that have not begun yet."""
        return [member for member in self.members.values() if member.about is None]

    def ready(self) -> list[Member]:
        """Return the workers that can have cases."""
        return [member for member in self.members.values() if member.about is not None]

    def recruit(self) -> None:
        """Start a worker at every place that has none."""
        doubted = {place for _, place, _ in self._doubtful}
        for place in worker_places(ray.nodes(), use_gpus=self.use_gpus, worker_cores=self.worker_cores):
            if place in self.members or place in doubted or self._banned & {place, place.node}:
                continue
            here = NodeAffinitySchedulingStrategy(place.node, soft=False)
            remote = ray.remote(Worker).options(
                num_cpus=place.cpus, num_gpus=place.gpus, max_concurrency=2, scheduling_strategy=here
            )
            actor: Any = remote.remote(self.errand, self.keeper, place.cpus, place.share)
            self.members[place] = Member(place, actor, actor.begin.remote())

    def greet(self, member: Member) -> None:
        """Look at what a worker that came later says of itself; one that would make other masks is not used."""
        if objection := self._objection(member):
            logger.warning("%s; this node is not used", objection)
            self.dismiss(member, ban=member.place.node)

    def _objection(self, member: Member) -> Exception | None:
        """Take in a worker that has begun, or return why it must not take part; one that died is lost."""
        try:
            fault = self._fault(about := ray.get(member.beginning))
        except RayActorError:
            self.lost(member)
            return None
        except RayTaskError as error:
            cause: Exception = error.cause
            return cause
        if fault:
            return ValueError(fault)
        member.about = about
        return None

    def _fault(self, about: dict[str, Any]) -> str:
        """Return why a worker must not take part, "" if it may."""
        ours = versions() if self.model is None else self.model["versions"]
        if theirs := differing_versions(ours, about["versions"]):
            return f"{about['host']} has {theirs}: masks would differ; install the same versions on all nodes"
        self.model = self.model or about
        for key, what in (("weights_sha256", "weights"), ("config_sha256", "a config")):
            if about[key] != self.model[key]:
                return f"{about['host']} has {what} of its own in {self.errand.run}; is it the same folder everywhere?"
        hardware = [{**said["machine"], "cores": None} for said in (self.model, about)]
        if hardware[0] != hardware[1] and not self._other_hardware:
            self._other_hardware = True
            names = (said.get("gpu") or said["processor"] for said in hardware)
            logger.warning("nodes differ (%s): masks may differ in single voxels", ", ".join(names))
        return ""

    def dismiss(self, member: Member, *, ban: object) -> list[ScanInput]:
        """End a worker and use its place, or its node, no more; return the cases that it had."""
        self._banned.add(ban)
        del self.members[member.place]
        ray.kill(member.actor)
        return member.scans()

    def lost(self, member: Member) -> None:
        """Note that a worker died; whether with its node shows a little later, in :meth:`deaths`."""
        if self.members.get(member.place) is member:
            del self.members[member.place]
            if member.about is None:
                self._stillborn[member.place] += 1
                if self._stillborn[member.place] >= DEATHS:
                    logger.warning(
                        "a place on node %s is not used: its workers die before they begin", member.place.node
                    )
                    self._banned.add(member.place)
            self._doubtful.append((time.monotonic() + DOUBT, member.place, member.scans()))

    def in_doubt(self) -> bool:
        """Tell whether there are dead workers of whose nodes nothing is known yet."""
        return bool(self._doubtful)

    def deaths(self) -> Iterator[tuple[ScanInput, bool]]:
        """Give the cases of dead workers, once it is known whether the node died: then it was nothing of theirs."""
        due = [dead for dead in self._doubtful if dead[0] <= time.monotonic()]
        if due:
            self._doubtful = [dead for dead in self._doubtful if dead not in due]
            alive = {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
            for _, place, scans in due:
                yield from ((one, place.node not in alive) for one in scans)

    def end(self) -> None:
        """End all workers."""
        for member in self.members.values():
            ray.kill(member.actor)


def differing_versions(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Return the packages of which another machine has another version, "" if none: ``torch 2.6 rather than 2.7``."""
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return ", ".join(f"{name} {theirs.get(name, 'missing')} rather than {ours.get(name, 'none')}" for name in names)
