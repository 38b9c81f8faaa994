"""Train in a run folder: start it, continue it, refuse another configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.bundle.compose import TRAINING_OUTPUTS, compose, remove_outputs, write_config, write_configs
from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.keys import keys_with
from liver_pipeline.bundle.layers import WORKFLOWS, Configs
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.stages import LIVER_STAGE, differing_keys, merge_stages, set_stage_keys
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.distributed import process_count
from liver_pipeline.engines.training import finished_line, is_finished
from liver_pipeline.io.checkpoints import LAST, PREVIOUS, load_latest
from liver_pipeline.io.files import write_json
from liver_pipeline.io.locks import lock_run


def train(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    restart: bool = False,
    split: Mapping[str, Any] | None = None,
) -> None:
    """Train in ``run_dir``: compose the layers into it if it is new, continue if it is not finished.

    A run keeps its configuration. Layers named again must give the same one, except that ``max_epochs``,
    ``early_stop_patience`` and ``max_seconds`` may grow, and what changes no result may change.

    Args:
        run_dir: The run folder.
        layers: See :func:`merge_stages`. With none, and no experiment, a composed folder is
            trained as it is.
        experiment: See :func:`~liver_pipeline.bundle.stages.merge_stages`.
        overrides: See :func:`merge_stages`; those that change a composed run are written into
            it.
        restart: Remove weights, split and logs first; a configuration named here replaces that of the run.
        split: Content of ``split.json`` where the run has none; by default the training deals the cases.

    Raises:
        FileExistsError: If the folder holds weights that no checkpoint continues.
        ValueError: If the configuration is not that of the run; the message shows each key that differs. Or if another
            process is training in it. Also see :func:`~liver_pipeline.bundle.stages.merge_stages`.
    """
    run_dir = Path(run_dir)
    named = bool(layers) or experiment is not None
    new = not (run_dir / "configs").is_dir()
    if new or (restart and named):
        compose(run_dir, layers, experiment=experiment, overrides=overrides, overwrite=not new)
    with lock_run(run_dir):
        if not new and not (restart and named):
            wanted = merge_stages(layers, experiment=experiment, overrides=overrides) if named else None
            for folder, configs in (wanted or _with_overrides(run_dir, overrides or {})).items():
                _settle_config(run_dir / folder, configs, named=named, restart=restart)
                if restart:
                    remove_outputs(run_dir / folder, TRAINING_OUTPUTS)
        if line := finished(run_dir):
            tqdm.write(line)
            return
        if split is not None and not (run_dir / "split.json").exists():
            write_json(run_dir / "split.json", split)
        run_workflow(run_dir, "train")


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


def _stages(run_dir: Path) -> list[str]:
    """Return the folders of a run's stages: its own, and that of a cascade's liver stage."""
    return ["", LIVER_STAGE] if (run_dir / LIVER_STAGE / "configs").is_dir() else [""]


def _with_overrides(run_dir: Path, overrides: Mapping[str, Any]) -> dict[str, Configs]:
    """Return a run's configs by stage and workflow, with ``overrides`` wherever the key is known."""
    stages = {
        folder: {workflow: read_config(run_dir / folder / "configs" / f"{workflow}.yaml") for workflow in WORKFLOWS}
        for folder in _stages(run_dir)
    }
    set_stage_keys(stages, [("key=value", overrides)], differing_keys(stages))
    return stages


def _settle_config(run_dir: Path, wanted: Mapping[str, dict[str, Any]], *, named: bool, restart: bool) -> None:
    """Refuse a configuration that is not the run's; write the changes that are allowed into the run."""
    models = run_dir / "models"
    started = not restart and any((models / name).exists() for name in (LAST, PREVIOUS))
    if not started and not restart and (models / "model.pt").exists():
        raise FileExistsError(
            f"{run_dir} holds weights and no checkpoint to continue from; choose another folder or give --restart"
        )
    there = read_config(run_dir / "configs" / "train.yaml")
    changes = config_difference(there, wanted["train"])
    if started or named:
        refused = [change for change in changes if not _may_change(*change)]
        if refused:
            shown = "; ".join(f"{key}: {_show(old)} -> {_show(new)}" for key, old, new in refused)
            raise ValueError(
                f"{run_dir} has another configuration (its own -> the new one): {shown}; "
                f"choose another folder, leave the changes out, or give --restart"
            )
    if started:
        for key, _, new in changes:
            there[key] = new
        if changes:
            write_config(run_dir / "configs" / "train.yaml", there)
    elif not named:
        write_configs(run_dir / "configs", wanted)


ABSENT = object()


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (key, old value, new value) of each leaf that differs between two configs; ``ABSENT`` where one has none."""
    flat_old, flat_new = dict(_leaves(old)), dict(_leaves(new))
    keys = dict.fromkeys([*flat_old, *flat_new])
    pairs = ((key, flat_old.get(key, ABSENT), flat_new.get(key, ABSENT)) for key in keys)
    return [(key, a, b) for key, a, b in pairs if a != b]


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = config.items() if isinstance(config, Mapping) else enumerate(config)
    for name, value in items:
        key = f"{prefix}{name}"
        if isinstance(value, (Mapping, list, tuple)) and value:
            yield from _leaves(value, f"{key}::")
        else:
            yield key, list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value)


def _may_change(key: str, old: Any, new: Any) -> bool:
    if key in keys_with(Role.GROWS):
        return isinstance(old, int | float) and isinstance(new, int | float) and new > old
    return key in keys_with(Role.LIVE)


def finished(run_dir: Path) -> str | None:
    """Say so if a run, with the liver stage of a cascade, has nothing left to train, before its data are read."""
    lines = [_finished(run_dir / folder) for folder in _stages(run_dir)]
    return lines[0] if all(lines) else None


def _finished(run_dir: Path) -> str | None:
    """Say so of one stage."""
    if not (run_dir / "configs" / "train.yaml").is_file():
        return None
    config = read_config(run_dir / "configs" / "train.yaml")
    limits = [config.get(key) for key in ("max_epochs", "early_stop_patience")]
    state, _ = load_latest(run_dir / "models")
    if state is None or not all(isinstance(limit, int) for limit in limits) or "early_stop" not in state:
        return None
    done = is_finished(state["epoch"], limits[0], state["early_stop"], limits[1])  # type: ignore[arg-type]
    return finished_line(state["epoch"]) if done else None
