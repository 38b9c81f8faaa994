"""Data sets: checked, measured, painted, or collected from the app's cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from liver_pipeline.cli.group import main
from liver_pipeline.cli.options import FiniteRange, chosen_layers, label_map_option, layer_option, overrides_argument
from liver_pipeline.exits import EXIT_NONE_DONE, EXIT_SOME_FAILED
from liver_pipeline.io.screen import one_line


@main.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="Folder of label maps named as the scans are, or one.")
@label_map_option
@click.option("--modality", type=click.Choice(["ct", "mr"]), default="ct", show_default=True)
@click.option("--accept", multiple=True, metavar="CODE", help="Take errors of this code as warnings; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file: path, codes, severity, detail.")
def check_command(
    path: Path, labels: Path | None, label_map: Any, modality: str, accept: tuple[str, ...], as_json: bool
) -> None:
    """Check the scan PATH, or every scan below the folder PATH.

    Exit code 0: no errors; 3: errors found; 2: no such path, or no scans in it.

    \b
    Example: liver-pipeline check scans/ --labels labels/ --label-map '{6: 1, 7: 2}'
    """
    if label_map is not None and labels is None:
        raise click.UsageError("--label-map says what the values of --labels mean")
    from liver_pipeline.commands.check import check_scans, summary_lines
    from liver_pipeline.io.studies import find_volumes

    inputs = find_volumes(path, accept=accept)
    reports = []
    with tqdm(total=len(inputs), unit="scan", disable=None, leave=False) as bar:
        for report in check_scans(inputs, labels=labels, label_map=label_map, modality=modality, accept=accept):
            reports.append(report)
            bar.update(1 if labels is None else 0.5)
            if as_json:
                click.echo(json.dumps(report.as_json()))
            for finding in () if as_json else report.findings:
                click.echo(one_line(f"{finding.severity:7s} {report.path}: {finding.code}: {finding.detail}"))
    if not as_json:
        click.echo("\n".join(summary_lines(reports)))
    if any(report.severity == "error" for report in reports):
        sys.exit(EXIT_SOME_FAILED)


@main.command("plan")
@click.argument("output_dir", metavar="OUT_DIR")
@click.option("--gpu-memory-gb", type=FiniteRange(min=1), default=24.0, show_default=True, help="Of the GPU.")
@layer_option("experiment", "Keep this one as it is; only fill in the data set's HU window, mean and SD.")
@layer_option("modality", "ct, mr or a variant of them (default: ct).")
@layer_option("data", "How the data set lies on disk (default: lits).")
@layer_option("network", "Network to plan for (default: unet3d).")
@click.option("--overwrite", is_flag=True, help="Replace an experiment.yaml that was edited.")
@overrides_argument
def plan_command(
    output_dir: str,
    experiment: str | None,
    gpu_memory_gb: float,
    overwrite: bool,
    overrides: tuple[str, ...],
    **chosen: str,
) -> None:
    """Look at a data set once; write its fingerprint, a page, and an experiment file that fits it into OUT_DIR.

    The same command again reads only cases that are new or changed. Exit code: 0 all cases can be used, 3 some cannot,
    4 none can, or none holds liver or tumor.

    \b
    Example: liver-pipeline plan plans/lits --network dynunet dataset_dir=LiTS
             liver-pipeline train runs/lits --experiment plans/lits/experiment.yaml dataset_dir=LiTS
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.commands.plan import plan

    values = parse_overrides(overrides)
    options: Any = {"experiment": experiment, "gpu_memory_gb": gpu_memory_gb, "overwrite": overwrite}
    planned = plan(output_dir, chosen_layers(**chosen), overrides=values, **options)
    for row in planned.rows:
        for finding in () if row["usable"] else row["findings"]:
            click.echo(f"{row['case']}: {finding['file']}: {finding['code']}: {finding['detail']}", err=True)
    n_cases, n_usable = planned.summary["n_cases"], planned.summary["n_usable"]
    click.echo(f"{n_usable} of {n_cases} cases can be used; look at {Path(output_dir) / 'fingerprint.html'}")
    if empty := planned.summary["n_cases_without_label"]:
        nothing = " There is nothing to learn: are these the label maps?" if empty == n_usable else ""
        click.echo(f"{empty} label maps hold neither liver (1) nor tumor (2).{nothing}", err=True)
    if planned.experiment is None:
        sys.exit(EXIT_NONE_DONE)
    click.echo(f"train it with: --experiment {planned.experiment}")
    if n_usable < n_cases:
        sys.exit(EXIT_SOME_FAILED)


@main.command("synthesize")
@click.argument("out_dir")
@click.option("--n", type=click.IntRange(min=1), default=12, show_default=True, help="Number of scans.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same scans."
)
@click.option("--shapes", type=click.Path(exists=True, file_okay=False), help="Folder of liver shapes, as .npz files.")
@click.option("--spacing", type=FiniteRange(min=0.5), default=3.0, show_default=True, help="Voxel size in mm.")
@click.option("--mr", is_flag=True, help="Random contrast, as MR has, in place of CT.")
def synthesize_command(out_dir: str, mr: bool, **options: Any) -> None:
    """Paint N abdomens with livers and tumors into OUT_DIR: images/, labels/ and a contact sheet.

    OUT_DIR is a data set for `--data folder`. Without shapes the livers are invented as well.

    \b
    Example: liver-pipeline synthesize painted --n 12 --seed 0
    """
    from liver_pipeline.commands.synthesize import synthesize

    click.echo(f"look at {synthesize(out_dir, ct=not mr, **options)}")


@main.command("collect")
@click.argument("work")
@click.argument("output", metavar="OUT")
@click.option("--data", metavar="DIR", help="What `app --data` was given, where cases were named by path.")
def collect_command(work: str, output: str, data: str | None) -> None:
    """Make OUT of the cases in the app's folder WORK that were corrected or accepted: a set for `train --data folder`.

    Exit code 3: some cases could not be taken.

    \b
    Example: liver-pipeline collect cases/ corrected/
    """
    from liver_pipeline.commands.collect import collect

    told = collect(work, output, data=data)
    for case, why in told.items():
        if why:
            click.echo(f"{case} is left out: {why}", err=True)
    left_out = sum(map(bool, told.values()))
    click.echo(f"{len(told) - left_out} cases; train on them with --data folder dataset_dir={output}")
    if left_out:
        sys.exit(EXIT_SOME_FAILED)
