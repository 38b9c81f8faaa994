"""The command line: arguments in, exit code out. Every command only calls the floors below."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

EXIT_BAD_USAGE = 2


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


# --- evaluate, describe ---
EXIT_SOME_FAILED = 3


@main.command()
@click.argument("pred_dir", type=click.Path(path_type=Path))
@click.argument("label_dir", type=click.Path(path_type=Path))
@click.argument("output_dir", type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    type=click.Choice(["lits", "lits-official", "plain"]),
    default="lits",
    show_default=True,
    help="LiTS as meant, LiTS as its program computes it (faults included), or without LiTS's own figures.",
)
@click.option("--min-lesion-ml", type=click.FloatRange(min=0), default=0.0, help="Leave smaller lesions out.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; by default one per core as memory allows.")
@click.option("--memory-gb", type=click.FloatRange(min=0.1), help="Memory for all processes; default half of it all.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
def evaluate(
    pred_dir: Path,
    label_dir: Path,
    output_dir: Path,
    protocol: str,
    min_lesion_ml: float,
    workers: int | None,
    memory_gb: float | None,
    overwrite: bool,
) -> None:
    """Score the label maps of PRED_DIR against those of LABEL_DIR; tables and a report go to OUTPUT_DIR."""
    from liver_pipeline.evaluation import evaluate_folders

    metrics = evaluate_folders(
        pred_dir,
        label_dir,
        output_dir,
        protocol=protocol,
        overwrite=overwrite,
        min_lesion_ml=min_lesion_ml,
        workers=workers,
        memory_gb=memory_gb,
    )
    for case, failure in metrics["failures"].items():
        click.echo(f"{case}: {failure['code']}: {failure['detail']}", err=True)
    for key in ("liver_dice", "tumor_dice", "lesion_dice_per_case", "lesion_recall", "lesion_precision"):
        value = metrics["global"].get(key)
        if value is not None:
            click.echo(f"{key:24} {value:.4f}")
    click.echo(f"{metrics['n_cases']} cases scored, {metrics['n_failed']} failed; results in {output_dir}")
    if metrics["failures"]:
        sys.exit(EXIT_SOME_FAILED)


# --- end of evaluate, describe ---
