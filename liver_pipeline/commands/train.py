"""Train in a run folder: start it, continue it, refuse another configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.build import check_builds, check_start
from liver_pipeline.bundle.compose import compose, set_run_aside, write_stages
from liver_pipeline.bundle.entry import literal, refuse_empty
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.layers import Configs
from liver_pipeline.bundle.names import WORKFLOWS
from liver_pipeline.bundle.parent import Parent, begun_with, forget_parent, install
from liver_pipeline.bundle.stages import differing_keys, merge_stages, refuse_unused, set_stage_keys
from liver_pipeline.bundle.trained import finished_epoch, stage_folders
from liver_pipeline.bundle.workflow import read_run, run_workflow
from liver_pipeline.causes import as_raised
from liver_pipeline.commands.run_changes import settle_config
from liver_pipeline.data.splits import check_split, is_dealt, load_split, make_split
from liver_pipeline.distributed import process_count
from liver_pipeline.engines.training import finished_line
from liver_pipeline.io.checkpoints import LAST
from liver_pipeline.io.files import write_json
from liver_pipeline.io.locks import lock_run
from liver_pipeline.io.tables import read_json


@as_raised()
def train(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    parent: str | Path | None = None,
    restart: bool = False,
    split: Mapping[str, Any] | None = None,
    workflows: Sequence[str] = ("train",),
) -> Path:
    """Train in ``run_dir``: compose the layers into it if it is new, continue if it is not finished.

    A run that has begun keeps its configuration. Layers named again must give the same one, except that
    ``max_epochs``, ``early_stop_patience`` and ``max_seconds`` may grow, and what changes no result, such as where data
    and cache lie, may change. Before that, everything may.

    Args:
        run_dir: The run folder.
        layers: See :func:`merge_stages`. With none, and no experiment, a composed folder is trained as it is.
        experiment: See :func:`~liver_pipeline.bundle.stages.merge_stages`.
        overrides: See :func:`merge_stages`; those that change a composed run are written into it.
        parent: A trained run, or the name of weights in the box, to begin with: its network, what that sees, and its
            weights are taken over (see :mod:`liver_pipeline.bundle.parent`).
        restart: Begin anew: weights, split and logs of the earlier training go to ``earlier/<number>`` in the run,
            once the data set of the new one was found; a configuration named here replaces that of the run.
        split: Content of ``split.json``; by default the training deals the cases.
        workflows: Whose keys ``overrides`` may set: those that the caller runs.

    Returns:
        The file of weights: those of the best validation, or of the last epoch where none gave a score.

    Raises:
        FileNotFoundError: If there are no data, or ``parent`` is no trained run.
        FileExistsError: If the folder holds weights that no checkpoint continues.
        ValueError: If the configuration is not that of the run; the message shows each key that differs. Or if another
            process is training in it. Also see :func:`~liver_pipeline.bundle.stages.merge_stages`.
    """
    refuse_empty(run_dir=run_dir)
    run_dir = Path(run_dir)
    with begun_with(parent, run_dir, layers, overrides or {}, anew=restart) as (layers, overrides, begun):
        return _train(run_dir, layers, experiment, overrides, begun, restart=restart, split=split, workflows=workflows)


def _train(
    run_dir: Path,
    layers: Mapping[str, str],
    experiment: str | None,
    overrides: Mapping[str, Any],
    parent: Parent | None,
    *,
    restart: bool,
    split: Mapping[str, Any] | None,
    workflows: Sequence[str],
) -> Path:
    named = bool(layers) or experiment is not None
    wanted = wanted_configs(run_dir, layers, experiment, overrides)
    refuse_unused(wanted, overrides, workflows)
    if not (run_dir / "configs").is_dir():
        compose(run_dir, layers, experiment=experiment, overrides=overrides)
    elif restart:
        _begin_anew(run_dir, wanted, split)
    with lock_run(run_dir):
        if not restart:
            for folder, configs in wanted.items():
                settle_config(run_dir / folder, configs, overrides, named=named)
        _write_split(run_dir, split)
        if parent is not None:
            install(parent, run_dir)
        if line := finished(run_dir):
            tqdm.write(line)
        else:
            run_workflow(run_dir, "train")
    return weights_of(run_dir)


def weights_of(run_dir: str | Path) -> Path:
    """Return the file of weights that a training has left.

    Raises:
        FileNotFoundError: If it is not there.
    """
    path = Path(run_dir) / WEIGHTS
    if not path.is_file():
        last = Path(run_dir) / "models" / LAST
        raise FileNotFoundError(
            f"the training left no {path}: was it removed, or is validate::save_best::path another? The weights of the "
            f"last epoch are in {last}"
        )
    return path


def wanted_configs(
    run_dir: Path, layers: Mapping[str, str], experiment: str | None, overrides: Mapping[str, Any]
) -> dict[str, Configs]:
    """Return the configs that a run is to have, by stage: layers merged, or its own where none are named.

    Raises:
        ValueError: See :func:`~liver_pipeline.bundle.stages.merge_stages`.
    """
    if layers or experiment is not None or not (run_dir / "configs").is_dir():
        return merge_stages(layers, experiment=experiment, overrides=overrides)
    return _with_overrides(run_dir, overrides)


def _begin_anew(run_dir: Path, wanted: dict[str, Configs], split: Mapping[str, Any] | None) -> None:
    """Move what an earlier training wrote aside, once the new one is known to be able to start.

    Raises:
        FileNotFoundError: If its data set is not there, or weights that it starts from are not.
        ValueError: If its cases cannot be told or dealt, or its network cannot be built on its device.
    """
    for stage, configs in wanted.items():
        check_builds(configs)
        check_start(configs["train"], run_dir / stage)
    config = {**wanted[""]["train"], "bundle_root": literal(str(run_dir.resolve()))}
    parser = ConfigParser(config)
    cases, file = (parser.get_parsed_content(key) for key in ("cases", "split_file"))
    if split is None and (is_dealt(file) or not Path(file).exists()):
        shares, folds, fold, seed = (
            parser.get_parsed_content(key) for key in ("split_fractions", "folds", "fold", "seed")
        )
        check_split(make_split(cases, fractions=shares, folds=folds, fold=fold, seed=seed))
    elif split is None:
        load_split(cases, file)
    with lock_run(run_dir):
        aside = set_run_aside(run_dir)
        forget_parent(run_dir, wanted)
        write_stages(run_dir, wanted)
    if aside is not None:
        tqdm.write(f"what the earlier training wrote is in {aside}")


def _write_split(run_dir: Path, split: Mapping[str, Any] | None) -> None:
    """Write a split that was given; one that is there has to be the same."""
    path = run_dir / "split.json"
    if split is None:
        return
    if not path.exists():
        write_json(path, split)
    elif read_json(path).get("cases") != split["cases"]:
        raise ValueError(f"{path} deals the cases otherwise; choose another folder, or give --restart")


def train_stage(run_dir: str | Path) -> None:
    """Train a composed stage that another one builds on, from within the training of that one.

    Raises:
        ValueError: If several processes train together and the stage is not finished: it is an ordinary run folder,
            to be trained by itself first.
    """
    if process_count() > 1 and finished(Path(run_dir)) is None:
        raise ValueError(f"the stage {run_dir} is not trained; several processes train one stage: train that one first")
    tqdm.write(f"stage {run_dir}")
    train(run_dir, {})


def _with_overrides(run_dir: Path, overrides: Mapping[str, Any]) -> dict[str, Configs]:
    """Return a run's configs by stage and workflow, with ``overrides`` wherever the key is known."""
    stages = {
        folder: {workflow: read_run(run_dir / folder, workflow) for workflow in WORKFLOWS}
        for folder in stage_folders(run_dir)
    }
    set_stage_keys(stages, [("key=value", overrides)], differing_keys(stages))
    return stages


def finished(run_dir: Path) -> str | None:
    """Say so if a run, with the liver stage of a cascade, has nothing left to train, before its data are read."""
    epoch = finished_epoch(run_dir)
    return None if epoch is None else finished_line(epoch)
