"""Which keys of a config are in use: something that the run is built of refers to them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from liver_pipeline.bundle.checks import shown
from liver_pipeline.bundle.keys import root_of, row_of
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.tree import parts_of, references_in

_BY_MODALITY = re.compile(r"\$(?P<one>.+) if @(?P<key>\w*modality) == '(?P<name>\w+)' else (?P<other>.+)")
_READ = {"value_range"}  # for metadata.json


def idle_keys(config: Mapping[str, Any]) -> set[str]:
    """Return the keys of a config to which nothing in use refers: setting them is without effect.

    In use are components, but for those that are only offered, and what they refer to; where an expression chooses by
    ``modality``, that is what it chooses. A key that is in no table is taken to be in use.
    """
    rows = {key: row for key in config if (row := row_of(key)) is not None}
    offered = {key for key, row in rows.items() if not row.kind.is_built or Role.OFFERED in row.roles} - _READ
    known = config.keys() - {"checked"}  # which refers to all
    used: set[str] = set()
    waiting = known - offered
    while waiting:
        key = waiting.pop()
        used.add(key)
        waiting |= (_references(config, key) & known) - used
    return offered - used


def _references(config: Mapping[str, Any], key: str) -> set[str]:
    names: set[str] = set()
    for _, part in parts_of(config[key]):
        choice = _BY_MODALITY.fullmatch(part) if isinstance(part, str) else None
        if choice and (modality := config.get(choice["key"])) in ("ct", "mr"):
            part = f"${choice['one' if modality == choice['name'] else 'other']} + @{choice['key']}"
        names |= references_in(part) if isinstance(part, str) else set()
    return names


def refuse_idle(source: str, pairs: Mapping[str, Any], configs: Collection[Mapping[str, Any]]) -> None:
    """Refuse a key that is set although nothing in use refers to it, in none of the configs that have it.

    Args:
        source: Who sets it, for the message.
        pairs: What is set; null asks for nothing and is taken.
        configs: As they are with it. Where they are those of a liver stage, ``liver_<key>`` is their ``<key>``.

    Raises:
        ValueError: For the first; the message has its name.
    """
    asked = [key for key, value in pairs.items() if value is not None]
    idle = [(config, idle_keys(config)) for config in configs] if asked else []
    for key in asked:
        names = {root_of(key), root_of(key).removeprefix("liver_")}
        having = [(config, unused) for config, unused in idle if names & config.keys()]
        if having and all(names & config.keys() <= unused for config, unused in having):
            modality = shown(having[0][0].get("modality"))
            raise ValueError(
                f"{source} sets '{key}', to which nothing refers with this network, modality {modality} and the other "
                f"settings: it would be without effect; leave it out"
            )
