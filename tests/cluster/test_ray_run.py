"""`predict --ray`: whatever dies, each case has one end, and the masks are those of one machine."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.prediction.provenance import VOLATILE
from liver_pipeline.prediction.summary import Summary
from tests.cluster.stand_in import SLEEP
from tests.small import BRIEF, make_phantoms
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = {"_target_": "tests.cluster.stand_in.StandIn"}


def make_run(folder: Path, data: Path) -> Path:
    """Compose a run whose network is the stand-in, with its weights."""
    overrides = {**BRIEF, "dataset_dir": str(data), "spacing": [12.0, 12.0, 19.0], "roi_size": [16, 16, 16]}
    run = lp.compose(folder / "run", {"network": "unet3d"}, overrides={**overrides, "network_def": STAND_IN})
    network = ConfigParser(load_config(run, "inference")).get_parsed_content("network_def")
    (run / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), run / "models" / "model.pt")
    return run


def make_scans(folder: Path, count: int, *, killers: int = 0) -> Path:
    """Write small scans, of which the first ``killers`` kill their process, and one that is damaged."""
    affine = np.diag([-12.0, 12.0, 19.0, 1.0])
    for number in range(count):
        chance = np.random.default_rng(number)
        volume = np.full((16 + number % 3, 14, 12), -1000, np.int16)
        volume[3:12, 3:11, 2:10] = chance.integers(0, 150, (9, 8, 8))
        if number < killers:
            volume[5:7, 5:7, 5:7] = 1000
        path = folder / f"site_{number % 2}" / f"case_{number:03d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(volume, affine).to_filename(path)
    (folder / "damaged.nii.gz").write_bytes(b"")
    return folder


def outcome(masks: Path) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """Return masks, provenance and last rows, without what may differ from run to run."""
    bytes_of = {path.relative_to(masks).as_posix(): path.read_bytes() for path in sorted(masks.rglob("*.nii.gz"))}
    records = {
        path.relative_to(masks).as_posix(): {k: v for k, v in json.loads(path.read_text()).items() if k not in VOLATILE}
        for path in sorted(masks.rglob("*.json"))
    }
    last = {row["case"]: {k: v for k, v in row.items() if k not in ("time", "host")} for row in rows(masks)}
    return bytes_of, records, last


def rows(masks: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (masks / LEDGER).read_text().splitlines()]


def predict(run: Path, scans: Path, masks: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "liver_pipeline", "predict", str(run), str(scans), str(masks), "backend=torch"]
    around = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **env}
    return subprocess.Popen(
        [*command, "device=cpu", *options], env=around, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str], code: int) -> str:
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, text
    return text


def test_ray_makes_what_one_machine_makes_and_either_goes_on_with_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = make_scans(tmp_path / "scans", 6)
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    whole, masks, settings = tmp_path / "whole", tmp_path / "masks", {"backend": "torch", "device": "cpu"}
    assert lp.predict(run, scans, whole, overrides=settings) == Summary(6, 1, 0, 3)
    caplog.clear()
    summary = lp.predict(run, scans, masks, overrides=settings, ray="local", worker_cores=torch.get_num_threads())
    assert summary == Summary(6, 1, 0, 3)
    assert "damaged.nii.gz: EMPTY_FILE" in caplog.text
    assert outcome(masks) == outcome(whole)
    assert sorted(path.name for path in masks.iterdir()) == [LEDGER, "site_0", "site_1"]
    assert lp.predict(run, scans, masks, overrides=settings) == Summary(0, 1, 6, 3)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes of one core each, as processes of this machine, and none of the driver's."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
    try:
        yield found
    finally:
        found.shutdown()


def workers_of(node: Any) -> list[int]:
    """Return the process ids of the workers on a node that have a case: Ray names processes after what they run."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and (process / "cmdline").read_bytes().startswith(b"ray::Worker.segment"):
                found.append(int(process.name))
    return found


EVENTS = [
    *["worker"] * 3,
    "node",
    *["worker"] * 2,
    "driver",
    *["worker"] * 2,
    "node",
    "add",
    "worker",
    "driver",
    "worker",
]


@pytest.mark.slow  # three minutes: starts Ray's daemons and a score of workers that import torch
def test_whatever_dies_each_case_has_one_end_and_the_masks_are_those_of_one_machine(
    tmp_path: Path, cluster: Any
) -> None:
    """Ten workers are killed by us, three by a case; two nodes go, one comes, the driver is killed twice."""
    count = int(os.environ.get("LIVER_PIPELINE_FAULT_CASES", "60"))
    scans = make_scans(tmp_path / "scans", count, killers=1)
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    harmless = make_scans(tmp_path / "harmless", count)
    (harmless / "site_0" / "case_000.nii.gz").unlink()
    assert f"{count - 1} done, 1 failed" in said(predict(run, harmless, tmp_path / "whole"), 3)

    masks, options = tmp_path / "masks", (f"--ray={cluster.address}", "--worker-cores=1")
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(4)]
    events, chance = deque(EVENTS), random.Random(5)
    driver = predict(run, scans, masks, *options, **{SLEEP: "0.3"})
    while driver.poll() is None:
        time.sleep(0.2)
        ended = len(list(masks.rglob("case*.json")))
        if not events or ended < (len(EVENTS) - len(events) + 1) * count / (len(EVENTS) + 6):
            continue
        if events[0] == "worker":
            if not (alive := [pid for node in nodes for pid in workers_of(node)]):
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(alive), signal.SIGKILL)
        elif events[0] == "node":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        elif events[0] == "add":
            nodes.append(cluster.add_node(num_cpus=1, object_store_memory=100 << 20))
        else:
            driver.kill()
            driver.communicate()
            driver = predict(run, scans, masks, *options, **{SLEEP: "0.3"})
        events.popleft()
    text = said(driver, 3)
    assert not events, text

    ends = [row for row in rows(masks) if row["event"] in ("done", "failed")]
    assert len({row["case"] for row in ends}) == count + 1
    done = [row["case"] for row in ends if row["event"] == "done"]
    assert len(done) == len(set(done)) == count - 1  # what was done was done once
    assert {row["case"]: row["code"] for row in ends if row["event"] == "failed"} == {
        "damaged": "EMPTY_FILE", "site_0/case_000": "WORKER_DIED"
    }  # fmt: skip
    assert outcome(masks)[:2] == outcome(tmp_path / "whole")[:2]
    assert not list(masks.rglob(".*"))
    assert f"0 done, 2 failed, {count - 1} skipped" in said(predict(run, scans, masks), 3)


@pytest.mark.slow  # half a minute: Ray's daemons
def test_a_cluster_without_a_core_or_a_node_without_the_weights_is_refused_before_the_first_case(
    tmp_path: Path, cluster: Any
) -> None:
    scans = make_scans(tmp_path / "scans", 2)
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    text = said(predict(run, scans, tmp_path / "masks", f"--ray={cluster.address}"), 2)
    assert "has no core and no GPU for a worker" in text
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    (run / "models" / "model.pt").rename(run / "models" / "other.pt")
    text = said(predict(run, scans, tmp_path / "masks", f"--ray={cluster.address}"), 2)
    assert "model.pt" in text and len(text.strip().splitlines()[-1]) < 400
    assert not list((tmp_path / "masks").rglob("*.nii.gz"))
