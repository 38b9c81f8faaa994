"""Choose the thresholds of agreement of weights in the box, by painted scans that they were not trained on.

FOLDER is a version's folder; its quality.json is written. OUT gets the scans, their masks and the evaluation; what is
there already is not made again.

Example: python scripts/make_default_quality.py liver_pipeline/share/weights/default-1 out --n 10
"""

from __future__ import annotations

from pathlib import Path

import click

from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.commands.predict import predict
from liver_pipeline.commands.synthesize import synthesize
from liver_pipeline.evaluation.quality import choose_thresholds
from liver_pipeline.evaluation.run_quality import RunQuality, read_quality, write_quality
from liver_pipeline.evaluation.trust import judged_cases

SEED = 90_000_000  # the trainings' and validations' lie below


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--n", type=click.IntRange(min=5), default=10, show_default=True, help="Number of scans.")
@click.option("--spacing", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="Voxel size in mm.")
@click.option("--shapes", type=click.Path(exists=True, file_okay=False), help="Folder of liver shapes; else invented.")
def main(folder: Path, out: Path, n: int, spacing: float, shapes: str | None) -> None:
    """Paint, segment, score, choose."""
    scans = out / f"painted-{n}"
    if not (scans / "images").is_dir():
        synthesize(scans, ct=True, n=n, seed=SEED, shapes=shapes, spacing=spacing)
    predict(folder, scans / "images", out / "masks", overrides={"quality": True})
    metrics = evaluate(out / "masks", scans / "labels", out / "evaluation", protocol="plain", overwrite=True)
    cases = judged_cases(metrics["cases"])
    thresholds = choose_thresholds(cases, read_quality(folder).thresholds)
    source = f"scripts/make_default_quality.py: {len(cases)} painted scans of {spacing:g} mm, seed {SEED}"
    click.echo(write_quality(folder, RunQuality(thresholds, source, cases, painted=True)).read_text())


if __name__ == "__main__":
    main()
