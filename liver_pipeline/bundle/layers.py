"""Config layers: find them by name, merge them, set keys; a key that no layer knows is an error."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from monai.bundle import ConfigComponent, ConfigParser
from monai.bundle.utils import merge_kv

PACKAGE_DIR = Path(__file__).resolve().parents[1]
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

Configs = dict[str, dict[str, Any]]  # by workflow
Source = tuple[str, Mapping[str, Any]]  # what it is called in errors, and the keys that it sets


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
) -> Configs:
    """Merge the layers of every workflow of one network; for a cascade see :func:`merge_stages`.

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
    files, sources = choose_layers(layers, experiment, overrides)
    if "stages" in read_config(files["network"]):
        raise ValueError(f"{files['network']} is a cascade of two networks; name one of them here")
    merged = merge_workflows(files)
    set_keys(merged, sources)
    return merged


def choose_layers(
    layers: Mapping[str, str], experiment: str | None, overrides: Mapping[str, Any] | None
) -> tuple[dict[str, Path], list[Source]]:
    """Return the file of each kind of layer, and what is set above them: the experiment, then key=value.

    An experiment may name other layers for a cascade's liver stage, such as ``liver_recipe``.
    """
    changes = read_config(layer_file("experiment", experiment)) if experiment else {}
    chosen = {**DEFAULT_LAYERS, **changes.pop("layers", {}), **layers}
    files = {kind: layer_file(kind.removeprefix("liver_"), name) for kind, name in chosen.items()}
    return files, [(f"experiment '{experiment}'", changes), ("key=value", overrides or {})]


def merge_workflows(files: Mapping[str, Path]) -> Configs:
    """Merge the layers of every workflow, whose files are given for each of ``KINDS``."""
    shared = {name: share_dir("configs") / f"{name}.yaml" for name in ("base", "train", "inference", "evaluate")}
    every = {**shared, **files}
    layers = {workflow: [read_config(every[part]) for part in parts] for workflow, parts in WORKFLOWS.items()}
    return {workflow: merge_into({}, parts) for workflow, parts in layers.items()}


def read_config(path: Path) -> dict[str, Any]:
    """Read one YAML file.

    Raises:
        ValueError: If it is not valid YAML.
    """
    try:
        config: dict[str, Any] = ConfigParser.load_config_file(str(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return config or {}


def merge_into(config: dict[str, Any], layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge layers into ``config``, in place, lowest precedence first; keys such as ``a::b`` and ``+a`` as in MONAI."""
    parser = ConfigParser(config)
    for layer in layers:
        for key, value in layer.items():
            merge_kv(parser, key, value)
    return config


def apply_overrides(config: dict[str, Any], pairs: Mapping[str, Any]) -> set[str]:
    """Set the pairs whose key ``config`` knows, in place; return their keys."""
    parser = ConfigParser(config)
    known = {key for key in pairs if _knows(config, key)}
    for key in pairs:
        if key in known:
            merge_kv(parser, key, pairs[key])
    return known


def apply_to_all(configs: Configs, pairs: Mapping[str, Any]) -> set[str]:
    """Set each pair in the workflows that know its key, in place; return the keys that one of them knows."""
    return {key for config in configs.values() for key in apply_overrides(config, pairs)}


def set_keys(configs: Configs, sources: Iterable[Source]) -> None:
    """Set the keys of each source, in place, the last one winning.

    Raises:
        ValueError: If no workflow knows a key; the message names the nearest that one knows.
    """
    for source, pairs in sources:
        for key in sorted(set(pairs) - apply_to_all(configs, pairs)):
            refuse_key(key, source, {known for config in configs.values() for known in config})


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


def refuse_key(key: str, source: str, known: Iterable[str]) -> None:
    """Raise ValueError for a key that is unknown, with the nearest known one."""
    root = key.removeprefix("+").replace("#", "::").split("::")[0]
    if root in set(known):
        raise ValueError(f"{source} sets '{key}', but '{root}' has no such item or argument")
    raise ValueError(f"no key '{root}' in the configs ({source}){_nearest(root, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def absolute(overrides: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return ``overrides`` with the paths under ``keys`` made absolute: a run may be started from anywhere."""
    paths = {key: str(Path(overrides[key]).absolute()) for key in keys if isinstance(overrides.get(key), str)}
    return {**overrides, **paths}
