"""Kinds of values that a key can have: what they are in words, and whether a value is one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a key accepts.

    Attributes:
        says: In words that end the sentence "expected ...".
        holds: Tells whether a value, which is no code, is of this kind.
        is_text: A word of the command line, or a plain scalar in YAML, stays text: ``2017``, ``no``, ``1e5``.
        has_null: ``null`` is one of the values.
        is_built: A component, or several: part of what a workflow is built of, rather than a value.
        gives: What such a component gives where that is a plain value, in words.
    """

    says: str
    holds: Callable[[Any], bool]
    is_text: bool = False
    has_null: bool = False
    is_built: bool = False
    gives: str = ""


def is_code(value: Any) -> bool:
    """Tell whether MONAI reads a value as code: an expression ``$...``, a reference ``@...`` or a macro ``%...``."""
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def or_null(kind: Kind) -> Kind:
    """Return the kind that also has ``null``."""
    return replace(kind, says=f"{kind.says}, or null", holds=lambda v: v is None or kind.holds(v), has_null=True)


def either(first: Kind, second: Kind) -> Kind:
    """Return the kind whose values are of one of two kinds."""
    built = first.is_built and second.is_built
    return Kind(f"{first.says}, or {second.says}", lambda v: first.holds(v) or second.holds(v), is_built=built)


# --- one value ---

FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("text", lambda v: isinstance(v, str) and v != "", is_text=True)
PATH_TEXT = (
    Kind(  # MONAI's config language makes :: of each # that `monai.bundle run` is given, which is another folder
        "a path without ::", lambda v: isinstance(v, str) and v != "" and "\0" not in v and "::" not in v, is_text=True
    )
)


def _has_group(pattern: Any) -> bool:
    try:
        return isinstance(pattern, str) and re.compile(pattern).groups > 0
    except re.error:
        return False


PATTERN = Kind("a regular expression with a group in parentheses", _has_group, is_text=True)


def choice(*names: str) -> Kind:
    """Return the kind of one of some names."""
    says = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return Kind(says, lambda v: v in names, is_text=True)


def matching(pattern: str, says: str) -> Kind:
    """Return the kind of text that a regular expression matches as a whole."""
    return Kind(says, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None, is_text=True)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and (isinstance(value, int) or isfinite(value))
    )


def whole(low: int, high: int) -> Kind:
    """Return the kind of whole numbers in a range, both ends included."""
    return Kind(
        f"a whole number from {low} to {high}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
    )


def number(low: float, high: float) -> Kind:
    """Return the kind of finite numbers in a range, both ends included."""
    return Kind(f"a number from {low:g} to {high:g}", lambda v: _is_number(v) and low <= v <= high)


def number_above(low: float, high: float) -> Kind:
    """Return the kind of numbers above ``low``, up to ``high``."""
    return Kind(f"a number above {low:g}, at most {high:g}", lambda v: _is_number(v) and low < v <= high)


def number_below(low: float, high: float) -> Kind:
    """Return the kind of numbers from ``low``, below ``high``."""
    return Kind(f"a number from {low:g}, below {high:g}", lambda v: _is_number(v) and low <= v < high)


# --- several values ---


MANY = 10000
EMPTY_LIST = Kind("an empty list", lambda v: v == [] or v == ())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def several(kind: Kind, least: int = 0, most: int = MANY) -> Kind:
    """Return the kind of lists of values of one kind."""
    counts = "" if most == MANY else f" of {most}" if least == most else f" of {least} to {most}"
    return Kind(
        f"a list{counts}, each {kind.says}",
        lambda v: _is_list(v) and least <= len(v) <= most and all(kind.holds(item) for item in v),
    )


def three(kind: Kind) -> Kind:
    """Return the kind of lists of a value along each of R, A, S."""
    return replace(several(kind, 3, 3), says=f"a list of three along R, A, S, each {kind.says}")


def rising(low: float, high: float) -> Kind:
    """Return the kind of pairs of a lower and a higher number in a range."""
    return Kind(
        f"a list of a lower and a higher number, from {low:g} to {high:g}",
        lambda v: _is_list(v) and len(v) == 2 and all(map(_is_number, v)) and low <= v[0] < v[1] <= high,
    )


# --- what a workflow is built of ---


def _is_component(value: Any) -> bool:
    return is_code(value) or (isinstance(value, Mapping) and "_target_" in value)


COMPONENT = Kind("a component ({_target_: ...}) or an expression", _is_component, is_built=True)
COUNTING = replace(COMPONENT, gives="a number")
COMPONENTS = Kind(
    "a list of components ({_target_: ...}), or an expression",
    lambda v: is_code(v) or (_is_list(v) and all(map(_is_component, v))),
    is_built=True,
)
BLOCK = Kind("a block of keys", lambda v: isinstance(v, Mapping), is_built=True)
NAMES = Kind(
    "a block of names or paths of YAML files",
    lambda v: isinstance(v, Mapping) and all(map(TEXT.holds, v.values())),
    is_built=True,
)
