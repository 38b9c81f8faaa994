"""Which runs can be chosen in the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from liver_pipeline.bundle.folders import WEIGHTS, fold_dirs
from liver_pipeline.bundle.shipped import shipped

DEEPEST = 4  # folders below --runs, as in runs/2026/june/liver


def run_choices(runs: Path | None) -> dict[str, str]:
    """Return the runs that can be chosen, the default first: name to what ``load_segmenter`` takes.

    Args:
        runs: Trained run folders and cross-validations below it are called by their paths; None for none.
    """
    found = {name: name for name in ("default",) if any(key.startswith(f"{name}@") for key in shipped())}
    if runs is not None:
        found |= {path.relative_to(runs).as_posix(): str(path.resolve()) for path in _below(runs, DEEPEST)}
    return found


def _below(folder: Path, levels: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if all((run / WEIGHTS).is_file() for run in fold_dirs(path) or [path]):
            yield path
        elif levels > 1:
            yield from _below(path, levels - 1)
