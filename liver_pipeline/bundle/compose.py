"""Merge config layers into a run folder, which is a MONAI bundle, and run its workflows."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from liver_pipeline.bundle.build import check_builds
from liver_pipeline.bundle.entry import refuse_empty
from liver_pipeline.bundle.folders import fold_dirs
from liver_pipeline.bundle.layers import Configs
from liver_pipeline.bundle.metadata import metadata
from liver_pipeline.bundle.names import share_dir
from liver_pipeline.bundle.stages import LIVER_STAGE, merge_stages
from liver_pipeline.data.splits import is_dealt
from liver_pipeline.io.checkpoints import LAST, OLDER, PREVIOUS
from liver_pipeline.io.files import move_aside, whole_file, whole_folder, write_json
from liver_pipeline.io.locks import lock_run

# What a training writes into a run folder beside the configs; split.json too, where it was dealt.
TRAINING_OUTPUTS = (
    "models/model.pt", *(f"models/{name}" for name in (LAST, PREVIOUS, *OLDER)), "logs/events.out.tfevents.*",
    "logs/contact_sheet.png", "out_of_fold/fold*", "out_of_fold/masks", "log.csv", "curves.png", "skipped_cases.json",
    "prepared_cases.json",
    "bad_loss.json", "mlflow_run.json",
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
        overwrite: Replace an existing run's configs; its weights, split and logs are moved aside.

    Returns:
        The run folder.

    Raises:
        FileExistsError: If the folder holds a run and ``overwrite`` is false, or the folds of a cross-validation.
        ValueError: If another process is training in it; see also :func:`~liver_pipeline.bundle.stages.merge_stages`
            and :func:`~liver_pipeline.bundle.build.check_builds`.
    """
    refuse_empty(run_dir=run_dir)
    run_dir = Path(run_dir)
    stages = merge_stages(layers, experiment=experiment, overrides=overrides)
    for configs in stages.values():
        check_builds(configs)
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file; the run folder needs another name")
    if folds := fold_dirs(run_dir):
        raise FileExistsError(
            f"{run_dir} holds the folds of a cross-validation; choose another folder, or name one fold, such as "
            f"{folds[0]}, or all with --folds"
        )
    with lock_run(run_dir):
        if (run_dir / "configs").exists():
            if not overwrite:
                raise FileExistsError(f"{run_dir} holds a run already; choose another folder or give --overwrite")
            set_run_aside(run_dir)
        write_stages(run_dir, stages)
    return run_dir


def write_stages(run_dir: Path, stages: Mapping[str, Configs]) -> None:
    """Write the bundles of a run's stages; the configs of a liver stage that it no longer has are moved aside."""
    if LIVER_STAGE not in stages:
        move_aside(run_dir, [f"{LIVER_STAGE}/configs"])
    for folder, configs in reversed(list(stages.items())):  # the run's own last: they say that it is complete
        write_bundle(run_dir / folder, configs)


def set_run_aside(run_dir: Path) -> Path | None:
    """Move what a training wrote, and that of a cascade's liver stage, to ``earlier/<number>``; other files stay.

    With the copy of the configs that goes along, that folder is a run of its own.

    Returns:
        The folder; None if there was nothing.
    """
    prefixes = ("", f"{LIVER_STAGE}/")
    names = [f"{prefix}{name}" for prefix in prefixes for name in TRAINING_OUTPUTS]
    names += [f"{prefix}split.json" for prefix in prefixes if is_dealt(run_dir / f"{prefix}split.json")]
    return move_aside(run_dir, names, copies=[f"{prefix}configs" for prefix in prefixes])


def write_bundle(folder: Path, configs: Configs) -> None:
    """Write a bundle without weights: configs, and licence and model card where there are none."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name in ("LICENSE", "docs/README.md"):
        if not (folder / name).exists():
            with whole_file(folder / name) as temporary:
                shutil.copyfile(share_dir("bundle") / name, temporary)
    write_configs(folder / "configs", configs)


def write_configs(configs: Path, merged: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the folder of configs; a new one appears whole or not at all, other files of an older one stay.

    ``train.yaml`` comes last: whoever is interrupted finds the older one, and writes all of them again.
    """
    with contextlib.nullcontext(configs) if configs.is_dir() else whole_folder(configs) as target:
        shutil.copyfile(share_dir("configs") / f"{MULTI_GPU}.yaml", target / f"{MULTI_GPU}.yaml")
        write_json(target / "metadata.json", metadata(merged["inference"]))
        for workflow in sorted(merged, key=lambda name: name == "train"):
            write_config(target / f"{workflow}.yaml", merged[workflow])


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a merged config as YAML, whole or not at all."""
    plain = json.loads(json.dumps(config))  # no YAML anchors for values that layers share
    style = {"sort_keys": False, "default_flow_style": None, "width": 120, "allow_unicode": True}
    with whole_file(path) as temporary:
        ConfigParser.export_config_file(plain, temporary, fmt="yaml", **style)
        temporary.write_text(GENERATED + temporary.read_text())
