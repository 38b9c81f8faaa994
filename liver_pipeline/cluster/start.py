"""Join a Ray cluster, or start Ray on this machine, without reports on its use and without a dashboard."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from liver_pipeline.io.limits import cores

LOCAL = "local"  # the address that stands for: start Ray here
OBJECTS = 100 << 20  # bytes of Ray's store: only names of cases travel
REACH = 5.0  # seconds to wait for an answer
WORKER_CORES = 8  # at most, of a worker on the processor: more make a case hardly faster


@dataclass(frozen=True)
class Place:
    """Where a worker may run: one GPU, or some cores of a node.

    Attributes:
        node: Ray's id of the node.
        number: Of the place on its node.
        cpus: Cores of its own, and threads.
        gpus: 1 or 0.
        share: Of the node's memory.
    """

    node: str
    number: int
    cpus: int
    gpus: int
    share: float


def require_ray() -> None:
    """Refuse to go on without Ray, and tell it to send no reports on its use.

    Raises:
        ValueError: If Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported, and by the processes that it starts
    try:
        import ray  # noqa: F401 (is it there?)
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'liver-pipeline[ray]'") from None


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Be part of the cluster at ``address`` inside; :data:`LOCAL` starts one here, unless RAY_ADDRESS names one.

    Raises:
        ValueError: If Ray is not installed, nothing answers at the address, or its versions are others.
    """
    require_ray()
    import ray

    address = os.environ.get("RAY_ADDRESS", LOCAL) if address == LOCAL else address
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": "liver-pipeline"}
    if address == LOCAL:
        start = {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": OBJECTS}
        ray.init(address=LOCAL, **start, **common)
    else:
        _refuse_unreachable(address)
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError) as reason:
            line = " ".join(str(reason).split())[:300]
            raise ValueError(f"no Ray cluster can be joined at {address}: {line}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Raise ValueError unless something answers; Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise ValueError(
            f"{address} is Ray's client, whose folders are those of another machine; run the command on a node of the "
            f"cluster (`ray job submit`, or a shell there) with --ray auto"
        )
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not (colon and port.isdigit()):
        raise ValueError(f"the address of a Ray cluster is host:port, auto, or none; got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except OSError as reason:
        raise ValueError(f"no Ray cluster answers at {address} ({reason}); `ray start --head` begins one") from None


def worker_places(nodes: Sequence[Mapping[str, Any]], *, use_gpus: bool, worker_cores: int | None) -> list[Place]:
    """Return where workers may run on nodes that are alive.

    Args:
        nodes: As ``ray.nodes()`` gives them.
        use_gpus: If any node has a GPU, each GPU is a place and cores are none.
        worker_cores: Of a worker on the processor; by default :data:`WORKER_CORES`, or all of a smaller node.
    """
    alive = [(str(node["NodeID"]), node["Resources"]) for node in nodes if node["Alive"]]
    on_gpus = use_gpus and any(has.get("GPU", 0) >= 1 for _, has in alive)
    found = []
    for node, has in sorted(alive, key=lambda one: one[0]):
        total = int(has.get("CPU", 0))
        if on_gpus:
            count = int(has.get("GPU", 0))
            each = max(total // count, 1) if count else 0
        else:
            each = min(worker_cores or WORKER_CORES, total)
            count = total // each if each else 0
        found += [Place(node, number, each, int(on_gpus), 1 / count) for number in range(count)]
    return found
