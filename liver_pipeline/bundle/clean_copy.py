"""A run folder to hand on: configs and weights, and nothing that a training saw or left behind."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from liver_pipeline.bundle.compose import MULTI_GPU, write_config
from liver_pipeline.bundle.entry import meant, read_config
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.keys import root_of, row_of
from liver_pipeline.bundle.names import WORKFLOWS, default_values, share_dir
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.trained import stage_folders
from liver_pipeline.bundle.values import is_code
from liver_pipeline.io.files import whole_file
from liver_pipeline.networks.weights import open_weights, read_weights

TEXTS = ("LICENSE", "ATTRIBUTION.md", "docs/README.md", "configs/metadata.json", f"configs/{MULTI_GPU}.yaml")
OF_WEIGHTS = {"model", "epoch", "metric"}  # what the file of the best weights holds, and no more


def write_clean_copy(run_dir: Path, target: Path) -> list[str]:
    """Copy what makes a run folder a bundle: configs, weights, licence, sources and card; of a cascade, both stages.

    No split, log, picture, cache, checkpoint or mask goes along. A path that a config holds, such as ``dataset_dir``,
    and the address of an MLflow server become what they are by default.

    Args:
        run_dir: A trained run.
        target: A new folder.

    Returns:
        The files, below ``target``.

    Raises:
        FileNotFoundError: If the run has no weights.
        ValueError: If a config holds the path of a folder where no path is known to stand.
    """
    for stage in stage_folders(run_dir):
        source, copy = run_dir / stage, target / stage
        (copy / "configs").mkdir(parents=True)
        for name in TEXTS:
            if (source / name).is_file():
                (copy / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, copy / name)
        for workflow in WORKFLOWS:
            config = without_paths(workflow, read_config(source / "configs" / f"{workflow}.yaml"))
            write_config(copy / "configs" / f"{workflow}.yaml", config)
        copy_weights(source / WEIGHTS, copy / WEIGHTS)
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def without_paths(workflow: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose paths and addresses are those of the default layers, or null.

    Raises:
        ValueError: If an absolute path is left, in a component or in a key that is no path.
    """
    own = read_config(share_dir("configs") / f"{workflow}.yaml")
    clean = {key: _reset(key, value, {**default_values(), **own}) for key, value in config.items()}
    for key, value in clean.items():
        if path := _absolute_path(value):
            raise ValueError(
                f"configs/{workflow}.yaml has the path {path} in '{key}', which would go along; take it out of a copy "
                f"of the run, or put it where paths stand: liver-pipeline keys"
            )
    return clean


def _reset(key: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    row = row_of(root_of(key))
    if row is None or not (Role.PATH in row.roles or row.name == "tracking_uri"):
        return value
    if isinstance(value, list):
        return []
    if value is None or is_code(meant(value)):
        return value
    return defaults.get(key, None if row.kind.has_null else defaults.get(row.name))


def _absolute_path(value: Any) -> str:
    """Return an absolute path, or one from somebody's home, that a value holds; "" if there is none."""
    if isinstance(value, Mapping):
        return next((found for item in value.values() if (found := _absolute_path(item))), "")
    if isinstance(value, list):
        return next((found for item in value if (found := _absolute_path(item))), "")
    text = meant(value)
    is_path = isinstance(text, str) and not is_code(text) and (Path(text).is_absolute() or text.startswith("~"))
    return str(text) if is_path else ""


def copy_weights(source: Path, target: Path) -> None:
    """Copy a file of weights, with the hash beside it where there is one; what else it holds stays behind.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds code, or is not the one whose hash was written down.
    """
    read_weights(source)  # is what its hash says
    content = open_weights(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    if content.keys() <= OF_WEIGHTS or "model" not in content:
        for name in (source.name, f"{source.name}.sha256"):
            if source.with_name(name).is_file():
                shutil.copyfile(source.with_name(name), target.with_name(name))
        return
    with whole_file(target) as temporary:
        torch.save({"model": content["model"]}, temporary)
