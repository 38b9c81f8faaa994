"""Where workers run, and what is said when there is no cluster to be part of."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from liver_pipeline.cluster.start import Place, ray_cluster, worker_places


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


def test_a_worker_has_eight_cores_or_all_of_a_smaller_node() -> None:
    nodes = [node("b", CPU=17.0), node("a", CPU=4.0), node("c", CPU=64.0, alive=False), node("d")]
    assert worker_places(nodes, use_gpus=True, worker_cores=None) == [
        Place("a", 0, 4, 0, 1.0), Place("b", 0, 8, 0, 0.5), Place("b", 1, 8, 0, 0.5)
    ]  # fmt: skip
    assert [place.cpus for place in worker_places(nodes, use_gpus=True, worker_cores=3)] == [3, 3, 3, 3, 3, 3]


def test_where_there_are_gpus_each_has_a_worker_and_cores_have_none() -> None:
    nodes = [node("a", CPU=9.0, GPU=2.0), node("b", CPU=64.0)]
    assert worker_places(nodes, use_gpus=True, worker_cores=None) == [
        Place("a", 0, 4, 1, 0.5),
        Place("a", 1, 4, 1, 0.5),
    ]
    assert len(worker_places(nodes, use_gpus=False, worker_cores=None)) == 9  # device=cpu


@pytest.mark.parametrize(
    ("address", "said"),
    [("ray://head:10001", "run the command on a node"), ("head", "is host:port, auto, or none"), ("x:", "host:port")],
)
def test_an_address_that_is_none_is_refused(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said), ray_cluster(address):
        pass


def test_an_address_where_nothing_answers_is_one_line_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}"), ray_cluster(address):
        pass


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'liver-pipeline\[ray\]'"), ray_cluster("local"):
        pass
