"""Run a workflow of a run folder as stock MONAI would."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from liver_pipeline.bundle.arguments import check_arguments
from liver_pipeline.bundle.build import check_evaluated, check_network, try_parts
from liver_pipeline.bundle.checks import check_references, check_values
from liver_pipeline.bundle.entry import entered, literal, read_config
from liver_pipeline.bundle.keys import keys_with, root_of
from liver_pipeline.bundle.layers import apply_overrides, component_class, refuse_key, settable
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.shipped import run_name, shipped, shipped_runs
from liver_pipeline.bundle.tree import components_in
from liver_pipeline.bundle.uses import refuse_idle
from liver_pipeline.causes import as_raised
from liver_pipeline.hints import did_you_mean
from liver_pipeline.io.files import plain
from liver_pipeline.io.tables import read_json

# Keys that are set for one run and decide nothing of what a mask is, beside those that only say where and how to run.
_OWN = {
    "dataset", "evaluator", "case_runner", "run", "initialize", "finalize", "checked", "imports",
    "cases", "split", "part", "score", "protocol", "liver_only",
}  # fmt: skip


def read_run(run_dir: str | Path, workflow: str) -> dict[str, Any]:
    """Read ``RUN/configs/<workflow>.yaml``.

    Raises:
        FileNotFoundError: If the folder is no run.
        ValueError: If it cannot be used, an earlier version of this package composed it, or these weights take masks.
    """
    path = Path(run_dir) / "configs" / f"{workflow}.yaml"
    if not path.is_file():
        if (name := run_name(run_dir)) in shipped():
            raise ValueError(f"{name} is no run: it takes masks, not scans; liver-pipeline segments MASK OUTPUT")
        raise FileNotFoundError(
            f"{Path(run_dir).resolve()} is no run folder (it has no configs/{workflow}.yaml); "
            f"`liver-pipeline train` or `compose` makes one{_meant_run(Path(run_dir))}"
        )
    config = {key: entered(key, value) for key, value in read_config(path).items()}
    if not config:
        raise ValueError(
            f"{path} is empty; copy it again, or compose a new run and copy {Path(run_dir) / 'models'} into it"
        )
    if gone := _gone(config):
        raise ValueError(
            f"{run_dir} was composed by an earlier version of liver_pipeline ({path.name} has {gone}); its weights "
            f"still fit: compose a new run from the same layers and values, and copy {Path(run_dir) / 'models'} into it"
        )
    return config


def _meant_run(run_dir: Path) -> str:
    """Suggest a run that lies beside what was named, or weights in the box."""
    beside = sorted(run_dir.parent.glob("*/configs"))[:100] if not run_dir.exists() else []
    names = [str(path.parent) for path in beside]
    return did_you_mean(str(run_dir), [*names, "default", *shipped_runs()])


def _gone(config: Mapping[str, Any]) -> str:
    """Return a key or class of this package that a config has and this version has not; "" if there is none."""
    if "loading" in config:
        return "the key loading"
    named = (part for _, part in components_in(config) if str(part["_target_"]).startswith("liver_pipeline."))
    return next((str(part["_target_"]) for part in named if component_class(part) is None), "")


def load_config(run_dir: str | Path, workflow: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read ``RUN/configs/<workflow>.yaml``, point it at its folder, apply ``overrides`` and check all values.

    Raises:
        FileNotFoundError: If the folder is no run.
        ValueError: If an override's key is unknown to the workflow, or a value is not accepted; see :func:`read_run`.
    """
    config = read_run(run_dir, workflow)
    pairs = dict(overrides or {})
    told = _told(config, pairs)
    for key in sorted(keys_with(Role.COMMAND) & set(pairs)):
        raise ValueError(f"{key} is the run folder {run_dir}; it cannot be set")
    for key in sorted(set(pairs) - apply_overrides(config, pairs)):
        refuse_key(key, "key=value", config, place=workflow, items=settable(config, key))
    if told and isinstance(config.get("case_runner"), dict):
        config["case_runner"] = {**config["case_runner"], "overrides": literal(told)}
    config["bundle_root"] = literal(str(Path(run_dir).resolve()))
    check_values(**config)
    check_references({**dict.fromkeys(config), **pairs})
    refuse_idle("key=value", pairs, [config])
    if roots := set(map(root_of, pairs)):
        check_evaluated(config, roots)
        check_arguments({root: config[root] for root in roots})
        trains = "optimizer" in config
        suits = trains or {"network_def", "roi_size", "in_channels", "num_classes"} & roots
        network = check_network(config) if suits else None
        try_parts(config, network if trains else None, roots)
    return config


def _told(config: Mapping[str, Any], pairs: Mapping[str, Any]) -> str:
    """Return the overrides that may change masks, as JSON, "" for none; weights have their own hash."""
    idle = keys_with(Role.RUNNING) | keys_with(Role.COMMAND) | keys_with(Role.PATH) | _OWN
    changed = {
        key: value
        for key, value in pairs.items()
        if root_of(key) not in idle and not (key in config and config[key] == value)
    }
    return json.dumps(plain(changed), sort_keys=True) if changed else ""


@as_raised()
def run_workflow(run_dir: str | Path, workflow: str, overrides: Mapping[str, Any] | None = None) -> list[Any]:
    """Run a workflow of a run folder, as ``python -m monai.bundle run`` would.

    Returns:
        What each expression of the config's ``run`` gave.
    """
    run_dir = Path(run_dir)
    settings = load_config(run_dir, workflow, overrides)
    meta_file = run_dir / "configs" / "metadata.json"
    if meta_file.exists():
        read_json(meta_file)  # what is wrong with it is told with its name
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that there is no logging.conf
    config = ConfigWorkflow(
        config_file=str(run_dir / "configs" / f"{workflow}.yaml"),
        meta_file=str(meta_file),
        logging_file=False,
        workflow_type="train" if workflow == "train" else "infer",
        **settings,
    )
    config.initialize()
    try:
        return list(config.run())
    finally:
        config.finalize()
