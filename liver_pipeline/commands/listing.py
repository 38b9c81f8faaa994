"""What can be named and what can be set: ``list`` and ``keys``, without loading MONAI."""

from __future__ import annotations

import json
import textwrap

from liver_pipeline.bundle.keys import KEYS, SECTIONS, root_of, row_of
from liver_pipeline.bundle.names import default_values, layer_names, layer_summary, users_of
from liver_pipeline.bundle.roles import MEANING, Key
from liver_pipeline.bundle.shipped import shipped
from liver_pipeline.hints import did_you_mean

WEIGHTS_KIND = "weights"
LISTS = {  # what `list` calls a kind: the kind of layer
    "networks": "network",
    "recipes": "recipe",
    "augmentations": "augmentation",
    "data": "data",
    "modalities": "modality",
    "experiments": "experiment",
    WEIGHTS_KIND: WEIGHTS_KIND,
}


def names_of(kind: str) -> dict[str, str]:
    """Return what can be named as a kind of layer, or as ``weights``, with a line about each."""
    if kind == WEIGHTS_KIND:
        cards = {name: folder / "docs" / "README.md" for name, folder in shipped().items()}
        return {name: card.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, card in cards.items()}
    return {name: layer_summary(kind, name) for name in layer_names(kind)}


def list_lines(kind: str | None = None) -> list[str]:
    """Return the lines of ``liver-pipeline list``: one kind of names, or all of them under their headings.

    Raises:
        ValueError: If there is no such kind; the message names the nearest.
    """
    if kind is not None and kind not in LISTS:
        raise ValueError(f"no list of '{kind}'{did_you_mean(kind, LISTS)}; there are {', '.join(LISTS)}")
    lines = []
    for title, layer in LISTS.items() if kind is None else [(kind, LISTS[kind])]:
        lines += [f"{title}:"] + [f"  {name:<28} {about}" for name, about in names_of(layer).items()]
    return lines


def key_lines(name: str | None = None) -> list[str]:
    """Return the lines of ``liver-pipeline keys``: all keys with default and unit, or everything about one.

    Args:
        name: A key; one that several begin with or hold (``lr``) gives these; ``liver_<key>`` is the key of a cascade's
            liver stage.

    Raises:
        ValueError: If there is no such key; the message names the nearest.
    """
    if name is None:
        return [line for title, rows in SECTIONS.items() for line in ("", f"{title}:", *map(_line, rows))][1:]
    if (row := row_of(root_of(name))) is not None:
        return _about(row)
    if held := [row for row in KEYS.values() if name in row.name]:
        return [_line(row) for row in held]
    raise ValueError(f"no key '{name}'{did_you_mean(name, KEYS)}; `liver-pipeline keys` lists all")


def _line(row: Key) -> str:
    unit = f" ({row.unit})" if row.unit else ""
    return f"  {row.name:<28} {_default(row):<20} {row.what}{unit}"


def _about(row: Key) -> list[str]:
    workflows, layers = users_of(row.name)
    lines = [row.name, *textwrap.wrap(row.what, 100, initial_indent="  ", subsequent_indent="  ")]
    used = workflows or [f"with {layer}" for layer in layers]
    for title, text in (
        ("default", _default(row)),
        ("accepts", row.kind.says),
        ("unit", row.unit),
        ("used by", ", ".join(used)),
        ("role", "; ".join(MEANING[role] for role in MEANING if role in row.roles)),
    ):
        lines += [f"  {title + ':':<10}{text}"] if text else []
    return lines


def _default(row: Key) -> str:
    if row.kind.is_built:
        return "(component)"
    values = default_values()
    if row.name not in values:
        return "-"
    value = values[row.name]
    return value if isinstance(value, str) else json.dumps(value)
