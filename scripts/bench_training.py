"""How fast a training runs beside its network alone, the stock MONAI way and nnU-Net; and what preprocessing costs.

Each part runs in a fresh process on the same phantoms, network, loss, optimizer, window, batch and precision:

    network   the network alone: training steps on random data that stays on the device
    loader    the batches alone: what `ours` could do at most with a network that takes no time
    ours      the training of this package: cache, threads, augmentation, checkpoints, log
    stock     as MONAI's bundles do it: CacheDataset, Spacingd and random transforms on the CPU, DataLoader processes
    nnunet    nnU-Net's own loader, augmentation and training step, where nnunetv2 is installed
    before    as ours, of an older tree of this package (``--before``, from ``git archive``) and with its own script

    python scripts/bench_training.py --network unet3d --patch 96 --iterations 20
    python scripts/bench_training.py --preprocessing

On one GPU, in less than four minutes (``scripts/bench_gpu.sh`` does this beside the figures of inference):

    python scripts/bench_training.py --prepare --folder data --patch 128 --shape 160 144 136
    python scripts/bench_training.py --network unet3d --patch 128 --batch 2 --precision bf16 --folder data \
        --iterations 200 --warmup 60 --seconds 12 --limit 60 --workers 14 --lines figures.jsonl

What ends an epoch (checkpoint, log) counts. Times of a busy machine say nothing: compare ratios, on an idle one. The
load before each part is in the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from typing import Any

import torch

PARTS = ("network", "loader", "ours", "stock", "nnunet", "before")
SPACING = [1.5, 1.5, 2.0]  # mm, of the model grid
TRAIN_CASES, CASES = 6, 8
EPOCH = 16  # times that the cases are gone through in what counts as an epoch: as many steps as with a real data set
SCAN: dict[str, Any] = {  # of LiTS' size and axis order
    "shape": (512, 512, 400),
    "spacing": (0.75, 0.75, 1.0),
    "affine": [[-0.75, 0, 0, 192], [0, -0.75, 0, 192], [0, 0, 1, -200], [0, 0, 0, 1]],
}
SAME = (
    "patch", "batch", "precision", "iterations", "warmup", "seconds", "workers", "augmentation", "threads", "repeat",
    "folder",
)  # fmt: skip


class Enough(Exception):
    """The last step that counts is done."""


class Watch:
    """Time of training steps after the first ones, and the share of it that went by waiting for data."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.warmup, self.iterations, self.seconds = options.warmup, options.iterations, options.seconds
        self.device = device
        self.steps, self.waited, self.asked, self.started, self.cpu_started = 0, 0.0, 0.0, 0.0, 0.0
        self.use: list[int] = []
        if device.type == "cuda":
            threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            try:
                self.use.append(int(torch.cuda.utilization(self.device)))
            except Exception:  # without nvidia-ml-py nobody tells
                return
            time.sleep(0.1)

    def ask(self, *_: Any) -> None:
        """A batch is asked for."""
        self.asked = time.perf_counter()

    def receive(self, *_: Any) -> None:
        """It has arrived."""
        self.waited += time.perf_counter() - self.asked

    def step(self, *_: Any) -> None:
        """A step is done; raises Enough after the last one that counts."""
        self.steps += 1
        if self.steps == self.warmup:
            self._settle()
            self.started, self.waited = time.perf_counter(), 0.0
            self.cpu_started = time.process_time()
            self.use.clear()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
        in_time = self.steps <= self.warmup or time.perf_counter() - self.started < self.seconds
        if self.steps == self.warmup + self.iterations or not in_time:
            self._settle()
            raise Enough

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def attach(self, trainer: Any) -> None:
        """Watch an ignite trainer."""
        from ignite.engine import Events

        trainer.add_event_handler(Events.GET_BATCH_STARTED, self.ask)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self.receive)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.step)

    def figures(self) -> dict[str, Any]:
        """Return the figures after Enough."""
        seconds, steps = time.perf_counter() - self.started, self.steps - self.warmup
        cuda = self.device.type == "cuda"
        return {
            "iterations_per_second": steps / seconds,
            "steps": steps,
            "core_seconds_per_step": (time.process_time() - self.cpu_started) / steps,
            "data_wait_share": self.waited / seconds,
            "gpu_utilisation": statistics.mean(self.use) / 100 if self.use else None,
            "peak_gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        }


def watched(watch: Watch, train: Callable[[], Any]) -> dict[str, Any]:
    """Train until the watch has seen enough."""
    try:
        train()
    except Enough:
        return watch.figures()
    raise RuntimeError(f"the training ended after {watch.steps} steps")


def device_here() -> torch.device:
    """Return the device that the parts run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_config(options: argparse.Namespace) -> dict[str, Any]:
    """Return the training's config for the options, as ``liver-pipeline train`` would merge it."""
    from liver_pipeline.bundle.layers import merge_layers

    amp = options.precision != "f32"
    settings: dict[str, Any] = {
        "spacing": SPACING,
        "roi_size": [options.patch] * 3,
        "batch_size": options.batch,
        "crops_per_case": 1,
        "num_workers": options.workers,
        "split_fractions": [TRAIN_CASES / CASES, 1 - TRAIN_CASES / CASES, 0.0],
        "dataset_dir": str(Path(options.folder) / "phantoms"),
        "cache_dir": str(Path(options.folder) / "cache"),
        "split_file": str(Path(options.folder) / "split.json"),
        "accept": ["HU_SCALE"],  # a small --shape shows the inside of a body alone, no air
        "amp": amp,
        "max_epochs": 10**6,
        "val_interval": 10**6,
        "train::dataset::data": f"$@usable['train'] * {EPOCH}",
        "train::hard_cases::cases": "$@usable['train']",
        "augment_device": "$@device" if options.augment_on_gpu else "cpu",
    }
    if amp:
        settings["amp_dtype"] = options.precision
    return merge_layers({"network": options.network, "augmentation": options.augmentation}, overrides=settings)["train"]


def dtype_of(precision: str) -> str:
    """Return PyTorch's name of a precision."""
    return {"bf16": "bfloat16", "fp16": "float16", "f32": "float32"}[precision]


def parser_for(options: argparse.Namespace, name: str) -> Any:
    """Return a config parser whose run folder is ``name``."""
    from monai.bundle import ConfigParser

    from liver_pipeline.networks.acceleration import settle_randomness

    root = Path(options.folder) / name
    (root / "models").mkdir(parents=True, exist_ok=True)
    settle_randomness(0, deterministic=False)  # for all parts: cuDNN may take its fastest kernels
    return ConfigParser({**train_config(options), "bundle_root": str(root)})


def make_steps(options: argparse.Namespace, parser: Any) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return one training step of the config's network, loss and optimizer on (B, 1, X, Y, Z)."""
    network, loss, optimizer = (parser.get_parsed_content(key) for key in ("network", "train::loss", "optimizer"))
    network.train()
    scaler = torch.amp.GradScaler(enabled=options.precision == "fp16")
    dtype = getattr(torch, dtype_of(options.precision))

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(image.device.type, dtype=dtype, enabled=options.precision != "f32"):
            value = loss(network(image), label)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def run_network(options: argparse.Namespace) -> dict[str, Any]:
    """Train on the same random batch again and again."""
    parser = parser_for(options, "network")
    device = device_here()
    step, watch = make_steps(options, parser), Watch(options, device)
    image = torch.rand(options.batch, 1, *[options.patch] * 3, device=device)
    label = torch.randint(0, 3, image.shape, device=device, dtype=torch.uint8)

    def train() -> None:
        while True:
            step(image, label)
            watch.step()

    return watched(watch, train)


def run_loader(options: argparse.Namespace) -> dict[str, Any]:
    """Ask for batch after batch."""
    parser = parser_for(options, "loader")
    parser.get_parsed_content("usable")
    loader, watch = parser.get_parsed_content("train::dataloader"), Watch(options, device_here())

    def load() -> None:
        for epoch in itertools.count(1):
            loader.set_epoch(epoch)
            for _ in loader:
                watch.step()

    return watched(watch, load)


def run_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Train as ``liver-pipeline train`` does."""
    from liver_pipeline.engines.training import run

    shutil.rmtree(Path(options.folder) / f"ours_{options.network}", ignore_errors=True)  # else it would go on
    parser = parser_for(options, f"ours_{options.network}")
    watch = Watch(options, device_here())
    parser.get_parsed_content("cache")
    begin = time.perf_counter()
    parser.get_parsed_content("usable")
    prepared = time.perf_counter() - begin
    trainer, log, checkpoint = (parser.get_parsed_content(f"train::{key}") for key in ("trainer", "log", "checkpoint"))
    parser.get_parsed_content("validate::early_stop").set_trainer(trainer)  # as the config's `run` does
    watch.attach(trainer)
    return {**watched(watch, lambda: run(trainer, log, checkpoint)), "seconds_prepare": prepared}


def run_stock(options: argparse.Namespace) -> dict[str, Any]:
    """Train as MONAI's bundles do, with the same augmentation."""
    from monai.data import CacheDataset, DataLoader
    from monai.engines import SupervisedTrainer
    from monai.transforms import Compose, RandCropByPosNegLabeld, SpatialPadd
    from torch.utils.data import ConcatDataset

    parser = parser_for(options, "stock")
    keys, window = ["image", "label"], [options.patch] * 3
    crop = RandCropByPosNegLabeld(keys, label_key="label", spatial_size=window, num_samples=1)
    pad = SpatialPadd(keys, spatial_size=window)
    transform = Compose([*stock_preprocessing(), pad, crop, *parser.get_parsed_content("augmentation")])
    begin = time.perf_counter()
    cases = parser.get_parsed_content("split")["train"]
    dataset = CacheDataset(cases, transform, num_workers=max(options.workers, 1), progress=False)
    prepared = time.perf_counter() - begin
    loader = DataLoader(
        ConcatDataset([dataset] * EPOCH), batch_size=options.batch, shuffle=True, num_workers=options.workers,
        pin_memory=torch.cuda.is_available(), persistent_workers=options.workers > 0,
    )  # fmt: skip
    trainer = SupervisedTrainer(
        device=device_here(),
        max_epochs=10**6,
        train_data_loader=loader,
        network=parser.get_parsed_content("network"),
        optimizer=parser.get_parsed_content("optimizer"),
        loss_function=parser.get_parsed_content("train::loss"),
        amp=options.precision != "f32",
        amp_kwargs={"dtype": getattr(torch, dtype_of(options.precision))},
    )
    watch = Watch(options, device_here())
    watch.attach(trainer)
    return {**watched(watch, trainer.run), "seconds_prepare": prepared}


def stock_preprocessing() -> list[Any]:
    """Return the deterministic transforms of MONAI's CT bundles."""
    from monai.transforms import EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd

    keys = ["image", "label"]
    return [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, pixdim=SPACING, mode=("bilinear", "nearest")),
        ScaleIntensityRanged("image", -175.0, 250.0, 0.0, 1.0, clip=True),
    ]


