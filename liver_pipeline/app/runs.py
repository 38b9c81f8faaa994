"""Which runs can be chosen in the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from liver_pipeline.bundle.folders import WEIGHTS, fold_dirs
from liver_pipeline.bundle.shipped import shipped

DEEPEST = 4  # folders below --runs, as in runs/2026/june/liver


class Model(NamedTuple):
    """What segments a case: ``run`` as ``load_segmenter`` takes it, ``modality`` where it is not the run's own."""

    run: str
    modality: str | None = None


def run_choices(runs: Path | None) -> dict[str, Model]:
    """Return what can be chosen by its name, the default first; the weights in the box are there for CT and for MR.

    Args:
        runs: Trained run folders and cross-validations below it are called by their paths; None for none.
    """
    found: dict[str, Model] = {}
    if any(key.startswith("default@") for key in shipped()):
        found |= {"default": Model("default"), "default modality=mr": Model("default", "mr")}
    if runs is not None:
        found |= {path.relative_to(runs).as_posix(): Model(str(path.resolve())) for path in _below(runs, DEEPEST)}
    return found


def _below(folder: Path, levels: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if all((run / WEIGHTS).is_file() for run in fold_dirs(path) or [path]):
            yield path
        elif levels > 1:
            yield from _below(path, levels - 1)
