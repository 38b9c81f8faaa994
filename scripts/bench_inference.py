"""Time and memory of inference, stage by stage: the stock MONAI chain, this package, and the network alone.

One run uses the same phantom, network and weights for all; each chain runs in a fresh process. Times of a busy
machine say nothing: compare ratios, on an idle one.

    python scripts/bench_inference.py --slices 100 400 1000 --network unet3d

On a GPU, and a folder of scans from end to end (read, network, clean, write):

    python scripts/bench_inference.py --device cuda --slices 400 --chains ours stock folder --repeat 4

``first`` is the first time in a process, when a GPU's libraries load; the other figures are those of the repetition
with the median total.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from isal import igzip
from torch import nn

from liver_pipeline.data.phantoms import liver_phantom
from liver_pipeline.networks import place

PLANE = 512
SCAN_SPACING = (0.75, 0.75, 1.0)  # mm; a field of view of 384 mm
HU_WINDOW = (-175.0, 250.0)
CHAINS = ("stock", "ours", "probabilities", "openvino", "bf16", "raw", "folder", "before")
PRESETS: dict[str, dict[str, Any]] = {
    "unet3d": {"roi": (96, 96, 96), "batch": 1, "spacing": (1.5, 1.5, 2.0), "overlap": 0.5},
    "segresnet": {"roi": (96, 96, 96), "batch": 1, "spacing": (1.5, 1.5, 2.0), "overlap": 0.5},
    "resnet34": {"roi": (256, 256, 1), "batch": 4, "spacing": (1.5, 1.5, 0.0), "overlap": 0.0},
    "resnet50": {"roi": (256, 256, 1), "batch": 4, "spacing": (1.5, 1.5, 0.0), "overlap": 0.0},
    "none": {"roi": (96, 96, 96), "batch": 1, "spacing": (1.5, 1.5, 2.0), "overlap": 0.5},
    "none2d": {"roi": (512, 512, 1), "batch": 4, "spacing": (0.75, 0.75, 1.0), "overlap": 0.0},
}


class PhantomNetwork(nn.Module):
    """A real network's work with an answer that looks like organs: random weights alone give noise for a mask.

    Logits come from the smoothed Hounsfield values (1: liver-like, 2: bright like kidney and bone); the body's output
    is added so weakly that it changes labels only where these are nearly tied.
    """

    def __init__(self, body: nn.Module | None, *, flat: bool) -> None:
        super().__init__()
        self.body = body
        self.smooth = nn.AvgPool3d((3, 3, 1 if flat else 3), stride=1, padding=(1, 1, 0 if flat else 1))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z), HU in [0, 1], to logits (B, 3, X, Y, Z)."""
        value = self.smooth(windows)
        liver = 2.0 - 40.0 * (value - 0.68).abs()
        bright = 40.0 * (value - 0.78)
        logits = torch.cat([torch.zeros_like(value), liver, bright], dim=1)
        return logits if self.body is None else logits + 1e-3 * self.body(windows)


def make_network(name: str) -> nn.Module:
    """Return the network of a preset with fixed random weights."""
    torch.manual_seed(0)
    body: nn.Module | None = None
    if name == "unet3d":
        from monai.networks.nets import UNet

        body = UNet(3, 1, 3, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=0)
    elif name == "segresnet":
        from monai.networks.nets import SegResNet

        body = SegResNet(init_filters=16, in_channels=1, out_channels=3)
    elif name.startswith("resnet"):
        import segmentation_models_pytorch as smp

        from liver_pipeline.networks.slicewise import Slicewise

        body = Slicewise(smp.Unet(name, encoder_weights=None, in_channels=1, classes=3))
    return PhantomNetwork(body, flat=PRESETS[name]["roi"][2] == 1).eval()


