"""The whole pipeline once, on phantoms: what a new user runs first."""

from __future__ import annotations

from pathlib import Path

import click

from liver_pipeline.bundle import run_workflow, train
from liver_pipeline.evaluation import evaluate_folders
from liver_pipeline.phantoms import save_phantom

UNSEEN = (100, 101, 102)  # numbers, and seeds, of phantoms that the network has not seen


def run_demo(folder: str | Path, *, overwrite: bool = False) -> None:
    """Draw phantoms, train a small 3D U-Net, segment a folder of unseen ones, score them, and say where things are.

    Args:
        folder: Made when it does not exist.
        overwrite: Replace an earlier demo in it.

    Raises:
        FileExistsError: If an earlier demo is in the way and ``overwrite`` is false.
    """
    folder = Path(folder).resolve()
    run_dir, scans, reference = folder / "run", folder / "scans", folder / "reference"
    masks, evaluation = folder / "masks", folder / "evaluation"
    click.echo(f"1/4  training a small 3D U-Net on phantoms: {run_dir}")
    train(run_dir, {}, experiment="smoke", overrides={"dataset_dir": str(folder / "data")}, overwrite=overwrite)
    click.echo(f"2/4  drawing {len(UNSEEN)} phantoms that it has not seen: {scans}")
    for number in UNSEEN:
        save_phantom(scans, number, label_folder=reference)
    click.echo(f"3/4  segmenting them: {masks}")
    paths = {"dataset_dir": str(scans), "output_dir": str(masks)}
    run_workflow(run_dir, "inference", {**paths, "overwrite": overwrite})
    click.echo(f"4/4  scoring the masks: {evaluation}")
    metrics = evaluate_folders(masks, reference, evaluation, overwrite=overwrite)
    for name, value in metrics["global"].items():
        if name in ("liver_dice", "tumor_dice", "lesion_dice_per_case"):
            click.echo(f"     {name} {value:.3f} (phantoms; says that the code works, nothing about patients)")
    click.echo(
        f"done: report {evaluation / 'report.html'}, tables {evaluation}, log {run_dir / 'log.csv'}, masks {masks}"
    )
