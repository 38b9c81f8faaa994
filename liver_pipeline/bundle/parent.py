"""The run that a training begins with: what it hands on, where its weights go, and who it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.compose import write_config
from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.keys import keys_with, row_of
from liver_pipeline.bundle.layers import Configs
from liver_pipeline.bundle.names import share_dir
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.shipped import run_folder, run_name
from liver_pipeline.bundle.stages import LIVER_STAGE, PREFIX
from liver_pipeline.bundle.trained import is_started, stage_folders
from liver_pipeline.bundle.tree import references_in
from liver_pipeline.bundle.workflow import read_run
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import move_aside, whole_file, write_json, write_text
from liver_pipeline.io.tables import read_json
from liver_pipeline.networks.parent import not_fitting
from liver_pipeline.networks.weights import read_weights

PARENT_FILE = "parent.json"  # in a run that began with another one
PARENT_WEIGHTS = Path("models") / "parent.pt"
WHOLE = "run"  # what parent.json calls the stage that is the run itself
OF_MODALITY = ("modality", "value_range", "air_hu", "intensity", "ct_intensity", "mr_intensity")  # a layer named wins


@dataclass(frozen=True)
class Parent:
    """A trained run that another one begins with.

    Attributes:
        name: Of the folder, or of weights in the box with their version, such as ``default@1``.
        version: Its own, as metadata.json says.
        folder: Where it lies.
        stages: Folders of its stages.
    """

    name: str
    version: str
    folder: Path
    stages: tuple[str, ...]

    def weights(self, stage: str) -> Path:
        """Return the file of weights of a stage."""
        return self.folder / stage / WEIGHTS


def parent_of(run: str | Path, child: Path, *, anew: bool = False) -> Parent:
    """Return the run that ``child`` begins with; one that was begun with a version in the box goes on with that one.

    Args:
        run: A trained run, or the name of weights in the box.
        child: The new run.
        anew: It begins anew: what it was begun with does not count.

    Raises:
        FileNotFoundError: If there is no such run, or it has no weights.
        ValueError: If ``child`` was begun with another run.
    """
    begun = read_json(child / PARENT_FILE) if (child / PARENT_FILE).is_file() and not anew else {}
    name = str(begun.get("name", ""))
    if name.partition("@")[0] == str(run) and not Path(run).exists():
        run = name
    folder = run_folder(run)
    stages = tuple(stage_folders(folder))
    read_run(folder, "train")  # or it is no run
    version = str(read_json(folder / "configs" / "metadata.json").get("version", ""))
    parent = Parent(run_name(folder), version, folder, stages)
    hashes = {stage: file_sha256(_there(parent.weights(stage))) for stage in stages}
    known = {stage: one["sha256"] for stage, one in begun.get("weights", {}).items()}
    if known and is_started(child) and known != {stage or WHOLE: value for stage, value in hashes.items()}:
        raise ValueError(f"{child} was begun with other weights, of {name}; choose another folder, or leave --from out")
    return parent


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; --from takes a run that is trained")
    return path


@contextmanager
def inherited(parent: Parent, layers: Mapping[str, str]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Give the layers, and the keys above them, of a run that takes over what the parent's network sees and is.

    Args:
        parent: The run to begin with.
        layers: Of the new run; a modality that is named wins over the parent's.

    Raises:
        ValueError: If a network is named.
    """
    if "network" in layers:
        raise ValueError(
            f"--network {layers['network']}: with --from the network is that of {parent.name}; leave it out"
        )
    left = OF_MODALITY if "modality" in layers else ()
    with TemporaryDirectory() as scratch:
        files = {}
        for stage in parent.stages:
            files[stage or "tumor"] = Path(scratch) / f"{stage or 'tumor'}.yaml"
            write_config(files[stage or "tumor"], _handed_on(read_run(parent.folder / stage, "train"), left))
        keys = {"initial_weights": f"$@bundle_root + '/{PARENT_WEIGHTS.as_posix()}'"}
        network = files["tumor"]
        if LIVER_STAGE in parent.stages:
            network = Path(scratch) / "network.yaml"
            write_config(network, _cascade(read_config(files["tumor"]), files))
            keys[f"{PREFIX}initial_weights"] = keys["initial_weights"]
        yield {**layers, "network": str(network)}, keys


@contextmanager
def begun_with(
    run: str | Path | None,
    child: Path,
    layers: Mapping[str, str],
    overrides: Mapping[str, Any],
    *,
    anew: bool = False,
) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any], Parent | None]]:
    """Give the layers and keys of a run that begins with another one, and that one; without one as they are.

    Raises:
        FileNotFoundError: See :func:`parent_of`.
        ValueError: See :func:`parent_of` and :func:`inherited`.
    """
    if run is None:
        yield layers, overrides, None
        return
    parent = parent_of(run, child, anew=anew)
    with inherited(parent, layers) as (all_layers, keys):
        yield all_layers, {**keys, **overrides}, parent


def _handed_on(config: Mapping[str, Any], left: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys that a parent hands on, with keys of its own that these refer to."""
    names = [key for key in config if key in keys_with(Role.INHERITED) and key not in left]
    for name in names:  # grows while it is gone through
        names += [
            key
            for key in sorted(references_in(config[name]))
            if key in config and row_of(key) is None and key not in names
        ]
    return {key: config[key] for key in config if key in names}


def _cascade(tumor: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """Return the layer of a cascade of two parents, from the file of cascades and what the parent set in it."""
    general = read_config(share_dir("configs") / "network" / "cascade.yaml")
    own = {key: tumor.get(key, value) for key, value in general.items() if not key.startswith(PREFIX)}
    kept = {
        key: value for key, value in general.items() if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in tumor
    }
    return {**own, **kept, "stages": {stage: str(files[stage]) for stage in (LIVER_STAGE, "tumor")}}


def install(parent: Parent, run_dir: Path) -> None:
    """Copy the parent's weights into a run, and write who it was and what does not fit into ``parent.json``.

    A training that has begun keeps what it has.
    """
    if is_started(run_dir) and (run_dir / PARENT_FILE).is_file():
        return
    told: dict[str, Any] = {}
    for stage in parent.stages:
        target = run_dir / stage / PARENT_WEIGHTS
        sha256, state = read_weights(parent.weights(stage))
        with whole_file(target) as temporary:
            shutil.copyfile(parent.weights(stage), temporary)
        write_text(target.with_name(f"{target.name}.sha256"), f"{sha256}  {target.name}\n")
        config = read_run(run_dir / stage, "train")
        if "initial_weights" not in config["network"]:
            raise ValueError(f"{run_dir / stage}: network has no initial_weights; with --from it is that of base.yaml")
        network = ConfigParser(config).get_parsed_content("network_def")
        left = not_fitting(network, state)
        told[stage or WHOLE] = {"sha256": sha256, "taken": len(network.state_dict()) - len(left), "not_taken": left}
        for name in left:
            tqdm.write(f"{stage or run_dir.name}: {name} does not fit and begins with random values")
    write_json(run_dir / PARENT_FILE, {"name": parent.name, "version": parent.version, "weights": told})


def forget_parent(run_dir: Path, wanted: Mapping[str, Configs]) -> None:
    """Move aside what says where a run came from, if it is to begin anew without a parent."""
    if not any(PARENT_WEIGHTS.name in str(configs["train"].get("initial_weights")) for configs in wanted.values()):
        names = [f"{stage}/{PARENT_WEIGHTS.as_posix()}".lstrip("/") for stage in ("", LIVER_STAGE)]
        move_aside(run_dir, [PARENT_FILE, *names, *(f"{name}.sha256" for name in names)])