def has_nnunet() -> bool:
    """Tell whether nnU-Net can be compared with."""
    return importlib.util.find_spec("nnunetv2") is not None


def run_nnunet(options: argparse.Namespace) -> dict[str, Any]:
    """Train the same network in nnU-Net's own loop: its preprocessing, loader, augmentation, loss and step."""
    root = nnunet_root(options)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    begin = time.perf_counter()
    plans, description = nnunet_plans(options, root)
    prepared = time.perf_counter() - begin

    class Trainer(nnUNetTrainer):  # type: ignore[misc]
        """nnU-Net's trainer with the network of the other parts."""

        @staticmethod
        def build_network_architecture(*_: Any, **__: Any) -> torch.nn.Module:
            """Return the network; of several outputs the one at full resolution."""
            return FullResolution(parser_for(options, "nnunet_network").get_parsed_content("network"))

        def set_deep_supervision_enabled(self, enabled: bool) -> None:
            """Nothing to switch."""

    plans["continue_training"] = False  # nnunetv2 2.8 takes it from there
    trainer = Trainer(plans, "3d_fullres", "all", description, device=device_here())
    trainer.enable_deep_supervision = False
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    watch = Watch(options, device_here())

    def train() -> None:
        while True:
            watch.ask()
            batch = next(trainer.dataloader_train)
            watch.receive()
            trainer.train_step(batch)
            watch.step()

    return {**watched(watch, train), "seconds_prepare": prepared}


