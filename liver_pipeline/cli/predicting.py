"""A trained run on scans, and how far it is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from liver_pipeline.cli.group import main
from liver_pipeline.cli.options import overrides_argument, overwrite_option
from liver_pipeline.commands import completion
from liver_pipeline.io.file_names import FORMATS


@main.command("predict")
@click.argument("run_dir", metavar="RUN", shell_complete=completion.complete_run)
@click.argument("scans", metavar="INPUT")
@click.argument("masks", metavar="OUTPUT")
@click.option("--retry-failed", is_flag=True, help="Try the cases again that failed last time.")
@click.option("--dry-run", is_flag=True, help="List cases, outputs and memory; write nothing.")
@click.option("--max-failures", type=click.IntRange(min=1), metavar="N", help="Stop after N failed cases.")
@click.option("--describe", is_flag=True, help="Also write a clinical table beside each mask.")
@click.option("--view", is_flag=True, help="Also write a page to look at beside each mask: <case>.html.")
@click.option("--probabilities", is_flag=True, help="Also write probabilities of liver and tumor beside each mask.")
@click.option(
    "--dicom", metavar="seg,sr,sc", help="Also write DICOM results: segmentation, report (and seg), captures."
)
@click.option("--seg-type", type=click.Choice(["binary", "labelmap"]), help="Of the segmentation (default: binary).")
@click.option("--seg-deflate", is_flag=True, help="Pack the segmentation, for archives that take it.")
@click.option("--shard", metavar="I/N", help="Only part I (from 0) of N, while other machines run the other parts.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="On a Ray cluster at host:port or auto; none starts Ray here. Write it last, or as --ray=ADDRESS.",
)
@click.option("--worker-cores", type=click.IntRange(min=1), metavar="K", help="With --ray: of each worker without GPU.")
@click.option("--series", metavar="thinnest|contrast|UID", help="Of a study's DICOM series take one (default: each).")
@click.option("--format", type=click.Choice(list(FORMATS)), help="Of the masks in a folder (default: nifti).")
@click.option("--orientation", metavar="LAS|...", help="Where the axes of Analyze files run to: they do not say so.")
@click.option("--partial", is_flag=True, help="Of a cross-validation take the folds that are trained, if some are not.")
@click.option("--ensemble", multiple=True, metavar="RUN", help="One more run to average with; repeatable.")
@overwrite_option
@overrides_argument
def predict_command(
    run_dir: str,
    scans: str,
    masks: str,
    ensemble: tuple[str, ...],
    partial: bool,
    dicom: str | None,
    shard: str | None,
    ray: str | None,
    worker_cores: int | None,
    overrides: tuple[str, ...],
    **options: Any,
) -> None:
    """Segment INPUT with RUN: label maps 0, 1 liver, 2 tumor on each scan's own grid in OUTPUT.

    RUN is a run folder, or "default": weights that come with the package. INPUT is a file (NIfTI, NRRD, MetaImage, MGH,
    Analyze), a folder searched recursively, or a DICOM study (folder or zip). OUTPUT is a folder, or for one scan a
    file, whose ending is its format. The same command again continues where it stopped. Exit code: 0 all done, 3 some
    failed, 4 none done. A RUN that holds the folds of a cross-validation gives the mean of their probabilities, as
    --ensemble does for any runs on the same grid.

    \b
    Example: liver-pipeline predict default scan.nii.gz mask.nii.gz
             liver-pipeline predict runs/r34 scans/ masks/
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.bundle.lean import import_monai_for, uncollected

    values = parse_overrides(overrides) | {key: value for key, value in options.items() if value}
    if dicom is None and (options["seg_type"] or options["seg_deflate"]):
        raise click.UsageError("--seg-type and --seg-deflate are of --dicom seg")
    if dicom is not None:
        values["dicom"] = [kind.strip() for kind in dicom.split(",")]
    with uncollected():
        if not ensemble:
            import_monai_for(run_dir, values)
        from liver_pipeline.commands.predict import predict

    spread: Any = {"shard": shard, "ray": ray, "worker_cores": worker_cores}
    predict(run_dir, scans, masks, ensemble=ensemble, partial=partial, overrides=values, **spread).exit()


@main.command("status")
@click.argument("masks", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Say it again every 5 seconds, until no run is alive.")
def status_command(masks: Path, watch: bool) -> None:
    """Say how far the runs of `predict` into the folder MASKS are: done, failed, running and where, how long still.

    It reads what they write, of one run, of shards or of a cluster, and writes the page MASKS/status.html.

    \b
    Example: liver-pipeline status masks/ --watch
    """
    from liver_pipeline.commands.status import status
    from liver_pipeline.reports.status import status_lines

    while True:
        found = status(masks)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo("\n".join(status_lines(found)))
        if not (watch and any(run["alive"] for run in found["runs"])):
            return
        time.sleep(5)
