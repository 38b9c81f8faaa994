"""The config layers that can be named, found without loading MONAI: the shell asks while somebody types."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from liver_pipeline.bundle.entry import meant, read_config
from liver_pipeline.bundle.keys import root_of
from liver_pipeline.hints import did_you_mean

PACKAGE_DIR = Path(__file__).resolve().parents[1]
DEFAULT_LAYERS = {
    "data": "lits",
    "modality": "ct",
    "network": "unet3d",
    "augmentation": "moderate",
    "recipe": "default",
}
# Which layers make up a workflow, lowest precedence first; the experiment and key=value follow.
WORKFLOWS = {
    "train": ("base", "data", "modality", "network", "augmentation", "recipe", "train"),
    "evaluate": ("base", "data", "modality", "network", "inference", "evaluate"),
    "inference": ("base", "modality", "network", "inference"),
}


def share_dir(name: str) -> Path:
    """Return the folder ``configs`` or ``bundle`` as installed, or as it lies in a checkout."""
    installed = PACKAGE_DIR / "share" / name
    return installed if installed.is_dir() else PACKAGE_DIR.parent / name


def layer_names(kind: str) -> list[str]:
    """List what can be named as ``kind`` (data, modality, network, augmentation, recipe or experiment)."""
    return sorted(path.stem for path in (share_dir("configs") / kind).glob("*.yaml"))


def layer_summary(kind: str, name: str) -> str:
    """Return the comment in the first line of a layer file."""
    return layer_file(kind, name).read_text().splitlines()[0].lstrip("# ")


def layer_file(kind: str, name: str) -> Path:
    """Find a layer by its name, or take ``name`` as the path of a YAML file.

    Raises:
        ValueError: If it is neither; the message lists the known names.
    """
    name = str(name)  # a layer called 2017 in YAML
    path = share_dir("configs") / kind / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).suffix in {".yaml", ".yml"}:
        if Path(name).is_file():
            return Path(name)
        raise FileNotFoundError(f"no {kind} file at {Path(name).resolve()}")
    known = layer_names(kind)
    hint = did_you_mean(name, known)
    raise ValueError(f"unknown {kind} '{name}'{hint}; known are {', '.join(known)}, or a path to YAML")


def users_of(key: str) -> tuple[list[str], list[str]]:
    """List the workflows that use a key, and the layers that set it, such as ``--data phantom``, where these use it."""
    files = {name: share_dir("configs") / f"{name}.yaml" for name in ("base", *WORKFLOWS)}
    files |= {kind: layer_file(kind, name) for kind, name in DEFAULT_LAYERS.items()}
    setting = {part for part, path in files.items() if key in _roots(path)}
    named = {kind: [n for n in layer_names(kind) if key in _roots(layer_file(kind, n))] for kind in DEFAULT_LAYERS}
    layers = [f"--{kind} {' or '.join(names)}" for kind, names in named.items() if names]
    return [workflow for workflow, parts in WORKFLOWS.items() if setting & set(parts)], layers


@cache
def _roots(path: Path) -> frozenset[str]:
    return frozenset(root_of(key) for key in read_config(path))


@cache
def default_values() -> dict[str, Any]:
    """Return the value of each key in the default layers, a training's where workflows differ."""
    values: dict[str, Any] = {}
    for workflow in ("inference", "evaluate", "train"):
        for part in WORKFLOWS[workflow]:
            kind = DEFAULT_LAYERS.get(part)
            values |= read_config(layer_file(part, kind) if kind else share_dir("configs") / f"{part}.yaml")
    return {key: meant(value) for key, value in values.items()}