def prepare(options: argparse.Namespace) -> None:
    """Do what the parts do once: fill the cache, and preprocess for nnU-Net."""
    parser_for(options, "prepare").get_parsed_content("usable")
    if has_nnunet():
        nnunet_plans(options, nnunet_root(options))


class FullResolution(torch.nn.Module):
    """The first of a network's outputs."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Any:
        """Return logits (B, K, X, Y, Z)."""
        logits = self.network(image)
        return logits[0] if isinstance(logits, (list, tuple)) else logits


def nnunet_root(options: argparse.Namespace) -> Path:
    """Tell nnU-Net where its folders are; return the one above them."""
    root = Path(options.folder) / "nnunet"
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / name)
    os.environ.update({"nnUNet_n_proc_DA": str(options.workers), "nnUNet_compile": "f"})
    return root


def nnunet_plans(options: argparse.Namespace, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Preprocess the phantoms as nnU-Net does, on the others' grid, window and batch; return plans and data set."""
    kept = root / f"prepared_{options.patch}_{options.batch}.json"
    if kept.exists():
        plans, description = json.loads(kept.read_text())
        return plans, description
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    folder = root / "raw" / "Dataset901_Phantoms"
    for path in sorted((Path(options.folder) / "phantoms").glob("volume-*.nii.gz"))[:TRAIN_CASES]:
        number = path.name.removeprefix("volume-").removesuffix(".nii.gz")
        for name, source in (
            (f"imagesTr/c{number}_0000", path),
            (f"labelsTr/c{number}", path.with_name(f"segmentation-{number}.nii.gz")),
        ):
            target = folder / f"{name}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(source.resolve())
    labels = {"background": 0, "liver": 1, "tumor": 2}
    description = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": TRAIN_CASES,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIO",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    api.extract_fingerprints([901], num_processes=2, check_dataset_integrity=False)
    api.plan_experiments([901])
    path = root / "preprocessed" / "Dataset901_Phantoms" / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"].update(
        patch_size=[options.patch] * 3, batch_size=options.batch, spacing=SPACING[::-1]
    )
    path.write_text(json.dumps(plans))
    api.preprocess([901], "nnUNetPlans", configurations=("3d_fullres",), num_processes=(2,))
    kept.write_text(json.dumps([plans, description]))
    return plans, description


