"""Weights that come with the package: ordinary bundle folders, found by name.

``default`` means the newest version; ``default@1`` that one. A version never changes once it was released.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from liver_pipeline.bundle.names import share_dir

logger = logging.getLogger(__name__)

NAME = re.compile(r"(?P<name>[a-z_]+)(@(?P<version>\d+))?")


def shipped() -> dict[str, Path]:
    """Return the folders of all weights in the box by name and version, such as ``default@1``, oldest first."""
    found = {path.name: path for path in share_dir("weights").glob("*-*") if (path / "configs").is_dir()}
    numbered = sorted((*name.rsplit("-", 1), name) for name in found)
    return {f"{name}@{number}": found[key] for name, number, key in sorted(numbered, key=lambda n: (n[0], int(n[1])))}


def shipped_runs() -> dict[str, Path]:
    """Return those of :func:`shipped` that are runs; the others take masks, not scans."""
    return {name: folder for name, folder in shipped().items() if (folder / "configs" / "inference.yaml").is_file()}


def run_name(folder: str | Path) -> str:
    """Return what a ledger calls a run: weights in the box by name, such as ``default@1``, else the folder's name."""
    inside = {path.resolve(): name for name, path in shipped().items()}
    return inside.get(Path(folder).resolve(), Path(folder).resolve().name)


def run_folder(run: str | Path) -> Path:
    """Return the folder that is meant: one on disk, else the weights of that name in the box.

    Raises:
        FileNotFoundError: If ``run`` asks for a version that this package does not hold.
    """
    match = NAME.fullmatch(str(run))
    inside = [name for name in shipped() if match and name.partition("@")[0] == match["name"]]
    if not inside:
        return Path(run)
    if Path(run).exists():
        logger.warning("%s is a folder here, and is meant; the weights that come with the package are not used", run)
        return Path(run)
    assert match is not None
    wanted = f"{match['name']}@{match['version']}" if match["version"] else inside[-1]
    if wanted not in inside:
        raise FileNotFoundError(f"this version of liver-pipeline has no weights {run}; it has {', '.join(inside)}")
    return shipped()[wanted]
