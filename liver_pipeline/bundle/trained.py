"""How far the training of a run folder has come, by its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.stages import LIVER_STAGE
from liver_pipeline.io.checkpoints import LAST, PREVIOUS, peek_latest


def is_finished(epoch: int, max_epochs: int, early_stop: Mapping[str, Any], patience: int) -> bool:
    """Tell whether a training at the end of ``epoch`` has nothing left to do."""
    return epoch >= max_epochs or early_stop["counter"] >= patience


def stage_folders(run_dir: Path) -> list[str]:
    """Return the folders of a run's stages: its own, and that of a cascade's liver stage."""
    return ["", LIVER_STAGE] if (run_dir / LIVER_STAGE / "configs").is_dir() else [""]


def is_started(run_dir: Path) -> bool:
    """Tell whether there is a checkpoint to continue from."""
    return any((run_dir / "models" / name).exists() for name in (LAST, PREVIOUS))


def finished_epoch(run_dir: Path) -> int | None:
    """Return the last epoch of a run that, with the liver stage of a cascade, has nothing left to train; else None."""
    epochs = [_finished_epoch(run_dir / folder) for folder in stage_folders(run_dir)]
    return epochs[0] if all(epoch is not None for epoch in epochs) else None


def _finished_epoch(run_dir: Path) -> int | None:
    if not (run_dir / "configs" / "train.yaml").is_file():
        return None
    config = read_config(run_dir / "configs" / "train.yaml")
    max_epochs, patience = config.get("max_epochs"), config.get("early_stop_patience")
    state = peek_latest(run_dir / "models")
    if state is None or not isinstance(max_epochs, int) or not isinstance(patience, int) or "early_stop" not in state:
        return None
    epoch: int = state["epoch"]
    return epoch if is_finished(epoch, max_epochs, state["early_stop"], patience) else None


def is_trained(run_dir: Path) -> bool:
    """Tell whether a run has weights and no training that would still change them.

    One whose checkpoints were removed, as before it is handed on, counts, and one whose ``max_seconds`` are up.
    """
    if not (run_dir / WEIGHTS).is_file():
        return False
    if not is_started(run_dir) or finished_epoch(run_dir) is not None:
        return True
    limit = read_config(run_dir / "configs" / "train.yaml").get("max_seconds")
    state = peek_latest(run_dir / "models") or {}
    used = (state.get("lr_scheduler") or {}).get("seconds")
    if not isinstance(limit, int | float) or used is None:
        return False
    rows = state["log"]["rows"]
    return bool(used + rows[-1]["seconds"] > limit)  # as StopInTime stops: the next epoch would be too long
