"""A config part by part, each with its path: what all look through who look for something in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_REFERENCE = re.compile(r"(@|^%)(\w+)")


def parts_of(config: Any, path: str = "", *, inner_first: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield every part of a config with its path, such as ``train::handlers::0``, the config itself among them.

    Args:
        config: Blocks, lists and values.
        path: Where ``config`` stands itself.
        inner_first: What a block or a list holds comes before it, and not behind it.
    """
    if not inner_first:
        yield path, config
    items = (
        config.items()
        if isinstance(config, Mapping)
        else enumerate(config)
        if isinstance(config, (list, tuple))
        else ()
    )
    for name, part in items:
        yield from parts_of(part, f"{path}::{name}" if path else str(name), inner_first=inner_first)
    if inner_first:
        yield path, config


def components_in(config: Any, path: str = "", *, inner_first: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every component in a config with its path; see :func:`parts_of`."""
    for where, part in parts_of(config, path, inner_first=inner_first):
        if isinstance(part, Mapping) and "_target_" in part:
            yield where, part


def references_in(config: Any) -> set[str]:
    """Return the top-level keys that a config refers to."""
    return {name for _, part in parts_of(config) if _refers(part) for _, name in _REFERENCE.findall(part)}


def with_prefix(config: Any, keys: Collection[str], prefix: str) -> Any:
    """Return a config whose references to some keys have a prefix."""
    if isinstance(config, Mapping):
        return {name: with_prefix(part, keys, prefix) for name, part in config.items()}
    if isinstance(config, (list, tuple)):
        return [with_prefix(part, keys, prefix) for part in config]
    return (
        _REFERENCE.sub(lambda f: f"{f[1]}{prefix if f[2] in keys else ''}{f[2]}", config) if _refers(config) else config
    )


def _refers(part: Any) -> bool:
    return isinstance(part, str) and part.startswith(("@", "$", "%"))