def write_phantom(path: Path, slices: int) -> None:
    """Write an int16 CT phantom of 512 x 512 x ``slices`` as .nii.gz, plane by plane."""
    coarse, _ = liver_phantom((128, 128, 100), (3.0, 3.0, 3.0), noise_hu=0.0)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((PLANE, PLANE, slices))
    header.set_xyzt_units("mm")
    affine = np.diag([-SCAN_SPACING[0], -SCAN_SPACING[1], SCAN_SPACING[2], 1.0])
    affine[:2, 3] = PLANE * SCAN_SPACING[0] / 2
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["vox_offset"] = 352
    rng = np.random.default_rng(0)
    with igzip.open(path, "wb", compresslevel=2) as file:
        file.write(header.binaryblock + bytes(4))
        for z in range(slices):
            plane = np.repeat(np.repeat(coarse[:, :, z * 100 // slices], 4, axis=0), 4, axis=1)
            plane = plane[::-1, ::-1] + np.rint(rng.normal(0.0, 12.0, plane.shape)).astype(np.int16)
            file.write(np.clip(plane, -1024, 3071).astype("<i2").tobytes(order="F"))


class Stages:
    """Seconds by stage; the time inside the network is taken out of the stage that runs it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds = 0.0  # of all stages and threads

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one stage."""
        begin, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        self.cpu_seconds += time.process_time() - cpu

    def move(self, name: str, source: str, seconds: float) -> None:
        """Count ``seconds`` under ``name`` and not under ``source``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.seconds[source] -= seconds


def timed(network: nn.Module, stages: Stages) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network as a function that adds up its time."""
    stages.seconds["network"] = 0.0

    def run(windows: torch.Tensor) -> torch.Tensor:
        begin = time.perf_counter()
        logits = network(windows)
        if logits.is_cuda:
            torch.cuda.synchronize()
        stages.seconds["network"] += time.perf_counter() - begin
        return logits  # type: ignore[no-any-return]

    return run


def run_stock(scan: Path, output: Path, preset: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """Run MONAI's own chain, as its bundles do."""
    from monai.data.image_reader import NibabelReader
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    stages = Stages()
    pre = Compose(
        [
            LoadImaged("image", reader=NibabelReader),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", preset["spacing"]),
            ScaleIntensityRanged("image", *HU_WINDOW, 0.0, 1.0, clip=True),
        ]
    )
    with stages("read and preprocess"):
        data: Any = pre({"image": str(scan)})
    inferer = SlidingWindowInferer(preset["roi"], preset["batch"], preset["overlap"], mode="gaussian")
    with stages("windows"), torch.inference_mode():
        logits: Any = inferer(data["image"][None].to(preset["device"]), timed(network, stages))
        data["pred"] = logits.softmax(1)[0]
        del logits
    stages.seconds["windows"] -= stages.seconds["network"]
    with stages("invert"):
        data = Invertd("pred", pre, orig_keys="image", nearest_interp=False)(data)
    with stages("argmax"):
        data = AsDiscreted("pred", argmax=True)(data)
    with stages("write"):
        save = SaveImaged(
            "pred",
            output_dir=output.parent,
            output_postfix="",
            output_dtype=np.uint8,
            separate_folder=False,
            print_log=False,
        )
        data["pred"].meta["filename_or_obj"] = output.name
        save(data)
    return {"seconds": stages.seconds, "cpu_seconds": stages.cpu_seconds}


def run_ours(
    scan: Path,
    output: Path,
    preset: dict[str, Any],
    network: nn.Module,
    *,
    backend: str,
    precision: str = "f32",
    probabilities: bool = False,
) -> dict[str, Any]:
    """Run this package's chain; converting to OpenVINO is a stage of its own, since it happens once per weights."""
    from dataclasses import replace

    from liver_pipeline.inferers.streaming import StreamingInferer
    from liver_pipeline.io.probabilities import write_probabilities
    from liver_pipeline.io.volumes import read_scan, write_label_map
    from liver_pipeline.transforms.load import LoadScand

    stages = Stages()
    inferer = StreamingInferer(
        preset["roi"],
        preset["batch"],
        preset["overlap"],
        backend=backend,
        precision=precision,
        skip_air=preset["skip_air"],
        probabilities=probabilities,
    )
    with stages("read"):
        opened = read_scan(scan)
        data: Any = LoadScand("image")({"image": opened})
        like = replace(opened, array=np.broadcast_to(np.uint8(0), opened.array.shape))  # the voxels can go
        del opened
    with stages("preprocess"):
        for transform in preprocessing(preset):
            data = transform(data)
    with stages("windows"):
        pred = inferer(data["image"][None], network)
    record = pred.meta["inference"]
    stages.move("convert", "windows", record["seconds_conversion"])
    stages.move("network", "windows", record["seconds_network"])
    stages.move("upsample and argmax", "windows", record["seconds_upsampling"])
    if probabilities:
        with stages("write probabilities"):
            levels = pred.meta.pop("probabilities")[0].numpy()
            write_probabilities(output.with_name(f"levels_{output.name}"), levels, like)
    with stages("write"):
        write_label_map(output, pred.numpy()[0, 0], like, overwrite=True)
    return {"seconds": stages.seconds, "cpu_seconds": stages.cpu_seconds, "record": record}


def preprocessing(preset: dict[str, Any]) -> list[Any]:
    """Return this package's transforms from scan to network."""
    from liver_pipeline.transforms import ToModelGridd, WindowHud

    on_gpu = {} if preset["resample_on"] == "cpu" else {"device": preset["resample_on"]}
    return [ToModelGridd("image", spacing=preset["spacing"], **on_gpu), WindowHud("image", HU_WINDOW)]


def run_folder(scan: Path, output: Path, preset: dict[str, Any], network: nn.Module, count: int) -> dict[str, Any]:
    """Segment a folder of copies of the scan as ``predict`` does, after one that is not timed."""
    from monai.data import Dataset
    from monai.transforms import Compose

    from liver_pipeline.inferers import StreamingInferer
    from liver_pipeline.prediction.case_runner import CaseRunner
    from liver_pipeline.prediction.folder_run import FolderRun
    from liver_pipeline.prediction.plan import find_scans
    from liver_pipeline.transforms import FillLiverHolesd, KeepLargestLiverd, LoadScand

    folder = output.with_suffix("").with_suffix("")  # without .nii.gz
    inferer = StreamingInferer(
        preset["roi"], preset["batch"], preset["overlap"], skip_air=preset["skip_air"], backend=preset["backend"]
    )
    shutil.rmtree(folder, ignore_errors=True)
    figures: dict[str, Any] = {}
    for name, copies in (("first", 1), ("scans", count)):
        (folder / name).mkdir(parents=True)
        for number in range(copies):
            (folder / name / f"{number}.nii.gz").symlink_to(scan.resolve())
        runner = CaseRunner(
            preprocessing=Compose([LoadScand("image"), *preprocessing(preset)]),
            inferer=inferer,
            network=network,
            postprocessing=Compose([KeepLargestLiverd("pred"), FillLiverHolesd("pred")]),
            device=preset["device"],
        )
        scans = Dataset(find_scans(folder / name))
        run = FolderRun(dataset=scans, output_dir=folder / f"{name}_masks", runner=runner, progress=False)
        begin, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            summary = run.run()
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        assert summary.done == copies, summary
        figures[f"seconds_{name}"] = seconds
    records = [json.loads(path.read_text()) for path in (folder / "scans_masks").glob("*.json")]
    stages = {
        stage: statistics.mean(record["timing"]["stages"][stage]["seconds"] for record in records)
        for stage in records[0]["timing"]["stages"]
    }
    shutil.copy(folder / "scans_masks" / "0.nii.gz", output)
    in_network = records[0]["timing"]["seconds_network"]
    return {
        **figures,
        "scans": count,
        "scans_per_second": count / seconds,
        "stages": stages,
        "seconds": {"network": in_network, "all else": seconds / count - in_network},  # of one scan
        "cpu_seconds": cpu,
        "record": records[0]["inference"],
    }


def run_raw(preset: dict[str, Any], network: nn.Module, windows: int) -> dict[str, Any]:
    """Run the network alone on as many windows as the others do."""
    stages = Stages()
    batch = torch.rand(preset["batch"], 1, *preset["roi"], device=preset["device"])
    run = timed(network, stages)
    with torch.inference_mode():
        network(batch)
        for _ in range(0, windows, preset["batch"]):
            run(batch)
    return {"seconds": stages.seconds, "cpu_seconds": stages.cpu_seconds}


def worker(options: argparse.Namespace) -> None:
    """Run one chain in this process and print its figures as JSON."""
    torch.set_num_threads(options.threads)
    preset = {
        **PRESETS[options.network], "skip_air": options.skip_air, "device": options.device,
        "resample_on": options.resample_on or options.device, "backend": "auto",
    }  # fmt: skip
    network = place(make_network(options.network), options.device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runs = [run_chain(options, preset, network) for _ in range(options.repeat)]
    for figures in runs:
        seconds = figures["seconds"]
        figures["total"] = sum(seconds.values()) - seconds.get("convert", 0.0)  # no imports either
        figures["outside_network"] = figures["total"] - seconds["network"]
    figures = sorted(runs[1:] or runs, key=lambda one: float(one["total"]))[len(runs[1:] or runs) // 2]
    figures["first"] = runs[0]["total"]
    figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    figures["peak_before_gb"] = before * 1024 / 1e9
    if options.device != "cpu":
        figures["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        figures["reserved_gpu_gb"] = torch.cuda.max_memory_reserved() / 1e9
    print(json.dumps(figures))


def run_chain(options: argparse.Namespace, preset: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """Run one chain once."""
    scan, output = Path(options.scan), Path(options.mask)
    if options.worker == "stock":
        figures = run_stock(scan, output, preset, network)
    elif options.worker == "folder":
        figures = run_folder(scan, output, preset, network, options.scans)
    elif options.worker == "raw":
        figures = run_raw(preset, network, options.windows)
    else:
        backend = "torch" if options.worker in ("ours", "probabilities") else "openvino"
        precision = "bf16" if options.worker == "bf16" else "f32"
        figures = run_ours(
            scan,
            output,
            preset,
            network,
            backend=backend,
            precision=precision,
            probabilities=options.worker == "probabilities",
        )
    return figures


def start(chain: str, scan: Path, mask: Path, options: argparse.Namespace, windows: int = 0) -> dict[str, Any]:
    """Run one chain in a fresh process and return its figures."""
    command = [sys.executable, __file__, "--worker", "ours" if chain == "before" else chain]
    command += ["--scan", str(scan), "--mask", str(mask)]
    command += ["--network", options.network, "--threads", str(options.threads), "--windows", str(windows)]
    command += ["--skip-air"] if options.skip_air else []
    command += ["--device", options.device, "--scans", str(options.scans)]
    resample_on, environment = options.resample_on, dict(os.environ)
    if chain == "before":  # an older tree of this package, which resampled on the CPU
        resample_on = "cpu"
        environment["PYTHONPATH"] = os.pathsep.join([str(options.before.resolve()), environment.get("PYTHONPATH", "")])
    command += ["--resample-on", resample_on] if resample_on else []
    command += ["--repeat", "1" if chain == "folder" else str(options.repeat)]
    limit = None if math.isinf(options.limit) else options.limit
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {options.limit:g} s"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def agreement(one: Path, other: Path) -> float:
    """Return the share of voxels with the same label."""
    masks = [np.asarray(nib.load(path).dataobj) for path in (one, other)]
    return float(np.mean(masks[0] == masks[1]))


def bench(slices: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all chains on a phantom of so many slices."""
    scan = scan_file(options.keep or folder, slices)
    masks = scan.parent
    result: dict[str, Any] = {"slices": slices, "scan_mb": scan.stat().st_size / 1e6, "chains": {}}
    windows = 0
    for chain in sorted(options.chains, key=lambda name: name == "raw"):
        load = os.getloadavg()[0]
        figures = start(chain, scan, masks / f"{chain}_{slices}.nii.gz", options, windows)
        figures["load_before"] = load
        result["chains"][chain] = figures
        if record := figures.get("record"):
            windows = record["windows"] - record["skipped_windows"]
        told(options, {"slices": slices, "chain": chain, "machine": processor(), **figures})
    kept = {chain: masks / f"{chain}_{slices}.nii.gz" for chain in CHAINS if chain not in ("folder", "raw")}
    there = {chain: path for chain, path in kept.items() if path.exists()}
    for reference in ("stock", "before"):
        others = [chain for chain in options.chains if chain in there and chain not in ("stock", reference)]
        if reference in there and (others or reference in options.chains):
            same = {chain: agreement(there[reference], path) for chain, path in there.items() if chain != reference}
            result[f"agreement_with_{reference}"] = same
            told(options, {"slices": slices, f"agreement_with_{reference}": same})
    return result


def told(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Say figures at once, and write them where they are wanted."""
    line = json.dumps(figures)
    print(line, file=sys.stderr, flush=True)
    if options.lines:
        with options.lines.open("a") as file:
            file.write(line + "\n")


def scan_file(folder: Path, slices: int) -> Path:
    """Return the phantom of so many slices; drawn where it is not there."""
    scan = folder / f"scan_{slices}.nii.gz"
    if not scan.exists():
        scan.parent.mkdir(parents=True, exist_ok=True)
        write_phantom(scan.with_name(f"part_{slices}.nii.gz"), slices)
        scan.with_name(f"part_{slices}.nii.gz").rename(scan)
    return scan


def markdown(results: list[dict[str, Any]], network: str) -> str:
    """Return the figures as a table."""
    lines = [
        f"Network {network}; 512 x 512 x slices, `.nii.gz`, 3 classes; seconds.",
        "",
        "| slices | chain | total | network | outside | peak GB | labels as stock | stages |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for chain, figures in result["chains"].items():
            if "failed" in figures:
                lines.append(f"| {result['slices']} | {chain} | {figures['failed']} | | | | | |")
                continue
            same = result.get("agreement_with_stock", {}).get(chain)
            stages = ", ".join(f"{name} {value:.1f}" for name, value in figures["seconds"].items() if name != "network")
            lines.append(
                f"| {result['slices']} | {chain} | {figures['total']:.1f} | {figures['seconds']['network']:.1f}"
                f" | {figures['outside_network']:.1f} | {figures['peak_gb']:.2f}"
                f" | {'' if same is None else f'{same:.4%}'} | {stages} |"
            )
    return "\n".join(lines)


def processor() -> str:
    """Return the processor's name and the number of cores."""
    from liver_pipeline.prediction.provenance import machine

    told = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = f", {told['gpu']}" if "gpu" in told else ""
    return f"{told['cores']} cores, {told['processor']}{gpu}"


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 400, 1000])
    parser.add_argument("--network", choices=PRESETS, default="unet3d")
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=["stock", "ours", "openvino", "raw"])
    parser.add_argument("--skip-air", action="store_true", help="leave out windows of air: the package's default")
    parser.add_argument("--before", type=Path, help="folder with an older tree, for the chain of that name")
    parser.add_argument("--device", default="cpu", help="where the network runs, and what this package does around it")
    parser.add_argument("--resample-on", help="another device for resampling, such as cpu")
    parser.add_argument("--repeat", type=int, default=1, help="times in one process")
    parser.add_argument("--scans", type=int, default=8, help="in the folder")
    parser.add_argument("--keep", type=Path, help="folder where scans and masks are kept, and found the next time")
    parser.add_argument("--prepare", action="store_true", help="only draw the scans; needs --keep")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds for each chain")
    parser.add_argument("--lines", type=Path, help="append a line of JSON here for each chain as it ends")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--worker", choices=CHAINS, help=argparse.SUPPRESS)
    parser.add_argument("--scan", help=argparse.SUPPRESS)
    parser.add_argument("--mask", help=argparse.SUPPRESS)
    parser.add_argument("--windows", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a chain does not outlive it
    if options.worker:
        worker(options)
        return
    if options.prepare:
        if options.keep is None:
            parser.error("--prepare needs --keep, where the scans are kept")
        for slices in options.slices:
            scan_file(options.keep, slices)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = [bench(slices, options, Path(folder)) for slices in options.slices]
    print(f"{processor()}\n\n{markdown(results, options.network)}")
    if options.json:
        options.json.write_text(
            json.dumps({"machine": processor(), "network": options.network, "results": results}, indent=2)
        )
    if any("failed" in figures for result in results for figures in result["chains"].values()):
        sys.exit("not every chain ran to its end")  # why is in the table


if __name__ == "__main__":
    main()
