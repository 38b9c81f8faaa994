"""Checks of the values of keys: each against its row in the table, and some against each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from liver_pipeline.bundle.entry import meant
from liver_pipeline.bundle.expressions import syntax_fault
from liver_pipeline.bundle.keys import row_of
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.tree import parts_of
from liver_pipeline.bundle.values import COMPONENT, COMPONENTS, is_code

_REFERENCE = re.compile(r"(?:@|^%)(\w+)")
_ONE_KEY = re.compile(r"@\w+(::\w+)*")
_MACRO_FILE = re.compile(r"%.*\.(json|ya?ml)\b")
_SHOWN = 80  # characters of a value in a message
LIVER_HU = (-100, 300)  # of a CT, fat or full of contrast
SEES_LIVERS = f"that holds HU of livers, some of {LIVER_HU[0]} to {LIVER_HU[1]}, or the network sees nothing"


@dataclass(frozen=True)
class Relation:
    """What holds between the values of some keys, and how to say so."""

    keys: tuple[str, ...]
    holds: Callable[..., Any]
    says: str


def _sees_livers(hu: tuple[float, float]) -> bool:
    return hu[0] < LIVER_HU[1] and hu[1] > LIVER_HU[0]


# fmt: off
RELATIONS = (
    Relation(("spacing", "grid_size"), lambda mm, n: (mm is None) != (n is None), "one of the two, null for the other"),
    Relation(("val_interval", "max_epochs"), lambda n, most: n <= most, "at most max_epochs, or none is validated"),
    Relation(("split_fractions", "folds"), lambda shares, n: n or abs(sum(shares) - 1) < 1e-6, "shares with the sum 1"),
    Relation(("split_fractions", "folds"), lambda shares, n: n or shares[0] > 0, "a share to train on"),
    Relation(("fold", "folds"), lambda k, n: k == 0 or (n and k < n), "a fold below folds, the number of them"),
    Relation(("class_ratios", "num_classes"), lambda ratios, n: ratios is None or len(ratios) == n, "one a class"),
    Relation(("class_ratios",), lambda ratios: ratios is None or any(ratios), "a number above 0"),
    Relation(("scored_classes", "num_classes"), lambda own, n: own is None or max(own) < n, "classes below it"),
    Relation(("hu_windows", "in_channels"), lambda windows, n: len(windows) == n, "a window for each channel"),
    Relation(("hu_window", "modality"), lambda hu, name: name != "ct" or _sees_livers(hu), f"a window {SEES_LIVERS}"),
    Relation(("hu_windows", "modality"), lambda hus, name: name != "ct" or any(map(_sees_livers, hus)),
             f"one {SEES_LIVERS}"),
    Relation(("min_liver_ml", "max_liver_ml"), lambda low, high: low < high, "the lower volume first"),
    Relation(("tta",), lambda axes: len(set(axes)) == len(axes), "each axis once"),
    Relation(("encoder_weights_path", "encoder_weights_sha256"), lambda path, sha: not path or sha, "the file's hash"),
    Relation(("compile", "accumulate_steps"), lambda mode, n: n == 1 or mode not in ("reduce-overhead", "max-autotune"),
             "a step each batch: CUDA graphs do not add gradients up"),
    Relation(("num_classes", "protocol"), lambda n, name: n > 2 or name == "plain", "plain: others score tumor"),
    Relation(("liver_only", "protocol"), lambda liver, name: not liver or name == "plain", "plain: others score tumor"),
)
# fmt: on


def check_values(**values: Any) -> None:
    """Check the values of keys; ``checked`` in the configs calls it, so that stock MONAI's ``run`` does as well.

    Raises:
        ValueError: For the first value that its row does not accept, or that contradicts another one; the message has
            key, value, and what is accepted.
    """
    plain = {key: value for key, value in ((key, meant(values[key])) for key in values) if not is_code(value)}
    for key, value in plain.items():
        row = row_of(key)
        if row is not None and not row.kind.holds(value):
            unit = f", in {row.unit}" if row.unit else ""
            raise ValueError(f"{key} is {shown(value)}; expected {row.kind.says}{unit}: {row.what}")
    for relation in RELATIONS:
        if plain.keys() >= set(relation.keys) and not relation.holds(*(plain[key] for key in relation.keys)):
            given = " and ".join(f"{key} is {shown(plain[key])}" for key in relation.keys)
            raise ValueError(f"{given}; expected {relation.says}")


def check_replaced(key: str, holder: Any, old: Any, value: Any) -> None:
    """Check what takes the place of an item: in a list of components a component, for such a list another one.

    In a component, what takes the place of a reference ``@name`` is a value that the key ``name`` takes.

    Raises:
        ValueError: If it is none; the message has the keys.
    """
    if is_code(value):
        return
    if _is_chain(holder) and not key.startswith("+") and not COMPONENT.holds(value):
        raise ValueError(f"{key} is {shown(value)}; expected {COMPONENT.says}")
    if value is None or isinstance(value, Mapping):
        return
    if _is_chain(old) and not COMPONENTS.holds(value):
        raise ValueError(f"{key} is {shown(value)}; expected {COMPONENTS.says}")
    if isinstance(holder, Mapping) and isinstance(old, str) and _ONE_KEY.fullmatch(old):
        _check_dereferenced(key, old[1:], value)


def _is_chain(value: Any) -> bool:
    """Tell whether a value is a list of components, of which some stand there rather than as references."""
    return COMPONENTS.holds(value) and any(isinstance(item, Mapping) for item in value)


def _check_dereferenced(key: str, name: str, value: Any) -> None:
    row = row_of(name)
    if row is not None and not row.kind.is_built:
        if not row.kind.holds(value):
            raise ValueError(f"{key} is {shown(value)}; expected {row.kind.says}, as '{name}' is: {row.what}")
    elif isinstance(value, (str, bool)):  # a number may be what the component gives
        says = row.kind.gives if row is not None and row.kind.gives else f"{COMPONENT.says}, or null"
        raise ValueError(f"{key} is {shown(value)}; expected what '{name}' is, {says}")


def check_references(*configs: Mapping[str, Any]) -> None:
    """Check that what configs refer to (``@key``, ``%key``) is in one of them.

    Raises:
        ValueError: For the first that is not, with both keys; or for an expression that cannot be read.
    """
    known = {key for config in configs for key in config}
    for key, value in (item for config in configs for item in config.items()):
        for text in (part for _, part in parts_of(value) if is_code(part)):
            if fault := syntax_fault(text):
                raise ValueError(f"{key} has {shown(text)}; it is no expression of Python: {fault}")
            for name in () if _MACRO_FILE.match(text) else _REFERENCE.findall(text):
                if name not in known:
                    raise ValueError(f"{key} has {shown(text)}; there is no key '{name}' to refer to")


def shown(value: Any) -> str:
    """Return a value as messages show it: constants as in YAML, and cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def checking(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the component ``checked`` of a config: it checks paths and the keys with a plain value, whatever comes."""
    rows = {key: row for key in config if (row := row_of(key)) and not row.kind.is_built}
    keys = [key for key, row in rows.items() if Role.PATH in row.roles or not is_code(meant(config[key]))]
    return {"_target_": f"{__name__}.{check_values.__name__}", **{key: f"@{key}" for key in keys}}
