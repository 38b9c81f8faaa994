"""Judge exported default weights on scans that they were not trained on, by the pipeline's own commands.

WEIGHTS holds liver_fp16.pt and tumor_fp16.pt. TESTS holds a folder ct, a folder mr, or both, each with images/ and
labels/ of the same names. OUT gets the runs, the masks, the evaluations, and card.json with the figures of each scan.

Example: python scripts/judge_default_weights.py out tests judged
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from liver_pipeline.bundle.compose import compose
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.io.files import file_sha256, write_json

MODALITIES = {"ct": "ct", "mr": "mr"}  # folder of scans, and the layer that reads them
NETWORKS = {"liver_fp16.pt": "liver/models/model.pt", "tumor_fp16.pt": "models/model.pt"}


def assemble(weights: Path, run: Path, modality: str) -> Path:
    """Make a run folder of exported weights, which predicts like any other."""
    compose(run, {"modality": modality}, experiment="default")
    for name, place in NETWORKS.items():
        shutil.copyfile(weights / name, run / place)
    return run


def judge(run: Path, tests: Path, out: Path) -> dict[str, Any]:
    """Segment and score the scans of one modality; return what metrics.json says of each case."""
    paths = {"dataset_dir": str((tests / "images").absolute()), "output_dir": str((out / "masks").absolute())}
    try:
        run_workflow(run, "inference", paths)
    except SystemExit as ended:  # a folder run ends with its exit code
        if ended.code:
            raise
    metrics = evaluate(out / "masks", tests / "labels", out / "evaluation", image_dir=tests / "images")
    cases: dict[str, Any] = metrics["cases"]
    return cases


@click.command(help=__doc__)
@click.argument("weights", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("tests", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(weights: Path, tests: Path, out: Path) -> None:
    """Assemble, judge, write the card's figures."""
    card: dict[str, Any] = {"weights": {name: file_sha256(weights / name) for name in NETWORKS}}
    for folder, modality in MODALITIES.items():
        if (tests / folder).is_dir():
            run = assemble(weights, out / folder / "run", modality)
            card[folder] = judge(run, tests / folder, out / folder)
    write_json(out / "card.json", card)


if __name__ == "__main__":
    main()
