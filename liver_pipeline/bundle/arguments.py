"""Checks of the arguments of components: each against what the class or function under ``_target_`` says it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from math import isnan
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from liver_pipeline.bundle.checks import shown
from liver_pipeline.bundle.layers import component_class
from liver_pipeline.bundle.tree import components_in
from liver_pipeline.bundle.values import is_code
from liver_pipeline.hints import did_you_mean

# What plain values of YAML are, in words; of all other types nothing is known.
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", NoneType: "null"}
EXACT = 2**53  # below, a float tells whole numbers apart
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_arguments(config: Mapping[str, Any]) -> None:
    """Check the arguments of every component in a config: their names, and the types of plain values.

    Args:
        config: By key. Expressions, references and nested components are taken as they are.

    Raises:
        ValueError: If there is no such class or function, it takes no such argument or misses one, or a value is of
            none of the types that its signature names; the message has the path, ``a::b``.
    """
    for path, component in components_in(config):
        target = component["_target_"]
        if is_code(target):
            continue
        built = component_class(component)
        if not callable(built):
            nowhere = "there is no class or function of that name; own ones lie in the working directory"
            raise ValueError(f"{path} is {shown(target)}; {nowhere}")
        _check_component(path, component, built)


def _check_component(path: str, component: Mapping[str, Any], built: Any) -> None:
    try:
        parameters = inspect.signature(built, eval_str=True).parameters
    except (TypeError, ValueError, NameError):  # written in C, or with names that only a type checker has
        return
    target = component["_target_"]
    given = {name: value for name, value in component.items() if not name.startswith("_")}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in given:
            if name not in parameters:
                raise ValueError(f"{path} has '{name}', which {target} does not take{did_you_mean(name, parameters)}")
    if component.get("_mode_", "default") == "default" and "_args_" not in component:
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in given and parameter.kind in NAMED:
                raise ValueError(f"{path} has no '{name}', which {target} needs")
    for name, value in given.items():
        hint = parameters[name].annotation if name in parameters else Any
        is_default = name in parameters and value is None is parameters[name].default
        if not is_default and not _fits(value, hint):
            raise ValueError(f"{path}::{name} is {shown(value)}; expected {' or '.join(_words(hint))}, for {target}")
        if name == "prob" and isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise ValueError(f"{path}::{name} is {shown(value)}; expected a number from 0 to 1, for {target}")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value may be meant by a type; whatever is not known to be wrong is taken."""
    if is_code(value) or isinstance(value, Mapping):
        return True
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if kind is Literal:
        return value in get_args(hint)
    if _is_list(kind):
        items = [one for one in get_args(hint) if one is not Ellipsis] or [Any]
        listed = value if isinstance(value, (list, tuple)) else [value]  # one for all, which MONAI often takes
        return all(any(_fits(item, one) for one in items) for item in listed)
    if kind is Callable:
        return False
    if kind not in WORDS:
        return True
    if kind is float:
        return isinstance(value, (int, float)) and not isnan(value)
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < EXACT)
    if kind is bool:
        return isinstance(value, bool) or value in (0, 1)
    return isinstance(value, str if kind is Path else kind)


def _is_list(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, (str, bytes, Mapping))


def _words(hint: Any) -> list[str]:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return list(dict.fromkeys(word for one in get_args(hint) for word in _words(one)))
    if kind is Literal:
        return [shown(one) for one in get_args(hint)]
    if _is_list(kind):
        items = dict.fromkeys(word for one in get_args(hint) if one is not Ellipsis for word in _words(one))
        return [f"a list of {' or '.join(items)}" if items else "a list"]
    return ["a component" if kind is Callable else WORDS.get(kind, getattr(kind, "__name__", str(kind)))]
