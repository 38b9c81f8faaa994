"""Judge the default weights on scans that they were not trained on, by the pipeline's own commands.

TESTS holds a folder ct, a folder mr, or both, each with images/ and labels/ of the same names; such files of 3D-IRCADb
come from scripts/convert_3dircadb.py. OUT gets the masks, the evaluations, and card.json with each scan's figures.

Example: python scripts/evaluate_default.py tests judged
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.commands.predict import predict
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import write_json

MODALITIES = ("ct", "mr")  # folders of scans, and what reads them


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
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that scripts/pack_default_weights.py wrote, instead of the weights in the box.",
)
def main(tests: Path, out: Path, run: Path | None) -> None:
    """Judge, write the figures."""
    card: dict[str, Any] = {"weights": "default"}
    if run is not None:
        card["weights"] = {str(path.relative_to(run)): file_sha256(path) for path in sorted(run.rglob("model.pt"))}
    for modality in MODALITIES:
        if (tests / modality).is_dir():
            card[modality] = judge(run or "default", modality, tests / modality, out / modality)
    write_json(out / "card.json", card)


if __name__ == "__main__":
    main()
