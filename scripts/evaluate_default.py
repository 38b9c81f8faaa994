"""Judge the default weights on scans that they were not trained on, by the pipeline's own commands.

TESTS holds a folder ct, a folder mr, or both, each with images/ and labels/ of the same names; such files of 3D-IRCADb
come from scripts/convert_3dircadb.py. OUT gets the masks, the evaluations, and card.json with each scan's figures.

Example: python scripts/evaluate_default.py tests judged
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from liver_pipeline.bundle.compose import compose
from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.commands.predict import predict
from liver_pipeline.io.files import file_sha256, write_json

MODALITIES = ("ct", "mr")  # folders of scans, and what reads them
NETWORKS = {"liver_fp16.pt": "liver/models/model.pt", "tumor_fp16.pt": "models/model.pt"}


def assemble(weights: Path, run: Path) -> Path:
    """Make a run folder of weights that scripts/make_default_weights.py exported."""
    compose(run, {}, experiment="default")
    for name, place in NETWORKS.items():
        shutil.copyfile(weights / name, run / place)
    return run


def judge(run: str | Path, modality: str, tests: Path, out: Path) -> dict[str, Any]:
    """Segment and score the scans of one modality; return what metrics.json says of each case."""
    predict(run, tests / "images", out / "masks", overrides={"modality": modality})
    metrics = evaluate(out / "masks", tests / "labels", out / "evaluation", image_dir=tests / "images", overwrite=True)
    cases: dict[str, Any] = metrics["cases"]
    return cases


@click.command(help=__doc__)
@click.argument("tests", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that scripts/make_default_weights.py exported, instead of the weights in the box.",
)
def main(tests: Path, out: Path, weights: Path | None) -> None:
    """Judge, write the figures."""
    run = "default" if weights is None else assemble(weights, out / "run")
    card: dict[str, Any] = {"weights": "default"}
    if weights is not None:
        card["weights"] = {name: file_sha256(weights / name) for name in NETWORKS}
    for modality in MODALITIES:
        if (tests / modality).is_dir():
            card[modality] = judge(run, modality, tests / modality, out / modality)
    write_json(out / "card.json", card)


if __name__ == "__main__":
    main()
