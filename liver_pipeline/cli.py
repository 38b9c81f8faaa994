"""The command line: arguments in, exit code out. Every command only calls the floors below."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

EXIT_BAD_USAGE = 2
EXIT_FOUND_ERRORS = 3


class OneLineErrors(click.Group):
    """A group whose commands end with one line on bad input; ``--debug`` shows the traceback instead."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors that a user can mend into one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, RuntimeError) as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"liver-pipeline: {' '.join(str(root_cause(error)).split())}", err=True)
            sys.exit(EXIT_BAD_USAGE)


def root_cause(error: BaseException) -> BaseException:
    """Return the exception at the bottom of the ``__cause__`` chain: MONAI wraps config errors in RuntimeError."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(package_name="liver-pipeline")
def main(debug: bool) -> None:
    """Segment liver (1) and liver tumors (2) in CT and MR: train, predict and evaluate networks chosen in YAML."""


# --- intake ---
@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="Folder of label maps named as the scans are, or one.")
@click.option("--modality", type=click.Choice(["ct", "mr"]), default="ct", show_default=True)
@click.option("--accept", multiple=True, metavar="CODE", help="Take errors of this code as warnings; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file: path, codes, severity, detail.")
def check(path: Path, labels: Path | None, modality: str, accept: tuple[str, ...], as_json: bool) -> None:
    """Check the scan PATH, or every scan below the folder PATH.

    Exit code 0: no errors; 3: errors found; 2: no such path, or no scans in it.
    """
    from liver_pipeline.check import check_inputs, summary_lines  # here: --help answers at once
    from liver_pipeline.inputs import find_inputs

    inputs = find_inputs(path)
    reports = []
    with tqdm(total=len(inputs), unit="scan", disable=None, leave=False) as bar:
        for report in check_inputs(inputs, labels=labels, modality=modality, accept=accept):
            reports.append(report)
            bar.update(1 if labels is None else 0.5)
            if as_json:
                click.echo(json.dumps(report.as_json()))
            for finding in () if as_json else report.findings:
                click.echo(f"{finding.severity:7s} {report.path}: {finding.code}: {finding.detail}")
    if not as_json:
        click.echo("\n".join(summary_lines(reports)))
    if any(report.severity == "error" for report in reports):
        sys.exit(EXIT_FOUND_ERRORS)


# --- end of intake ---
