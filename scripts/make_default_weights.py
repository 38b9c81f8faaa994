"""Train the default weights, export them in half precision, and write what the training says of itself.

MATERIAL is what scripts/prepare_default_training.py wrote. RUN is an ordinary run folder of the experiment `default`;
the command continues it if it holds a training. OUT gets the weights of both networks while they train, every minute
the best so far by synthetic validation, then metrics.json and a contact sheet of each stage's samples.

Example: python scripts/make_default_weights.py runs/default material out --seconds 500
"""

from __future__ import annotations

import copy
import csv
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import torch
from monai.bundle import ConfigParser

from liver_pipeline.bundle.compose import compose
from liver_pipeline.bundle.entry import parse_overrides, read_config
from liver_pipeline.commands.train import train
from liver_pipeline.io.files import write_json
from liver_pipeline.networks import place
from liver_pipeline.networks.weights import save_half
from liver_pipeline.synthesis.sheet import write_sheet

STAGES = {"liver": "liver", "tumor": ""}  # each network's name, and its folder in the run
SHARES = {"liver": [0.28, 0.18, 0.14, 0.40], "tumor": [0.32, 0.16, 0.20, 0.32]}  # invented, template, hybrid, real
FIRST_SHARE = 0.33  # of the time for the liver stage, which the tumor stage starts from
EXPORT_S = 60.0
SHEET_SAMPLES = 16


def overrides(material: Path, warm: Path | None, seconds: float) -> dict[str, Any]:
    """Return what the experiment leaves open: where shapes and scans lie, and for how long to train."""
    keys: dict[str, Any] = {
        "shapes_dir": str(material.absolute()),
        "liver_scans_file": str(material.absolute() / "training_scans_3mm.npz"),
        "scans_file": str(material.absolute() / "training_scans_1p5mm.npz"),
        "liver_sample_shares": SHARES["liver"],
        "sample_shares": SHARES["tumor"],
        "liver_max_seconds": seconds * FIRST_SHARE,
        "max_seconds": seconds * (1 - FIRST_SHARE),
    }
    if warm is not None:
        keys |= {"liver_initial_weights": str(warm / "liver_fp16.pt"), "initial_weights": str(warm / "tumor_fp16.pt")}
    return keys


def export(run: Path, out: Path) -> None:
    """Write the best weights that a run holds at this moment."""
    for stage, folder in STAGES.items():
        model = run / folder / "models" / "model.pt"
        if model.is_file():
            weights = torch.load(model, map_location="cpu", weights_only=True)["model"]
            save_half(out / f"{stage}_fp16.pt", weights)


def export_every_minute(run: Path, out: Path, stop: threading.Event) -> None:
    """Export until told to stop, so that a training that is killed has left its best weights."""
    while not stop.wait(EXPORT_S):
        export(run, out)


def faster_order(run: Path) -> bool:
    """Measure a training step of a run's network in both memory orders; tell whether channels last is faster."""
    if not torch.cuda.is_available():
        return True
    config = ConfigParser(read_config(run / "configs" / "train.yaml"))
    untrained = config.get_parsed_content("network_def")
    torch.backends.cudnn.benchmark = True
    image = torch.rand(config["batch_size"], 1, *config["roi_size"], device="cuda")
    times = {}
    for channels_last in (True, False):
        network = place(copy.deepcopy(untrained), "cuda", channels_last=channels_last)
        for repeat in range(7):
            if repeat == 3:
                torch.cuda.synchronize()
                started = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                loss = network(image).float().square().mean()
            loss.backward()
        torch.cuda.synchronize()
        times[channels_last] = (time.perf_counter() - started) / 4
    click.echo(f"a step takes {1000 * times[True]:.0f} ms with channels last, {1000 * times[False]:.0f} ms without")
    return times[True] <= times[False]


def report(run: Path, material: Path, out: Path) -> None:
    """Write metrics.json: the log of both stages, sources with their sha256, the machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    content: dict[str, Any] = {"device": device, "torch": torch.__version__}
    content["sources"] = json.loads((material / "sources.json").read_text())
    for stage, folder in STAGES.items():
        with (run / folder / "log.csv").open() as file:
            content[stage] = list(csv.DictReader(file))
    write_json(out / "metrics.json", content)


def sheets(run: Path, out: Path) -> None:
    """Write a contact sheet of what each stage was trained on, and print how long a sample takes."""
    for stage, folder in STAGES.items():
        config = ConfigParser(read_config(run / folder / "configs" / "train.yaml"))
        generator = config.get_parsed_content("generator")
        generator.window(0)
        started = time.perf_counter()
        windows = [[volume.cpu().numpy() for volume in generator.window(i)] for i in range(SHEET_SAMPLES)]
        click.echo(f"{stage}: {(time.perf_counter() - started) / SHEET_SAMPLES * 1000:.0f} ms a sample, alone")
        write_sheet(out / f"{stage}_samples.png", [(image, label) for image, label in windows])


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("material", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seconds", default=500.0, show_default=True, help="Of training, both stages together.")
@click.option("--warm", type=click.Path(exists=True, path_type=Path), help="Start from the weights in such an OUT.")
@click.option("--set", "pairs", multiple=True, help="Further key=value of the experiment.")
def main(run: Path, material: Path, out: Path, seconds: float, warm: Path | None, pairs: tuple[str, ...]) -> None:
    """Compose the run, train both stages, export."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started this in the background
    sys.setswitchinterval(0.001)  # generator threads must not keep the training one waiting
    out.mkdir(parents=True, exist_ok=True)
    keys = overrides(material, warm, seconds) | parse_overrides(pairs)
    if not (run / "configs").is_dir():
        compose(run, {}, experiment="default", overrides=keys)
        order = faster_order(run)
        keys |= {"channels_last": order}
    stop = threading.Event()
    exporter = threading.Thread(target=export_every_minute, args=(run, out, stop))
    exporter.start()
    try:
        train(run, {}, overrides=keys)
    finally:
        stop.set()
        exporter.join()
        export(run, out)
    report(run, material, out)
    sheets(run, out)


if __name__ == "__main__":
    main()