def draw_phantoms(options: argparse.Namespace) -> None:
    """Draw the training cases, on the model grid and larger than a window; those that are there are kept."""
    from liver_pipeline.data.phantoms import save_phantom

    folder, shape = Path(options.folder) / "phantoms", [max(n, options.patch) for n in options.shape]
    missing = [n for n in range(CASES) if not (folder / f"segmentation-{n}.nii.gz").exists()]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, CASES)) as pool:
        list(pool.map(lambda number: save_phantom(folder, number, shape=shape, spacing=SPACING), missing))


def run_preprocessing(options: argparse.Namespace) -> dict[str, Any]:
    """Preprocess one case of LiTS' size on one core: from files to the cache, and as the stock chain does."""
    from monai.transforms import Compose

    torch.set_num_threads(1)
    (case,) = scan_case(Path(options.folder) / "scan")
    config = train_config(options)
    figures: dict[str, Any] = {}
    chain = Compose(stock_preprocessing()) if options.chain == "stock" else None
    if chain is None:
        from monai.bundle import ConfigParser

        from liver_pipeline.data.cache import CaseCache

        parser = ConfigParser({**config, "bundle_root": options.folder})
        keys = ("reading", "gridding", "intensity", "train::window_centres")
        transforms = [transform for key in keys for transform in parser.get_parsed_content(key)]
        cache = CaseCache(Path(options.folder) / "cold", transforms, max_gb=100, window=[options.patch] * 3)
    seconds = []
    for _ in range(options.repeat):
        begin, cpu = time.perf_counter(), time.process_time()
        if chain is not None:
            shape = list(chain(case)["image"].shape)
        else:
            cache.prepare(case)
            shape = list(cache.load(case)["image"].shape)
            cache.path(case).unlink()
        seconds.append((time.process_time() - cpu, time.perf_counter() - begin))
    core, wall = (statistics.median(column) for column in zip(*seconds, strict=True))
    figures = {"core_seconds_per_case": core, "seconds_per_case": wall, "shape": shape}
    return {**figures, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def scan_case(folder: Path) -> list[dict[str, str]]:
    """Return the case of LiTS' size; drawn where it is not there."""
    from liver_pipeline.data.phantoms import make_phantom_dataset

    make_phantom_dataset(folder, 1, **SCAN)
    return [{"case": "scan", "image": str(folder / "volume-0.nii.gz"), "label": str(folder / "segmentation-0.nii.gz")}]


def worker(options: argparse.Namespace) -> None:
    """Run one part in this process and print its figures as JSON."""
    if options.threads:
        torch.set_num_threads(options.threads)
    parts = {"network": run_network, "loader": run_loader, "ours": run_ours, "stock": run_stock, "nnunet": run_nnunet}
    run = run_preprocessing if options.chain else parts[options.worker]
    print(json.dumps(run(options)))


def start(options: argparse.Namespace, *extra: str) -> dict[str, Any]:
    """Run one part in a fresh process and return its figures."""
    command = [sys.executable, __file__, *extra]
    command += [word for name in SAME for word in (f"--{name}", str(getattr(options, name)))]
    command += ["--augment-on-gpu"] if options.augment_on_gpu else []
    return finish(command, options, dict(os.environ))


def start_before(options: argparse.Namespace, *extra: str) -> dict[str, Any]:
    """Run the older tree's own script; it knows no ``--seconds``, and has its own cache and run folder."""
    folder = Path(options.folder) / "before"
    folder.mkdir(exist_ok=True)
    if not (folder / "phantoms").exists():
        (folder / "phantoms").symlink_to((Path(options.folder) / "phantoms").resolve())
    shutil.rmtree(folder / f"ours_{options.network}", ignore_errors=True)
    command = [sys.executable, str(options.before / "scripts" / "bench_training.py"), *extra, "--folder", str(folder)]
    known = [name for name in SAME if name not in ("seconds", "folder")]
    command += [word for name in known for word in (f"--{name}", str(getattr(options, name)))]
    path = os.pathsep.join([str(options.before.resolve()), os.environ.get("PYTHONPATH", "")])
    return finish(command, options, {**os.environ, "PYTHONPATH": path})


def finish(command: list[str], options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Run a part to its end, or to its time limit."""
    load = os.getloadavg()[0]
    limit = None if math.isinf(options.limit) else options.limit
    part = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True, env=environment)
    try:
        out, errors = part.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {options.limit:g} s", "load_before": load}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(part.pid, signal.SIGKILL)  # what its loader may have left
    if part.returncode:
        named = re.search(r"^[\w.]+(Error|Exception)\b.*", errors, re.MULTILINE)  # of a chain, the cause is told first
        return {"failed": named[0] if named else f"exit code {part.returncode}", "load_before": load}
    return {**json.loads(out.strip().splitlines()[-1]), "load_before": load}


def bench(network: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all parts with one network."""
    parts = {}
    for part in options.parts:
        run, worker = (start_before, "ours") if part == "before" else (start, part)
        parts[part] = run(options, "--network", network, "--worker", worker)
        line = json.dumps({"network": network, "part": part, "patch": options.patch, "batch": options.batch,
                           "precision": options.precision, "machine": processor(), **parts[part]})  # fmt: skip
        print(line, file=sys.stderr, flush=True)
        if options.lines:
            with options.lines.open("a") as file:
                file.write(line + "\n")
    return parts


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table."""
    lines = [
        "| network | part | steps/s | of the network alone | waiting for data | GPU use | peak GPU GB | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, parts in results.items():
        alone = parts.get("network", {}).get("iterations_per_second")
        for part, figures in parts.items():
            if "failed" in figures:
                lines.append(f"| {network} | {part} | {figures['failed']} | | | | | |")
                continue
            rate = figures["iterations_per_second"]
            cells = [
                f"{rate:.3f}",
                f"{rate / alone:.0%}" if alone else "",
                f"{figures['data_wait_share']:.1%}",
                "" if figures["gpu_utilisation"] is None else f"{figures['gpu_utilisation']:.0%}",
                "" if figures["peak_gpu_gb"] is None else f"{figures['peak_gpu_gb']:.1f}",
                f"{figures['peak_gb']:.1f}",
            ]
            lines.append(f"| {network} | {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def preprocessing_table(figures: dict[str, dict[str, Any]]) -> str:
    """Return what a case of LiTS' size costs."""
    lines = ["| chain | core seconds per case | seconds | peak GB |", "|---|---|---|---|"]
    for chain, one in figures.items():
        if "failed" in one:
            lines.append(f"| {chain} | {one['failed']} | | |")
        else:
            cells = (one["core_seconds_per_case"], one["seconds_per_case"], one["peak_gb"])
            lines.append(f"| {chain} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def processor() -> str:
    """Return the processor's name, the number of cores, and the GPU."""
    from liver_pipeline.prediction.provenance import machine

    told = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = f", {told['gpu']}" if "gpu" in told else ""
    return f"{told['cores']} cores, {told['processor']}{gpu}; torch {torch.__version__}"


def main() -> None:
    """Run the benchmark and print the tables."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", nargs="+", default=["unet3d"], help="names of configs/network")
    parser.add_argument("--patch", type=int, default=96, help="voxels along each edge of a window")
    parser.add_argument("--batch", type=int, default=2, help="windows in a batch, each of another case")
    parser.add_argument("--precision", choices=["f32", "bf16", "fp16"], default="bf16" if cuda else "f32")
    parser.add_argument("--augmentation", default="moderate", help="name of configs/augmentation")
    parser.add_argument("--augment-on-gpu", action="store_true", help="in `ours`")
    parser.add_argument("--iterations", type=int, default=20, help="steps that count")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of steps that count; it ends after them")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds for a part, its preparation included")
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 208, 150], help="of a case, at least the window's")
    parser.add_argument("--prepare", action="store_true", help="only draw and preprocess the cases; needs --folder")
    parser.add_argument("--lines", type=Path, help="append a line of JSON here for each part as it ends")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 14))
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch in the training process; 0: its own choice")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=[part for part in PARTS[:5] if part != "nnunet" or has_nnunet()]
    )
    parser.add_argument("--before", type=Path, help="folder with an older tree, for the part of that name")
    parser.add_argument("--preprocessing", action="store_true", help="the cost of a case of LiTS' size instead")
    parser.add_argument("--repeat", type=int, default=3, help="times that the case is preprocessed; the median counts")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--folder", help="where the phantoms are drawn, and kept; a temporary one otherwise")
    parser.add_argument("--worker", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--chain", choices=["ours", "stock"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part does not outlive it
    if options.worker or options.chain:
        options.network = options.network[0]
        worker(options)
        return
    if options.prepare:
        if options.folder is None:
            parser.error("--prepare needs --folder, where what it prepares is kept")
        options.network = options.network[0]
        draw_phantoms(options)
        prepare(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = options.folder or scratch
        results: dict[str, Any] = {}
        if options.preprocessing:
            scan_case(Path(options.folder) / "scan")
            results = {chain: start(options, "--chain", chain) for chain in ("stock", "ours")}
            table = preprocessing_table(results)
        else:
            draw_phantoms(options)
            results = {network: bench(network, options) for network in options.network}
            table = markdown(results)
    print(f"{processor()}\n\n{table}")
    if options.json:
        settings = {
            key: value for key, value in vars(options).items() if key not in ("json", "folder", "lines", "before")
        }
        options.json.write_text(json.dumps({"machine": processor(), "options": settings, "results": results}, indent=1))
    ended = [results] if options.preprocessing else results.values()
    if any("failed" in figures for parts in ended for figures in parts.values()):
        sys.exit("not every part ran to its end")  # why is in the table


if __name__ == "__main__":
    main()
