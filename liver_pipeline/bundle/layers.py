"""Config layers: find them by name, merge them, set keys; a key that no layer knows is an error."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser
from monai.bundle.utils import merge_kv

from liver_pipeline.bundle.checks import check_references, check_replaced, check_values, checking, shown
from liver_pipeline.bundle.entry import entered, read_config
from liver_pipeline.bundle.keys import KEYS, root_of, row_of
from liver_pipeline.bundle.names import DEFAULT_LAYERS, WORKFLOWS, layer_file, share_dir, users_of
from liver_pipeline.bundle.uses import refuse_idle
from liver_pipeline.hints import did_you_mean

Configs = dict[str, dict[str, Any]]  # by workflow
Source = tuple[str, Mapping[str, Any]]  # what it is called in errors, and the keys that it sets


def merge_layers(
    layers: Mapping[str, str], *, experiment: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Configs:
    """Merge the layers of every workflow of one network.

    For a cascade see :func:`liver_pipeline.bundle.stages.merge_stages`.

    Args:
        layers: Names (or paths) for ``data``, ``modality``, ``network``, ``augmentation``, ``recipe``; what is absent
            comes from the experiment's own ``layers`` key, then from the defaults.
        experiment: Name or path of an experiment file.
        overrides: Keys that win over everything. A key applies to each workflow that knows it.

    Returns:
        Config by workflow name.

    Raises:
        ValueError: If a layer is unknown, a key is known to no workflow, or a value is not accepted.
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

    An experiment may name other layers for a cascade's liver stage, such as ``liver_recipe``. A network's file that has
    ``layers`` builds on them, as an experiment does: it is set above the experiment.
    """
    changes = read_config(layer_file("experiment", experiment)) if experiment else {}
    own = changes.pop("layers", {})
    check_values(layers=own)
    built_on: list[Source] = []
    if "network" in layers and "layers" in (more := read_config(layer_file("network", layers["network"]))):
        own = {**own, **more.pop("layers")}
        check_values(layers=own)
        built_on = [(layers["network"], more)]
        layers = {kind: name for kind, name in layers.items() if kind != "network"}
    chosen = {**DEFAULT_LAYERS, **own, **layers}
    for kind in chosen:
        if kind.removeprefix("liver_") not in DEFAULT_LAYERS:
            raise ValueError(
                f"layers has '{kind}'{did_you_mean(kind, DEFAULT_LAYERS)}; known are {', '.join(DEFAULT_LAYERS)}"
            )
    files = {kind: layer_file(kind.removeprefix("liver_"), name) for kind, name in chosen.items()}
    return files, [(f"experiment '{experiment}'", changes), *built_on, ("key=value", overrides or {})]


def merge_workflows(files: Mapping[str, Path]) -> Configs:
    """Merge the layers of every workflow, whose files are given for each kind.

    Raises:
        ValueError: If a layer sets a key that nothing uses, or an item of what is not there.
    """
    every = {name: share_dir("configs") / f"{name}.yaml" for name in ("base", *WORKFLOWS)} | dict(files)
    read = {part: (str(path), read_config(path)) for path, part in ((every[part], part) for part in every)}
    configs: Configs = {}
    for workflow, parts in WORKFLOWS.items():
        config = merge_into({}, [read[part] for part in parts if part != workflow])
        configs[workflow] = merge_into(config, [read[workflow]], offered=True)
        config["checked"] = checking(config)
    for source, pairs in read.values():
        _refuse_unknown(source, pairs, configs)
    return configs


def _refuse_unknown(source: str, pairs: Mapping[str, Any], configs: Configs) -> None:
    """Refuse a layer's keys that are in no table and that nothing refers to: they are mistyped."""
    for key in pairs:
        if row_of(root_of(key)) is None and not re.search(rf"[@%]{re.escape(key)}\b", json.dumps(configs, default=str)):
            raise ValueError(f"{source} sets '{key}', which nothing uses{did_you_mean(key, KEYS)}")


def merge_into(config: dict[str, Any], layers: Iterable[Source], *, offered: bool = False) -> dict[str, Any]:
    """Merge layers into ``config``, in place, lowest precedence first; keys such as ``a::b`` and ``+a`` as in MONAI.

    Args:
        config: What lies below.
        layers: See :data:`Source`.
        offered: An item ``a::b`` for a component that takes no such argument is left out instead of refused.

    Raises:
        ValueError: If a layer sets an item of what is not there.
    """
    parser = ConfigParser(config)
    for source, pairs in layers:
        for key, value in pairs.items():
            if key == root_of(key) or knows(config, key):
                _set(parser, key, value)
            elif not (offered and root_of(key) in config):
                refuse_key(key, source, config, items=settable(config, key))
    return config


