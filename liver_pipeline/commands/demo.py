"""The whole pipeline once, on phantoms: what a new user runs first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.commands.evaluate import evaluate, is_scored
from liver_pipeline.commands.train import train
from liver_pipeline.data.phantoms import draw_phantom
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.tables import read_json
from liver_pipeline.io.volumes import read_label_map, read_scan
from liver_pipeline.labels import Scaled
from liver_pipeline.visualize.pictures import case_picture

UNSEEN = (100, 101, 102)  # numbers, and seeds, of phantoms that the network has not seen


def run_demo(folder: str | Path, *, overwrite: bool = False) -> None:
    """Draw phantoms, train a small 3D U-Net, segment a folder of unseen ones, score them, and say where things are.

    Args:
        folder: Made when it does not exist.
        overwrite: Begin anew; otherwise an earlier demo in it goes on where it stopped, and is shown if it is complete.
    """
    folder = Path(folder).resolve()
    run_dir, scans, reference = folder / "run", folder / "scans", folder / "reference"
    masks, evaluation = folder / "masks", folder / "evaluation"
    click.echo(f"1/4  training a small 3D U-Net on phantoms: {run_dir}")
    train(run_dir, {}, experiment="smoke", overrides={"dataset_dir": str(folder / "data")}, restart=overwrite)
    click.echo(f"2/4  drawing {len(UNSEEN)} phantoms that it has not seen: {scans}")
    for number in UNSEEN:
        draw_phantom(scans, number, label_folder=reference)
    click.echo(f"3/4  segmenting them: {masks}")
    paths = {"dataset_dir": str(scans), "output_dir": str(masks)}
    run_workflow(run_dir, "inference", {**paths, "overwrite": overwrite})
    click.echo(f"4/4  scoring the masks: {evaluation}")
    metrics = _scores(masks, reference, evaluation, scans)
    for number in UNSEEN:
        _save_overlay(number, folder)
    click.echo("done; on phantoms, which say that the code works and nothing about patients:")
    for name in ("liver_dice", "tumor_dice"):
        click.echo(f"  {name:<12} {metrics['global'][name]:.3f}")
    for what, path in (
        ("report", evaluation / "report.html"),
        ("tables", evaluation / "cases.csv"),
        ("pictures", evaluation / "overlay-*.png"),
        ("masks", masks),
        ("run", run_dir),
    ):
        click.echo(f"  {what:<12} {path}")


def _scores(masks: Path, reference: Path, evaluation: Path, scans: Path) -> dict[str, Any]:
    """Score the masks, unless that was done."""
    written = evaluation / "metrics.json"
    if is_scored(written, masks / LEDGER, reference.glob("*.nii.gz")):
        known: dict[str, Any] = read_json(written)
        return known
    return evaluate(masks, reference, evaluation, image_dir=scans, overwrite=written.is_file())


def _save_overlay(number: int, folder: Path) -> None:
    """Write the slice with most tumor, reference and prediction outlined, as PNG."""
    scan = read_scan(folder / "scans" / f"volume-{number}.nii.gz")
    pred = read_label_map(folder / "masks" / f"volume-{number}.nii.gz").array
    label = read_label_map(folder / "reference" / f"segmentation-{number}.nii.gz").array
    drawn = case_picture(pred, label, scan.spacing, Scaled(scan.array, scan.slope, scan.intercept))
    (folder / "evaluation" / f"overlay-{number}.png").write_bytes(drawn["case"])
