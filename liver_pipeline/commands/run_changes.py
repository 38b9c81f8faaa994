"""What of a run's configuration may change: everything before its training, little once it has begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.bundle.build import check_builds
from liver_pipeline.bundle.compose import write_config, write_configs
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.keys import keys_with, root_of
from liver_pipeline.bundle.layers import Configs
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.stages import PREFIX
from liver_pipeline.bundle.trained import is_started
from liver_pipeline.bundle.tree import parts_of
from liver_pipeline.bundle.workflow import read_run
from liver_pipeline.data.splits import is_dealt
from liver_pipeline.io.checkpoints import refuse_older_names
from liver_pipeline.io.files import move_aside

ABSENT = object()
Change = tuple[str, Any, Any]  # key, old value, new value


def settle_config(run_dir: Path, wanted: Configs, overrides: Mapping[str, Any], *, named: bool) -> None:
    """Bring the configs of a run, or of one of its stages, to those wanted.

    Before the training has begun any change is written, and cases that were dealt are dealt again. Later only what
    prolongs the training or changes no result is (the table of keys says which), and keys that evaluation or inference
    alone have; of both only what ``overrides`` name, so that layers named again bring no default back.

    Args:
        run_dir: Folder of the run or the stage.
        wanted: Its configs by workflow.
        overrides: Keys that were set by name; of a cascade also with ``liver_``.
        named: Whether layers were merged anew, which loses what was edited in the configs: these are kept aside.

    Raises:
        FileExistsError: If the folder holds weights that no checkpoint continues.
        ValueError: If a training that has begun would be another one; each key that differs is shown.
    """
    refuse_older_names(run_dir / "models")
    started = is_started(run_dir)
    if not started and (run_dir / WEIGHTS).exists():
        raise FileExistsError(
            f"{run_dir} holds weights and no checkpoint to continue from; choose another folder or give --restart"
        )
    there = {workflow: read_run(run_dir, workflow) for workflow in wanted}
    if started:
        set_by_name = {root_of(key).removeprefix(PREFIX) for key in overrides} | {root_of(key) for key in overrides}
        _change_started(run_dir, there, wanted, set_by_name)
    elif there != wanted:
        check_builds(wanted)
        dealt = ["split.json"] if is_dealt(run_dir / "split.json") else []
        aside = move_aside(run_dir, dealt, copies=["configs"] if named else [])
        write_configs(run_dir / "configs", wanted)
        kept = f"; the earlier one is in {aside}" if aside else ""
        tqdm.write(f"{run_dir} is not trained yet and gets the new configuration{kept}")


def _change_started(run_dir: Path, there: Configs, wanted: Configs, set_by_name: set[str]) -> None:
    changes = config_difference(there["train"], wanted["train"])
    refused = [change for change in changes if not may_change(*change)]
    if refused:
        shown = "; ".join(f"{key}: {_show(old)} -> {_show(new)}" for key, old, new in refused)
        raise ValueError(
            f"{run_dir} has another configuration (its own -> the new one): {shown}; "
            f"choose another folder, leave the changes out, or give --restart"
        )
    grown = {key for key, _, _ in changes if key in keys_with(Role.GROWS)}
    for workflow, config in there.items():
        allowed = (set_by_name | grown if workflow == "train" else set_by_name) & wanted[workflow].keys()
        new = {key: wanted[workflow][key] for key in allowed if config.get(key, ABSENT) != wanted[workflow][key]}
        if new:
            write_config(run_dir / "configs" / f"{workflow}.yaml", config | new)


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """List (key, old value, new value) of each leaf that differs between two configs; ``ABSENT`` where one has none."""
    flat_old, flat_new = _leaves(old), _leaves(new)
    keys = dict.fromkeys([*flat_old, *flat_new])
    pairs = ((key, flat_old.get(key, ABSENT), flat_new.get(key, ABSENT)) for key in keys)
    return [(key, a, b) for key, a, b in pairs if a != b]


def _leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds nothing else, by path."""
    parts = {path: list(part) if isinstance(part, tuple) else part for path, part in parts_of(config)}
    return {path: part for path, part in parts.items() if not (isinstance(part, (Mapping, list)) and part)}


def _show(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value)


def may_change(key: str, old: Any, new: Any) -> bool:
    """Tell whether a key of a training that has begun may get a new value."""
    if key in keys_with(Role.GROWS):
        return isinstance(old, int | float) and isinstance(new, int | float) and new > old
    return key in keys_with(Role.LIVE)