def apply_overrides(config: dict[str, Any], pairs: Mapping[str, Any]) -> set[str]:
    """Set the pairs whose key ``config`` knows, in place; return their keys."""
    parser = ConfigParser(config)
    known = {key for key in pairs if knows(config, key)}
    for key in pairs:
        if key in known:
            _set(parser, key, pairs[key])
    return known


def _set(parser: ConfigParser, key: str, value: Any) -> None:
    """Set a key as MONAI does, once what it replaces in a component is seen to take the value."""
    holder, last = _holder(parser.config, key)
    if isinstance(holder, list):
        check_replaced(key, holder, holder[int(last)], value)
    elif holder is not parser.config and isinstance(holder, dict) and last in holder:
        check_replaced(key, holder, holder[last], value)
    if key.startswith("+") and isinstance(holder, dict) and not isinstance(there := holder.get(last, []), (list, dict)):
        raise ValueError(f"{key} is {shown(value)}; + adds to a list or a block, and {key[1:]} is {shown(there)}")
    merge_kv(parser, key, entered(key, value))


def apply_to_all(configs: Configs, pairs: Mapping[str, Any]) -> set[str]:
    """Set each pair in the workflows that know its key, in place; return the keys that one of them knows."""
    return {key for config in configs.values() for key in apply_overrides(config, pairs)}


def set_keys(configs: Configs, sources: Sequence[Source]) -> None:
    """Set the keys of each source, in place, the last one winning, and check all values.

    Raises:
        ValueError: If no workflow knows a key (the message names the nearest that one knows, or who uses it), or a
            value is not accepted, or nothing refers to a key of the last source.
    """
    for source, pairs in sources:
        for key in sorted(set(pairs) - apply_to_all(configs, pairs)):
            items = {item for config in configs.values() for item in settable(config, key)}
            refuse_key(key, source, {known for config in configs.values() for known in config}, items=items)
    for config in configs.values():
        check_values(**config)
    check_references(*configs.values())
    refuse_idle(*sources[-1], configs.values())


def knows(config: Any, key: str) -> bool:
    """Tell whether ``a::b`` can be set: ``a`` exists, and ``b`` exists or is an argument of the component ``a``."""
    holder, last = _holder(config, key)
    if isinstance(holder, list):
        return last.isdigit() and int(last) < len(holder)
    return isinstance(holder, dict) and (last in holder or _takes(holder, last))


def settable(config: Any, key: str) -> set[str]:
    """Return the names that may stand for ``b`` in ``a::b``: items of ``a``, and arguments of the component ``a``."""
    holder, _ = _holder(config, key)
    if not isinstance(holder, dict):
        return set()
    target = component_class(holder)
    return {*holder, *(inspect.signature(target).parameters if callable(target) else ())}


def _holder(config: Any, key: str) -> tuple[Any, str]:
    """Return what holds the last part of a key, and that part; what holds it is None if it is not there."""
    *parents, last = key.removeprefix("+").replace("#", "::").split("::")
    for part in parents:
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return None, last
    return config, last


def _takes(component: dict[str, Any], argument: str) -> bool:
    """Tell whether the class or function under ``_target_`` has this argument; a splat takes any."""
    target = component_class(component)
    if not callable(target):
        return False
    parameters = inspect.signature(target).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def component_class(component: Any) -> Any:
    """Return the class or function that a component's ``_target_`` names; None if it names none."""
    if not isinstance(component, Mapping) or not isinstance(component.get("_target_"), str):
        return None
    name: str = ConfigComponent(component, locator=_locator()).resolve_module_name()  # type: ignore[no-untyped-call]
    try:
        return locate(name)
    except ErrorDuringImport as error:
        raise ValueError(f"{name} cannot be imported: {error.value}") from error


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def refuse_key(
    key: str, source: str, known: Iterable[str], place: str = "this configuration", items: Iterable[str] = ()
) -> None:
    """Raise ValueError for a key that ``place`` does not use: the message says who does, or the nearest known one.

    ``items`` are the names that can be set where ``a::b`` was to be; see :func:`settable`.
    """
    root, known = root_of(key), set(known)
    if root in known:
        hint = did_you_mean(re.split("::|#", key)[-1], items)
        raise ValueError(f"{source} sets '{key}', but '{root}' has no such item or argument{hint}")
    row = row_of(root)
    workflows, layers = users_of(row.name) if row else ([], [])
    if workflows:
        raise ValueError(f"{source} sets '{key}', which {place} does not use; it is a key of {' and '.join(workflows)}")
    if layers:
        raise ValueError(f"{source} sets '{key}', a key of {' or '.join(layers)}; choose that, or leave the key out")
    raise ValueError(f"no key '{root}' in the configs ({source}){did_you_mean(root, known)}")
