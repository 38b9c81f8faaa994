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
from collections import Counter
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
from liver_pipeline.prediction.folder_run import Summary
from liver_pipeline.prediction.provenance import VOLATILE
from tests.cluster.stand_in import SLEEP
from tests.small import BRIEF, make_phantoms

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
        volume[3:12, 3:11, 2:10] = chance.integers(-150, 250, (9, 8, 8))
        if number < killers:
            volume[:] = chance.integers(150, 240, volume.shape)
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
    text, _ = process.communicate(timeout=240)
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


@pytest.mark.slow  # three minutes: starts Ray's daemons and a dozen workers that import torch
def test_whatever_dies_each_case_has_one_end_and_the_masks_are_those_of_one_machine(
    tmp_path: Path, cluster: Any
) -> None:
    count = int(os.environ.get("LIVER_PIPELINE_FAULT_CASES", "60"))
    scans = make_scans(tmp_path / "scans", count, killers=1)
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    harmless = make_scans(tmp_path / "harmless", count)
    for path in harmless.rglob("*.nii.gz"):
        twin = scans / path.relative_to(harmless)
        if path.stat().st_size and "case_000" not in path.name:
            assert path.read_bytes() == twin.read_bytes()
    assert f"{count} done, 1 failed" in said(predict(run, harmless, tmp_path / "whole"), 3)

    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(3)]
    masks, options = tmp_path / "masks", (f"--ray={cluster.address}", "--worker-cores=1")
    kills, chance = Counter[str](), random.Random(5)
    for turn in range(3):
        driver = predict(run, scans, masks, *options, **{SLEEP: "0.2"})
        began = time.monotonic()
        while driver.poll() is None and not (turn < 2 and time.monotonic() - began > 45):
            time.sleep(chance.uniform(2, 4))
            alive = [pid for node in nodes for pid in workers_of(node)]
            if alive and kills["worker"] < 10:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(alive), signal.SIGKILL)
                    kills["worker"] += 1
            if kills["worker"] in (4, 7) and kills["node"] < 2 and len(nodes) > 1:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                kills["node"] += 1
                nodes.append(cluster.add_node(num_cpus=1, object_store_memory=100 << 20))
        if driver.poll() is None:
            driver.kill()
            kills["driver"] += 1
        text, _ = driver.communicate(timeout=60)
    assert driver.returncode == 3, text
    ended = {row["case"]: row for row in rows(masks) if row["event"] in ("done", "failed")}
    assert len(ended) == count + 1
    assert {row["case"]: row["code"] for row in ended.values() if row["event"] == "failed"} == {
        "damaged": "EMPTY_FILE", "site_0/case_000": "WORKER_DIED"
    }  # fmt: skip
    done, _, _ = outcome(masks)
    whole, _, _ = outcome(tmp_path / "whole")
    del whole["site_0/case_000.nii.gz"]
    assert done == whole
    assert not list(masks.rglob(".*"))
    text = said(predict(run, scans, masks), 3)
    assert f"0 done, 2 failed, {count - 1} skipped" in text


@pytest.mark.slow  # half a minute: Ray's daemons
def test_a_node_with_other_versions_or_without_the_folder_is_refused_before_the_first_case(
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
