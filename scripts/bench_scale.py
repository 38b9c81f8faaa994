"""How a folder run scales on a Ray cluster: nodes are simulated, and a stand-in network sleeps instead of computing.

    python scripts/bench_scale.py --nodes 1,2,4 --cases 200 --json scale.json

Measures the efficiency of 1, 2, ... nodes (cases a second against those of one node), appended rows a second of the
ledger through its actor, and seconds and memory of listing 100000 scans.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import torch

SCRIPT = Path(__file__).resolve()
PER_FOLDER = 1000


class SleepingNetwork(torch.nn.Module):
    """Sleeps; then liver where the image is bright."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.scale = torch.nn.Conv3d(1, 3, 1)
        with torch.no_grad():
            self.scale.weight.copy_(torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1, 1))
            self.scale.bias.copy_(torch.tensor([0.0, -0.4, -1.0]))  # type: ignore[union-attr]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z) to scores (B, 3, X, Y, Z)."""
        if image.device.type != "meta":
            time.sleep(self.seconds)
        scores: torch.Tensor = self.scale(image)
        return scores


def write_scans(folder: Path, count: int) -> None:
    """Write small scans that differ."""
    for number in range(count):
        volume = np.full((14, 14, 12), -1000, np.int16)
        volume[3:11, 3:11, 2:10] = np.random.default_rng(number).integers(0, 120, (8, 8, 8))
        path = folder / f"{number // PER_FOLDER:03d}" / f"{number:06d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(volume, np.diag([-12.0, 12.0, 19.0, 1.0])).to_filename(path)


def make_run(folder: Path, seconds: float) -> Path:
    """Compose a run with the sleeping network and its weights."""
    import liver_pipeline as lp

    network = {"_target_": "bench_scale.SleepingNetwork", "seconds": seconds}
    overrides = {
        "dataset_dir": str(folder), "spacing": [12.0, 12.0, 19.0], "roi_size": [16, 16, 16], "network_def": network,
    }  # fmt: skip
    run = lp.compose(folder / "run", {"network": "unet3d"}, overrides=overrides)
    (run / "models").mkdir(exist_ok=True)
    torch.save(SleepingNetwork(seconds).state_dict(), run / "models" / "model.pt")
    return run


def predict(run: Path, scans: Path, masks: Path, address: str) -> None:
    """Run the command, as a process of its own."""
    command = [sys.executable, "-m", "liver_pipeline", "predict", str(run), str(scans), str(masks), f"--ray={address}"]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])}
    options = ["--worker-cores=1", "device=cpu", "backend=torch"]
    subprocess.run([*command, *options], cwd=SCRIPT.parent, env=around, check=True)


def cases_a_second(masks: Path, workers: int) -> float:
    """Return the pace between the first mask and the last, by the times of the files: starting is left out."""
    times = sorted(path.stat().st_mtime for path in masks.rglob("*.nii.gz"))
    return (len(times) - workers) / (times[-1] - times[workers - 1])


def measure_nodes(folder: Path, nodes: list[int], cases: int, seconds: float) -> list[dict[str, Any]]:
    """Run the same folder on each number of nodes."""
    from ray.cluster_utils import Cluster

    write_scans(folder / "scans", cases)
    run = make_run(folder, seconds)
    found: list[dict[str, Any]] = []
    for count in nodes:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
        try:
            for _ in range(count - 1):
                cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
            began = time.perf_counter()
            predict(run, folder / "scans", folder / f"masks_{count}", cluster.address)
            whole = time.perf_counter() - began
        finally:
            cluster.shutdown()
        pace = cases_a_second(folder / f"masks_{count}", count)
        efficiency = pace / count / (found[0]["cases_a_second"] / found[0]["nodes"] if found else pace / count)
        found.append({
            "nodes": count, "cases": cases, "cases_a_second": round(pace, 3), "efficiency": round(efficiency, 3),
            "of_the_sleep_alone": round(pace * seconds / count, 3), "seconds_with_start": round(whole, 1),
        })  # fmt: skip
        click.echo(json.dumps(found[-1]))
    return found


def measure_ledger(folder: Path, rows: int) -> dict[str, float]:
    """Append rows straight, and through the actor with eight in flight as from four workers."""
    import ray

    from liver_pipeline.cluster.ledger_actor import LedgerKeeper
    from liver_pipeline.cluster.start import ray_cluster
    from liver_pipeline.io.ledger import LEDGER, Ledger

    row = {"case": "site/case", "event": "done", **{f"{key}_sha256": "0" * 64 for key in ("input", "output", "config")}}
    (folder / "straight").mkdir()
    ledger = Ledger(folder / "straight" / LEDGER)
    began = time.perf_counter()
    for number in range(rows):
        ledger.append({**row, "case": f"case_{number}"})
    straight = rows / (time.perf_counter() - began)
    ledger.close()
    with ray_cluster("local"):
        keeper: Any = ray.remote(LedgerKeeper).options(num_cpus=0).remote()
        ray.get(keeper.open.remote(folder / "actor"))
        began, waiting = time.perf_counter(), []
        for number in range(rows):
            waiting.append(keeper.append.remote({**row, "case": f"case_{number}"}))
            if len(waiting) >= 8:
                ray.get(waiting.pop(0))
        ray.get(waiting)
        through_actor = rows / (time.perf_counter() - began)
        ray.get(keeper.close.remote())
    return {"rows_a_second": round(straight), "rows_a_second_through_the_actor": round(through_actor)}


def measure_listing(folder: Path, count: int) -> dict[str, float]:
    """List scans as the driver does, in a process of its own."""
    scans = folder / "many"
    write_scans(scans, min(count, PER_FOLDER))
    originals = sorted(scans.rglob("*.nii.gz"))
    for number in range(len(originals), count):
        path = scans / f"{number // PER_FOLDER:03d}" / f"{number:06d}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        os.link(originals[number % PER_FOLDER], path)  # the same bytes, a name of its own
    command = [sys.executable, str(SCRIPT), "--list", str(scans)]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=around, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def measure_list(scans: Path) -> dict[str, float]:
    """Return seconds and memory that the driver takes to list a folder."""
    from liver_pipeline.cluster.ray_run import list_scans
    from liver_pipeline.prediction.plan import find_scans

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    began = time.perf_counter()
    found = list_scans(find_scans(scans), scans.parent / "masks", ".nii.gz")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"scans": len(found), "seconds": round(seconds, 1), "more_mb": round(peak - before), "peak_mb": round(peak)}


@click.command()
@click.option("--nodes", default="1,2,4,8", show_default=True, help="Numbers of simulated nodes.")
@click.option("--cases", default=1000, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="That the network sleeps for each case.")
@click.option("--listed", default=100000, show_default=True, help="Scans to list; 0 leaves it out.")
@click.option("--rows", default=2000, show_default=True, help="Rows to append.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--list", "listing", type=click.Path(path_type=Path), hidden=True)
def main(
    nodes: str, cases: int, seconds: float, listed: int, rows: int, json_path: Path | None, listing: Path | None
) -> None:
    """Measure, and print a table."""
    if listing is not None:
        click.echo(json.dumps(measure_list(listing)))
        return
    sys.path.append(str(SCRIPT.parent))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "sleep": seconds}
        if listed:
            figures["listing"] = measure_listing(folder, listed)
            click.echo(json.dumps(figures["listing"]))
        figures["ledger"] = measure_ledger(folder, rows)
        click.echo(json.dumps(figures["ledger"]))
        numbers = [int(word) for word in nodes.split(",") if word]
        figures["nodes"] = measure_nodes(folder, numbers, cases, seconds) if numbers else []
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
