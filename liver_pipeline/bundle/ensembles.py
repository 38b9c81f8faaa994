"""Several run folders as one model: the mean of their probabilities, such as the folds of a cross-validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from liver_pipeline.bundle.folders import WEIGHTS, fold_dirs
from liver_pipeline.bundle.keys import row_of
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.shipped import run_folder
from liver_pipeline.bundle.stages import LIVER_STAGE, PREFIX
from liver_pipeline.bundle.trained import is_trained
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.io.tables import read_json
from liver_pipeline.networks.weights import load_weights

logger = logging.getLogger(__name__)

FOLDS = "folds.json"  # of a cross-validation: the cases that each fold holds out


def ensemble_of(run: str | Path, more: Sequence[str | Path] = (), *, partial: bool = False) -> tuple[Path, list[Path]]:
    """Return the first of the run folders that predict together, and the others.

    Args:
        run: A run folder, a folder of folds, or the name of weights that come with the package.
        more: Likewise, further ones.
        partial: Take the folds of a cross-validation that are trained, where some are not.

    Raises:
        FileNotFoundError: If one is no run.
        ValueError: If a fold is not trained to its end, and ``partial`` is false or none is, or one is named twice.
    """
    folders = [
        folder for one in (run, *more) for folder in trained_folds(run_folder(one), partial) or [run_folder(one)]
    ]
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise ValueError(f"{folder} is named twice; the members of an ensemble are different runs")
    return folders[0], folders[1:]


def trained_folds(run_dir: Path, partial: bool) -> list[Path]:
    """Return the folds of a cross-validation that are trained to their end; none if the folder is no cross-validation.

    Raises:
        ValueError: See :func:`ensemble_of`.
    """
    there = {path.name: path for path in fold_dirs(run_dir)}
    if not there:
        return []
    dealt = run_dir / FOLDS
    names = [f"fold{number}" for number in range(len(read_json(dealt)["folds"]))] if dealt.is_file() else list(there)
    trained = [there[name] for name in names if name in there and is_trained(there[name])]
    if len(trained) == len(names) or (partial and trained):
        for path in trained if len(trained) < len(names) else ():
            logger.warning(
                "%s: %d of %d folds are trained, %s is one of them", run_dir, len(trained), len(names), path.name
            )
        return trained
    left = ", ".join(name for name in names if run_dir / name not in trained)
    remedy = "train them first, or take the others with --partial (partial=True)" if trained else "train them first"
    raise ValueError(f"{run_dir}: {left} of its {len(names)} folds are not trained to their end; {remedy}")


def members(
    network: nn.Module,
    run_dirs: Sequence[str | Path],
    bundle_root: str | Path,
    device: torch.device | str,
    *,
    key: str = "network",
) -> nn.Module:
    """Return the network and those of more run folders, as StreamingInferer takes them; their weights come later.

    The first network of one cascade has its weights at once.

    Args:
        network: That of ``bundle_root``.
        run_dirs: The other run folders; with none the network is returned as it is.
        bundle_root: What the other runs have to agree with.
        device: For all.
        key: Of the network in their inference configs.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: If a run differs in anything but its network.
    """
    if not run_dirs:
        weights = Path(bundle_root) / LIVER_STAGE / WEIGHTS
        if key == f"{PREFIX}network" and weights.is_file():
            # Programs that build the inferer alone, such as MONAI Label, load the other network only.
            load_weights(network.eval(), weights)
        return network
    first = _shared(load_config(bundle_root, "inference"))
    networks = [network]
    for run_dir in run_dirs:
        config = load_config(run_dir, "inference")
        other = _shared(config)
        if differing := sorted(key for key in {*first, *other} if first.get(key) != other.get(key)):
            raise ValueError(
                f"{run_dir} and {bundle_root} cannot be an ensemble, they differ in {', '.join(differing)}; "
                f"its members share all but the network"
            )
        parser = ConfigParser(config)
        parser["device"] = device
        networks.append(parser.get_parsed_content(key))
    return nn.ModuleList(networks)


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """Return what all members agree in; how they are run is up to the first of them."""
    rows = {key: row_of(key) for key in config}  # also liver_<key>, of a cascade's liver stage
    own = {key for key, row in rows.items() if row is not None and Role.MEMBER in row.roles}
    return {key: value for key, value in config.items() if key not in own}
