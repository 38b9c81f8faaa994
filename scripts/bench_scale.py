"""What thousands of tiny cases cost, command by command, and how a folder run scales on a Ray cluster.

    python scripts/bench_scale.py commands --cases 1000,2000,4000 --json commands.json
    python scripts/bench_scale.py cluster --nodes 1,2,4 --cases 200 --json cluster.json

``commands`` runs each in a process of its own, on volumes of 14x14x12 voxels and series of four slices, and prints
processor seconds, memory and open files for each number of cases, and what a case more costs: that should not grow.

``cluster`` simulates nodes; a stand-in network sleeps instead of computing. It measures the efficiency of 1, 2, ...
nodes (cases a second against those of one node), appended rows a second of the ledger through its actor, and seconds
and memory of listing 100000 scans.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SCRIPT = Path(__file__).resolve()
PER_FOLDER = 1000
AFFINE = np.diag([-12.0, 12.0, 19.0, 1.0])
SLICES = 4  # of a DICOM series
POLLS = 10


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


def around() -> dict[str, str]:
    """Return the environment in which the package is this working tree, and this script can be imported."""
    places = [str(SCRIPT.parents[1]), str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def write_scans(folder: Path, count: int, per_folder: int = PER_FOLDER) -> None:
    """Write small scans that differ."""
    for number in range(count):
        volume = np.full((14, 14, 12), -1000, np.int16)
        volume[3:11, 3:11, 2:10] = np.random.default_rng(number).integers(0, 120, (8, 8, 8))
        path = folder / f"{number // per_folder:03d}" / f"{number:06d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(volume, AFFINE).to_filename(path)


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
    options = ["--worker-cores=1", "device=cpu", "backend=torch"]
    subprocess.run([*command, *options], env=around(), check=True)


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
    command = [sys.executable, str(SCRIPT), "part", "list", str(scans)]
    done = subprocess.run(command, env=around(), check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def measure_list(scans: Path) -> dict[str, Any]:
    """Return seconds and memory that the driver takes to list a folder."""
    from liver_pipeline.cluster.ray_run import list_scans
    from liver_pipeline.prediction.plan import find_scans

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    began = time.perf_counter()
    found = list_scans(find_scans(scans), scans.parent / "masks", ".nii.gz")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"scans": len(found), "seconds": round(seconds, 1), "more_mb": round(peak - before), "peak_mb": round(peak)}


# --- the commands, on more and more cases ---


def write_labels(images: Path, labels: Path) -> None:
    """Write a label map for each scan: a liver of 8x8x8 voxels with a tumor of 4x4x4 in it."""
    label = np.zeros((14, 14, 12), np.uint8)
    label[3:11, 3:11, 2:10], label[5:9, 5:9, 4:8] = 1, 2
    for image in images.rglob("*.nii.gz"):
        path = labels / image.relative_to(images)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(label, AFFINE).to_filename(path)


def write_series(folder: Path, count: int) -> None:
    """Write series of CT slices of 8x8 pixels, a folder each."""
    for number in range(count):
        (folder / f"{number:06d}").mkdir(parents=True)
        for k in range(SLICES):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.5.{number}.{k}"
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
            file.SOPClassUID, file.SOPInstanceUID, file.Modality = CTImageStorage, f"1.2.5.{number}.{k}", "CT"
            file.StudyInstanceUID, file.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.4.{number}"
            file.ImagePositionPatient, file.PixelSpacing = [0.0, 0.0, 3.0 * k], [1.5, 1.5]
            file.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
            file.Rows = file.Columns = 8
            file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
            file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
            file.RescaleSlope, file.RescaleIntercept = 1, -1024
            pixels = np.random.default_rng([number, k]).integers(0, 120, (8, 8)).astype(np.int16)
            pixels[2:6, 2:6] += 1000
            file.PixelData = pixels.tobytes()
            file.save_as(folder / f"{number:06d}" / f"{k:03d}.dcm", enforce_file_format=True)


def commands_at(folder: Path) -> dict[str, list[str]]:
    """Return the words of each command by what it is called, in an order in which each finds what it needs."""
    images, masks = str(folder / "data" / "images"), str(folder / "masks")
    layers = ["--data", "folder", f"dataset_dir={folder / 'data'}"]
    segment = ["predict", str(folder / "run"), images, masks, "device=cpu", "backend=torch"]
    plan = ["plan", str(folder / "plan"), "--network", "unet3d", *layers]
    small = ["spacing=[12.0, 12.0, 19.0]", "roi_size=[16, 16, 16]", "batch_size=16", "device=cpu"]
    brief = ["max_epochs=1", "crops_per_case=1", "num_workers=0", "split_fractions=[0.4, 0.1, 0.5]"]
    networks = ",".join(str(folder / f"{name}.yaml") for name in ("one", "two"))
    return {
        "check": ["check", images],
        "check, DICOM": ["check", str(folder / "series")],
        "predict --dry-run": [*segment, "--dry-run"],
        "predict": segment,
        "predict, all done": segment,
        "status": ["status", masks],
        "evaluate": ["evaluate", masks, str(folder / "data" / "labels"), str(folder / "scores")],
        "plan": plan,
        "plan, all known": plan,
        "compare": ["compare", str(folder / "out"), "--networks", networks, *layers, *small, *brief],
        "app": ["app"],
        "node": ["node"],
    }


def prepare(folder: Path, count: int, per_folder: int) -> None:
    """Write what the commands of :func:`commands_at` need."""
    write_scans(folder / "data" / "images", count, per_folder)
    write_labels(folder / "data" / "images", folder / "data" / "labels")
    write_series(folder / "series", count)
    make_run(folder, 0.0)
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text("network_def: {_target_: bench_scale.SleepingNetwork, seconds: 0.0}\n")


def measure_command(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command to its end; processor and wall seconds of all its processes, memory and open files of the first."""
    ours = [str(SCRIPT), "part", words[0], str(folder), *words[1:]]
    module = ours if words[0] in PARTS else ["-m", "liver_pipeline", *words]
    began, ended, most = time.perf_counter(), threading.Event(), {"peak_mb": 0, "open_files": 0}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, *module], cwd=folder, env=around(), stdout=log, stderr=log)

        told = Path("/proc") / str(process.pid)

        def look() -> None:
            while not ended.wait(0.05):
                with contextlib.suppress(OSError, StopIteration):  # it has ended; Linux alone tells
                    peak = next(line for line in (told / "status").read_text().splitlines() if "VmHWM" in line)
                    seen = {"peak_mb": int(peak.split()[1]) // 1000, "open_files": len(list((told / "fd").iterdir()))}
                    most.update({key: max(most[key], value) for key, value in seen.items()})

        watcher = threading.Thread(target=look)
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        ended.set()
        watcher.join()
    if code := os.waitstatus_to_exitcode(status):
        raise click.ClickException(f"{words} ends with {code}: {(folder / 'log.txt').read_text()[-2000:]}")
    seconds = {"processor_s": used.ru_utime + used.ru_stime, "wall_s": time.perf_counter() - began}
    figures = {**{key: round(value, 2) for key, value in seconds.items()}, **most}
    return {**figures, **(json.loads((folder / "log.txt").read_text().splitlines()[-1]) if ours is module else {})}


def make_app_cases(folder: Path, masks: Path) -> None:
    """Make cases of the app that are done, of the masks of a folder run."""
    from liver_pipeline.app.cases import ENDED, CaseFolder
    from liver_pipeline.io.files import link_or_copy, write_json
    from liver_pipeline.io.ledger import LEDGER

    cases, rows = CaseFolder(folder), []
    for mask in sorted(masks.rglob("*.nii.gz")):
        case = cases.create(mask.name, "default")
        cases.amend(case, state=ENDED)
        for path, ending in ((mask, ".nii.gz"), (mask.with_name(mask.name.replace(".nii.gz", ".json")), ".json")):
            link_or_copy(path, cases.result(case, ending))
        lesions = [{"diameter_mm": 12.0}] * 3
        write_json(cases.result(case, ".description.json"), {"liver": {"lesion_count": 3}, "lesions": lesions})
        cases.result(case, ".html").touch()
        rows.append(json.dumps({"case": case, "event": "done", "input_sha256": "0" * 64, "output_sha256": "0" * 64}))
    (cases.masks / LEDGER).write_text("\n".join(rows) + "\n")


def list_in_app(folder: Path) -> dict[str, float]:
    """Ask the app for its list as a browser does, again and again; processor seconds of making it and of an answer."""
    import uvicorn

    from liver_pipeline.app.cases import CaseFolder
    from liver_pipeline.app.server import make_app
    from liver_pipeline.app.supervisor import Supervisor

    began = time.process_time()
    make_app_cases(folder / "app", folder / "masks")
    figures = {"make_s": time.process_time() - began}
    time.sleep(4.0)  # nothing has changed just now
    cases = CaseFolder(folder / "app")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        guard = make_app(cases, Supervisor(cases), token="t", hosts=["127.0.0.1"], cookie="c")  # noqa: S106
        server = uvicorn.Server(uvicorn.Config(guard, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        tag = ""
        for name, times in (("first_list_s", 1), ("list_s", POLLS), ("list_while_one_changes_s", POLLS)):
            began = time.process_time()
            for number in range(times):
                if "changes" in name:
                    cases.amend(cases.ids()[number], note=name)
                connection = http.client.HTTPConnection(*listening.getsockname())
                headers = {"Authorization": "Bearer t", "If-None-Match": tag}
                connection.request("GET", "/api/cases", headers=headers)
                answer = connection.getresponse()
                answer.read()
                connection.close()
                tag = answer.headers.get("ETag", "")
            figures[name] = (time.process_time() - began) / times
        server.should_exit = True
        thread.join()
    return {key: round(value, 4) for key, value in figures.items()}


def serve_as_node(folder: Path) -> dict[str, float]:
    """Let a node that has received all series segment, send and remove them; stand-ins segment and take."""
    from liver_pipeline.dicom_results.results import DicomResults
    from liver_pipeline.io.clocks import Ages
    from liver_pipeline.io.findings import refuse
    from liver_pipeline.io.formats import hash_input
    from liver_pipeline.io.ledger import LEDGER, Ledger
    from liver_pipeline.node.delivery import last_changes
    from liver_pipeline.node.inbox import Inbox, hashed
    from liver_pipeline.node.service import Memory, NodeSettings, work

    def segment(cases: list[dict[str, Any]], masks: Path) -> None:
        masks.mkdir(exist_ok=True)
        with contextlib.closing(Ledger(masks / LEDGER)) as ledger:
            for case in cases:
                (masks / f"{case['case']}.nii.gz").touch()
                (masks / f"{case['case']}.seg.dcm").touch()
                hashes = {"input_sha256": hash_input(Path(case["image"])), "output_sha256": "0" * 64}
                ledger.append({"case": case["case"], "event": "done", "dicom": {"files": {}}, **hashes})

    node = folder / "node"
    for number, series in enumerate(sorted((folder / "series").iterdir())):
        shutil.copytree(series, node / "received" / hashed(f"1.2.4.{number}"))
    takes = False

    def send(files: Sequence[Path]) -> dict[str, str]:
        if not takes:
            raise refuse("archive", "PEER_UNREACHABLE", "it is silent")
        return {}

    settings = NodeSettings(node, lambda _: None, [send], DicomResults(("seg",)), quiet_seconds=0)
    inbox, masks, figures = Inbox(node / "received"), node / "masks", {}
    memory = Memory(Ages(partial(last_changes, inbox, masks)))
    for name, times in (("segment_s", 1), ("poll_s", POLLS), ("deliver_s", 1), ("idle_poll_s", POLLS)):
        takes = name == "deliver_s"
        for group in memory.open:
            group.wait.until = 0.0 if takes else math.inf
        began = time.process_time()
        for _ in range(times):
            work(settings, inbox, memory, segment)
        figures[name] = (time.process_time() - began) / times
    return {key: round(value, 4) for key, value in figures.items()} | {"left": float(len(inbox.folders()))}


PARTS: dict[str, Callable[..., Any]] = {"list": measure_list, "app": list_in_app, "node": serve_as_node}


@click.group()
def main() -> None:
    """Measure what many cases cost."""
    sys.path.append(str(SCRIPT.parent))


@main.command(hidden=True)
@click.argument("name", type=click.Choice(list(PARTS)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1)
def part(name: str, folder: Path, words: tuple[str, ...]) -> None:
    """Do one thing in this process, which is measured from outside."""
    click.echo(json.dumps(PARTS[name](folder, *words)))


@main.command()
@click.option("--cases", default="1000,2000,4000", show_default=True, help="Numbers of cases.")
@click.option("--only", default="", help="Begins of the commands' names; what they need must be among them.")
@click.option("--per-folder", default=PER_FOLDER, show_default=True, help="Scans in one folder.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the cases go, and stay.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
def commands(cases: str, only: str, per_folder: int, folder: Path | None, json_path: Path | None) -> None:
    """Run each command on more and more cases."""
    counts = [int(word) for word in cases.split(",")]
    figures: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            where = (folder or Path(scratch)) / str(count)
            if not where.exists():
                prepare(where, count, per_folder)
            for name, words in commands_at(where).items():
                if name.startswith(tuple(only.split(","))):
                    figures.setdefault(name, {})[count] = measure_command(words, where)
                    click.echo(f"{count:6d}  {name:20}  {json.dumps(figures[name][count])}")
    for name, told in figures.items():
        more = [1e3 * (told[b]["processor_s"] - told[a]["processor_s"]) / (b - a) for a, b in pairwise(told)]
        click.echo(f"{name:20}  ms a case more: {', '.join(f'{one:.1f}' for one in more)}")
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=1) + "\n")


@main.command()
@click.option("--nodes", default="1,2,4,8", show_default=True, help="Numbers of simulated nodes.")
@click.option("--cases", default=1000, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="That the network sleeps for each case.")
@click.option("--listed", default=100000, show_default=True, help="Scans to list; 0 leaves it out.")
@click.option("--rows", default=2000, show_default=True, help="Rows to append.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
def cluster(nodes: str, cases: int, seconds: float, listed: int, rows: int, json_path: Path | None) -> None:
    """Measure a simulated cluster."""
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
