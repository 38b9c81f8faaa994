"""Merge config layers into a run folder, which is a MONAI bundle, and run its workflows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from liver_pipeline.bundle.build import check_build
from liver_pipeline.bundle.layers import Configs, share_dir
from liver_pipeline.bundle.metadata import metadata
from liver_pipeline.bundle.stages import LIVER_STAGE, merge_stages
from liver_pipeline.io.files import whole_file, write_json
from liver_pipeline.io.locks import lock_run

# What a training writes beside the configs, and --restart removes.
TRAINING_OUTPUTS = (
    "models", "logs", "out_of_fold", "split.json", "log.csv", "curves.png", "skipped_cases.json", "bad_loss.json"
)  # fmt: skip
MULTI_GPU = "multi_gpu_train"  # an overlay on train.yaml, as in the model zoo
GENERATED = "# Merged from the layers in configs/ by `liver-pipeline compose`; edit there, or start a new run.\n"


def compose(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run folder: a MONAI bundle that carries its whole configuration; of a cascade, also ``liver/`` in it.

    Args:
        run_dir: The folder; made when it does not exist.
        layers: See :func:`~liver_pipeline.bundle.stages.merge_stages`.
        experiment: See :func:`~liver_pipeline.bundle.stages.merge_stages`.
        overrides: See :func:`~liver_pipeline.bundle.stages.merge_stages`.
        overwrite: Replace an existing run's configs, and remove its weights, split and logs.

    Returns:
        The run folder.

    Raises:
        FileExistsError: If the folder holds a run and ``overwrite`` is false.
        ValueError: If another process is training in it; see also :func:`~liver_pipeline.bundle.stages.merge_stages`
            and :func:`~liver_pipeline.bundle.build.check_build`.
    """
    run_dir = Path(run_dir)
    stages = merge_stages(layers, experiment=experiment, overrides=overrides)
    for configs in stages.values():
        check_build(configs["train"])
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file; the run folder needs another name")
    with lock_run(run_dir):
        if (run_dir / "configs").exists():
            if not overwrite:
                raise FileExistsError(f"{run_dir} holds a run already; choose another folder or give --overwrite")
            remove_outputs(run_dir, (f"{LIVER_STAGE}/configs", *(f"{LIVER_STAGE}/{name}" for name in TRAINING_OUTPUTS)))
            remove_outputs(run_dir, ("configs", *TRAINING_OUTPUTS))
        for folder, configs in reversed(stages.items()):  # the run's own last: they say that it is complete
            write_bundle(run_dir / folder, configs)
    return run_dir


def write_bundle(folder: Path, configs: Configs) -> None:
    """Write a bundle without weights: configs, licence, model card; files of that name are replaced."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name in ("LICENSE", "docs/README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(share_dir("bundle") / name, folder / name)
    write_configs(folder / "configs", configs)


def write_configs(configs: Path, merged: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the folder of configs, which appears whole or not at all; one that is there is replaced."""
    partial = configs.with_name(f".configs.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for workflow, config in merged.items():
        write_config(partial / f"{workflow}.yaml", config)
    shutil.copyfile(share_dir("configs") / f"{MULTI_GPU}.yaml", partial / f"{MULTI_GPU}.yaml")
    write_json(partial / "metadata.json", metadata(merged["inference"]))
    shutil.rmtree(configs, ignore_errors=True)
    partial.replace(configs)


def remove_outputs(run_dir: Path, names: Iterable[str]) -> None:
    """Remove these files and folders, and nothing else that lies in the run folder."""
    for name in names:
        path = run_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a merged config as YAML, whole or not at all."""
    plain = json.loads(json.dumps(config))  # no YAML anchors for values that layers share
    style = {"sort_keys": False, "default_flow_style": None, "width": 120, "allow_unicode": True}
    with whole_file(path) as temporary:
        ConfigParser.export_config_file(plain, temporary, fmt="yaml", **style)
        temporary.write_text(GENERATED + temporary.read_text())
