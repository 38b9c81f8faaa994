"""Run a workflow of a run folder as stock MONAI would."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from liver_pipeline.bundle.layers import apply_overrides, read_config, refuse_key


def load_config(run_dir: str | Path, workflow: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read ``RUN/configs/<workflow>.yaml``, point it at its folder and apply ``overrides``.

    Raises:
        FileNotFoundError: If the folder is no run.
        ValueError: If an override's key is unknown.
    """
    path = Path(run_dir) / "configs" / f"{workflow}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{Path(run_dir).resolve()} is no run folder (it has no configs/{workflow}.yaml); "
            f"`liver-pipeline train` or `compose` makes one"
        )
    config = read_config(path)
    pairs = {"bundle_root": str(Path(run_dir).resolve()), **(overrides or {})}
    for key in set(pairs) - apply_overrides(config, pairs):
        refuse_key(key, str(path), config)
    return config


def run_workflow(run_dir: str | Path, workflow: str, overrides: Mapping[str, Any] | None = None) -> list[Any]:
    """Run a workflow of a run folder, as ``python -m monai.bundle run`` would.

    Returns:
        What each expression of the config's ``run`` gave.
    """
    run_dir = Path(run_dir)
    load_config(run_dir, workflow, overrides)  # refuses unknown keys, which MONAI would accept
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that there is no logging.conf
    config = ConfigWorkflow(
        config_file=str(run_dir / "configs" / f"{workflow}.yaml"),
        meta_file=str(run_dir / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train" if workflow == "train" else "infer",
        bundle_root=str(run_dir.resolve()),
        **(overrides or {}),
    )
    config.initialize()
    try:
        return list(config.run())
    finally:
        config.finalize()
