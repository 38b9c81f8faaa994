"""Merge config layers into a run folder, which is a MONAI bundle, and run its workflows."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow
from monai.bundle.utils import merge_kv
from tqdm import tqdm

from liver_pipeline.checkpoints import LAST, PREVIOUS, load_latest
from liver_pipeline.files import whole_file, write_json
from liver_pipeline.handlers import CLASS_NAMES
from liver_pipeline.training import finished_line, is_finished

PACKAGE_DIR = Path(__file__).resolve().parent
KINDS = ("data", "modality", "network", "augmentation", "recipe")
DEFAULT_LAYERS = {
    "data": "lits",
    "modality": "ct",
    "network": "unet3d",
    "augmentation": "moderate",
    "recipe": "default",
}
# Which layers make up a workflow, lowest precedence first; the experiment and key=value follow.
WORKFLOWS = {
    "train": ("base", "data", "modality", "network", "augmentation", "recipe", "train"),
    "evaluate": ("base", "data", "modality", "network", "inference", "evaluate"),
    "inference": ("base", "modality", "network", "inference"),
}
# What a training writes beside the configs, and --restart removes.
TRAINING_OUTPUTS = (
    "models", "logs", "split.json", "log.csv", "curves.png", "checked_cases.json", "skipped_cases.json", "bad_loss.json"
)  # fmt: skip
# Keys that may change while a training goes on: they prolong it, or change no result.
PROLONGING = ("max_epochs", "early_stop_patience")
WITHOUT_EFFECT = ("num_workers", "cache_rate")
MULTI_GPU = "multi_gpu_train"  # an overlay on train.yaml, as in the model zoo
GENERATED = "# Merged from the layers in configs/ by `liver-pipeline compose`; edit there, or start a new run.\n"


def share_dir(name: str) -> Path:
    """Return the folder ``configs`` or ``bundle`` as installed, or as it lies in a checkout."""
    installed = PACKAGE_DIR / "share" / name
    return installed if installed.is_dir() else PACKAGE_DIR.parent / name


def layer_names(kind: str) -> list[str]:
    """List what can be named as ``kind`` (data, modality, network, augmentation, recipe or experiment)."""
    return sorted(path.stem for path in (share_dir("configs") / kind).glob("*.yaml"))


def layer_summary(kind: str, name: str) -> str:
    """Return the comment in the first line of a layer file."""
    return layer_file(kind, name).read_text().splitlines()[0].lstrip("# ")


def layer_file(kind: str, name: str) -> Path:
    """Find a layer by its name, or take ``name`` as the path of a YAML file.

    Raises:
        ValueError: If it is neither; the message lists the known names.
    """
    path = share_dir("configs") / kind / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).suffix in {".yaml", ".yml"}:
        if Path(name).is_file():
            return Path(name)
        raise FileNotFoundError(f"no {kind} file at {Path(name).resolve()}")
    known = layer_names(kind)
    raise ValueError(f"unknown {kind} '{name}'{_nearest(name, known)}; known are {', '.join(known)}, or a path to YAML")


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into a dictionary; values are Python literals or YAML, else text.

    Raises:
        ValueError: If a word has no ``=``.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value, got '{pair}'")
        overrides[key] = _parse_value(text)
    return overrides


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)  # 3e-4 is a number here, text in YAML 1.1
    except (ValueError, SyntaxError):
        pass
    if text.startswith(("$", "@", "%")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def merge_layers(
    layers: Mapping[str, str], *, experiment: str | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Merge the layers of every workflow.

    Args:
        layers: Names (or paths) for ``data``, ``modality``, ``network``, ``augmentation``, ``recipe``; what is absent
            comes from the experiment's own ``layers`` key, then from the defaults.
        experiment: Name or path of an experiment file.
        overrides: Keys that win over everything. A key applies to each workflow that knows it.

    Returns:
        Config by workflow name.

    Raises:
        ValueError: If a layer is unknown, or a key of the experiment or overrides is known to no workflow.
    """
    changes = _read(layer_file("experiment", experiment)) if experiment else {}
    chosen = {**DEFAULT_LAYERS, **changes.pop("layers", {}), **layers}
    files = {kind: layer_file(kind, chosen[kind]) for kind in KINDS}
    for name in ("base", "train", "inference", "evaluate"):
        files[name] = share_dir("configs") / f"{name}.yaml"
    merged = {workflow: _merge([_read(files[part]) for part in parts]) for workflow, parts in WORKFLOWS.items()}
    for source, pairs in ((f"experiment '{experiment}'", changes), ("key=value", overrides or {})):
        unused = set(pairs)
        for config in merged.values():
            unused -= _apply(config, pairs)
        for key in sorted(unused):
            _refuse_key(key, source, {known for config in merged.values() for known in config})
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = ConfigParser.load_config_file(str(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return config or {}


def _merge(configs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    parser = ConfigParser(config={})
    for config in configs:
        for key, value in config.items():
            merge_kv(parser, key, value)
    merged: dict[str, Any] = parser.get()
    return merged


def _apply(config: dict[str, Any], pairs: Mapping[str, Any]) -> set[str]:
    """Set the pairs whose key ``config`` knows, in place; return their keys."""
    parser = ConfigParser(config)
    known = {key for key in pairs if _knows(config, key)}
    for key in pairs:
        if key in known:
            merge_kv(parser, key, pairs[key])
    return known


def _knows(config: Any, key: str) -> bool:
    """Tell whether ``a::b`` can be set: ``a`` exists, and ``b`` exists or is an argument of the component ``a``."""
    *parents, last = key.removeprefix("+").replace("#", "::").split("::")
    for part in parents:
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return False
    if isinstance(config, list):
        return last.isdigit() and int(last) < len(config)
    return isinstance(config, dict) and (last in config or _takes(config, last))


def _takes(component: dict[str, Any], argument: str) -> bool:
    """Tell whether the class or function under ``_target_`` has this argument; a splat takes any."""
    if "_target_" not in component:
        return False
    name: str = ConfigComponent(component).resolve_module_name()  # type: ignore[no-untyped-call]
    target = locate(name)
    if not callable(target):
        return False
    parameters = inspect.signature(target).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _refuse_key(key: str, source: str, known: Iterable[str]) -> None:
    root = key.removeprefix("+").replace("#", "::").split("::")[0]
    if root in set(known):
        raise ValueError(f"{source} sets '{key}', but '{root}' has no such item or argument")
    raise ValueError(f"no key '{root}' in the configs ({source}){_nearest(root, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def compose(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run folder: a MONAI bundle that carries its whole configuration.

    Args:
        run_dir: The folder; made when it does not exist.
        layers: See :func:`merge_layers`.
        experiment: See :func:`merge_layers`.
        overrides: See :func:`merge_layers`.
        overwrite: Replace an existing run's configs, and remove its weights, split and logs.

    Returns:
        The run folder.

    Raises:
        FileExistsError: If the folder holds a run and ``overwrite`` is false.
        ValueError: See :func:`merge_layers`.
    """
    run_dir = Path(run_dir)
    merged = merge_layers(layers, experiment=experiment, overrides=overrides)
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file; the run folder needs another name")
    if (run_dir / "configs").exists():
        if not overwrite:
            raise FileExistsError(f"{run_dir} holds a run already; choose another folder or give --overwrite")
        _remove(run_dir, ("configs", *TRAINING_OUTPUTS))
    (run_dir / "models").mkdir(parents=True, exist_ok=True)
    for name in ("LICENSE", "docs/README.md"):
        (run_dir / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(share_dir("bundle") / name, run_dir / name)
    _write_configs(run_dir / "configs", merged)
    return run_dir


def _write_configs(configs: Path, merged: Mapping[str, Mapping[str, Any]]) -> None:
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


def _remove(run_dir: Path, names: Iterable[str]) -> None:
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


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the network of an inference config on the model zoo's schema of 2024-07-25."""
    labels = {str(i): name for i, name in enumerate(CLASS_NAMES[: config["num_classes"]])}
    structures = " and ".join(list(labels.values())[1:])
    packages = ("liver-pipeline", "pytorch-ignite", "nibabel", "itk", "segmentation-models-pytorch")
    return {
        "schema": (
            "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
        ),
        "version": version("liver-pipeline"),
        "changelog": {version("liver-pipeline"): "see CHANGELOG.md of liver_pipeline"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in packages},
        "name": "Liver and liver tumor segmentation",
        "task": f"Segmentation of {structures} in {config['modality'].upper()}",
        "description": f"A network that labels {structures} voxels; weights are the user's own training.",
        "authors": "The liver_pipeline authors",
        "copyright": "Copyright the liver_pipeline authors",
        "intended_use": "Research; not a medical device. See docs/README.md.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if config["modality"] == "ct" else "magnitude",
                    "modality": config["modality"].upper(),
                    "num_channels": config["in_channels"],
                    "spatial_shape": config["roi_size"],
                    "dtype": "float32",
                    "value_range": config["value_range"],
                    "is_patch_data": True,
                    "channel_def": {str(i): "image" for i in range(config["in_channels"])},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": config["num_classes"],
                    "spatial_shape": config["roi_size"],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": labels,
                }
            },
        },
    }


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
    config = _read(path)
    pairs = {"bundle_root": str(Path(run_dir).resolve()), **(overrides or {})}
    for key in set(pairs) - _apply(config, pairs):
        _refuse_key(key, str(path), config)
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


def absolute(overrides: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return ``overrides`` with the paths under ``keys`` made absolute: a run may be started from anywhere."""
    paths = {key: str(Path(overrides[key]).absolute()) for key in keys if isinstance(overrides.get(key), str)}
    return {**overrides, **paths}


def train(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    restart: bool = False,
) -> None:
    """Train in ``run_dir``: compose the layers into it if it is new, continue if it is not finished.

    A run keeps its configuration. Layers named again must give the same one, except that ``max_epochs`` and
    ``early_stop_patience`` may grow and ``num_workers`` and ``cache_rate`` may change.

    Args:
        run_dir: The run folder.
        layers: See :func:`merge_layers`. With none, and no experiment, a composed folder is trained as it is.
        experiment: See :func:`merge_layers`.
        overrides: See :func:`merge_layers`; those that change a composed run are written into it.
        restart: Remove weights, split and logs first; a configuration named here replaces that of the run.

    Raises:
        FileExistsError: If the folder holds weights that no checkpoint continues.
        ValueError: If the configuration is not that of the run; the message shows each key that differs. Also see
            :func:`merge_layers`.
    """
    run_dir = Path(run_dir)
    named = bool(layers) or experiment is not None
    if not (run_dir / "configs").is_dir():
        compose(run_dir, layers, experiment=experiment, overrides=overrides)
    elif restart and named:
        compose(run_dir, layers, experiment=experiment, overrides=overrides, overwrite=True)
    else:
        wanted = merge_layers(layers, experiment=experiment, overrides=overrides) if named else None
        _settle_config(run_dir, wanted or _with_overrides(run_dir, overrides or {}), named=named, restart=restart)
        if restart:
            _remove(run_dir, TRAINING_OUTPUTS)
    if finished := _finished(run_dir):
        tqdm.write(finished)
        return
    run_workflow(run_dir, "train")


def _with_overrides(run_dir: Path, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a run's configs by workflow, with ``overrides`` in each workflow that knows the key."""
    configs = {workflow: _read(run_dir / "configs" / f"{workflow}.yaml") for workflow in WORKFLOWS}
    unused = set(overrides)
    for config in configs.values():
        unused -= _apply(config, overrides)
    for key in sorted(unused):
        _refuse_key(key, "key=value", {known for config in configs.values() for known in config})
    return configs


def _settle_config(run_dir: Path, wanted: Mapping[str, dict[str, Any]], *, named: bool, restart: bool) -> None:
    """Refuse a configuration that is not the run's; write the changes that are allowed into the run."""
    models = run_dir / "models"
    started = not restart and any((models / name).exists() for name in (LAST, PREVIOUS))
    if not started and not restart and (models / "model.pt").exists():
        raise FileExistsError(
            f"{run_dir} holds weights and no checkpoint to continue from; choose another folder or give --restart"
        )
    there = _read(run_dir / "configs" / "train.yaml")
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
        _write_configs(run_dir / "configs", wanted)


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
    if key in PROLONGING:
        return isinstance(old, int) and isinstance(new, int) and new > old
    return key in WITHOUT_EFFECT


def _finished(run_dir: Path) -> str | None:
    """Say so if a run has nothing left to train, before its data are read."""
    config = _read(run_dir / "configs" / "train.yaml")
    limits = [config.get(key) for key in PROLONGING]
    state, _ = load_latest(run_dir / "models")
    if state is None or not all(isinstance(limit, int) for limit in limits) or "early_stop" not in state:
        return None
    finished = is_finished(state["epoch"], limits[0], state["early_stop"], limits[1])  # type: ignore[arg-type]
    return finished_line(state["epoch"]) if finished else None
