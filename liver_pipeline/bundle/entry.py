"""Where keys and values enter: YAML files and ``key=value`` words, read alike; paths and text stay what was meant."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from liver_pipeline.bundle.keys import row_of
from liver_pipeline.bundle.roles import Key, Role
from liver_pipeline.bundle.values import is_code
from liver_pipeline.io.tables import text_of

TEXT_TAG = "tag:yaml.org,2002:str"
NULLS = ("", "~", "null", "Null", "NULL")
MOST_NESTED = 50  # blocks and lists in each other; what an anchor puts into itself is deeper


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the first is libyaml's
    """YAML as PyYAML reads it, but ``1e-3`` is a number, and ``2020-01-01``, ``1:30`` (90), ``010`` (8) are text."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":int", ":float"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in (
    ("int", r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+|0b[01_]+)$"),
    ("float", r"[-+]?(\d[\d_]*)?(\d\.|\.\d|\d(?=[eE]))[\d_]*([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list("-+.0123456789"))


def read_config(path: Path) -> dict[str, Any]:
    """Read one YAML file of keys.

    A key whose value is text, such as a path, keeps a plain ``2017``, ``no`` or ``1e5`` as it is written.

    Raises:
        ValueError: If it is not valid YAML, holds no keys, or sets one twice; the message has the lines.
    """
    text = text_of(path)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"{path} holds no keys; expected lines such as max_epochs: 100")
        _refuse_doubles(root, path)
        for name, node in root.value:
            if not isinstance(name, yaml.ScalarNode) or name.tag != TEXT_TAG or not name.value.strip():
                named = name.value or "''" if isinstance(name, yaml.ScalarNode) else "of several values"
                raise ValueError(f"{path}, line {name.start_mark.line + 1}, has the key {named}; keys are text")
            row = row_of(name.value)
            if row is not None and row.kind.is_text and _is_plain(node) and not _means_null(node.value, row):
                node.tag = TEXT_TAG
        config: dict[str, Any] = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(_yaml_fault(path, error)) from error
    return config


def _yaml_fault(path: Path, error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    tab = "; indent with blanks, not tabs" if "cannot start any token" in problem else ""
    return f"{path} is not valid YAML: {where}{problem}{tab}"


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style  # None, or "" of libyaml


def _means_null(text: str, row: Key) -> bool:
    return row.kind.has_null and text in NULLS


def _refuse_doubles(node: yaml.Node, path: Path | str, depth: int = 0) -> None:
    """Refuse a mapping in a file, or in the value of a key, that has a key twice, of which YAML takes the last."""
    if depth > MOST_NESTED:
        raise ValueError(
            f"{path}, line {node.start_mark.line + 1}: more than {MOST_NESTED} lists and blocks in each other"
        )
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, path, depth + 1)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            key, line = str(name.value).replace("#", "::"), name.start_mark.line + 1
            if key in lines:
                raise ValueError(f"{path} sets '{key}' twice, in lines {lines[key]} and {line}; remove one")
            lines[key] = line
            _refuse_doubles(value, path, depth + 1)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into a dictionary: text where the key's values are text, else Python literals or YAML.

    A path may begin with ``~`` or be relative, and is always meant as it stands, whatever characters it has.

    Raises:
        ValueError: If a word has no ``=``, or a key is given twice, also in a value.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value, got '{pair}'")
        key = key.replace("#", "::")  # two ways to write one key
        if key in overrides:
            raise ValueError(f"'{key}' is given twice")
        overrides[key] = _parse_word(key, text)
    return overrides


def _parse_word(key: str, text: str) -> Any:
    row = row_of(key)
    if row is not None and row.kind.is_text:
        if _means_null(text, row):
            return None
        return absolute(key, text) if Role.PATH in row.roles else text
    with contextlib.suppress(yaml.YAMLError):
        if text.lstrip().startswith(("{", "[")) and (node := yaml.compose(text, _Loader)) is not None:
            _refuse_doubles(node, key)
    try:
        return ast.literal_eval(text)  # 3e-4 is a number here, text in YAML 1.1
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if is_code(text):
        return text
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError):  # ValueError: a number of thousands of digits
        return text


def refuse_empty(**paths: str | Path) -> None:
    """Refuse paths that are empty, as an unset variable of a shell is: they would mean the working directory.

    Raises:
        ValueError: For the first; the message has its name.
    """
    for name, path in paths.items():
        if str(path) == "":
            raise ValueError(f"{name} is empty; expected a path (is a variable unset?)")


def absolute(name: str, path: str | Path) -> str:
    """Return a path as absolute text, ``~`` expanded: a run may be started from anywhere.

    Raises:
        ValueError: If the path is empty, or in the home of nobody.
    """
    refuse_empty(**{name: path})
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise ValueError(f"{name} is '{path}'; there is no such user, so no home folder") from None


def entered(key: str, value: Any) -> Any:
    """Return a value as configs hold it: paths absolute, and text as MONAI's config language would not read it.

    What is code (``$...``, ``@...``, ``%...``) stays as it is.
    """
    row = row_of(key.removeprefix("+"))
    return literal(value if row is None or Role.PATH not in row.roles else _absolute_paths(key, value))


def _absolute_paths(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_absolute_paths(key, item) for item in value]
    return absolute(key, value) if isinstance(value, (str, Path)) and not is_code(value) else value


def literal(value: Any) -> Any:
    """Return a value in which text that MONAI's config language would change is an expression that gives this text.

    MONAI turns each ``#`` in a config into ``::``, follows ``@::`` and ``%::`` as relative references, and writes keys
    such as those of ``label_map`` as text.
    """
    if isinstance(value, Mapping):
        return {str(key): literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    if isinstance(value, str) and not is_code(value) and (set("#@%") & set(value) or not value.isprintable()):
        return text_expression(value)
    return value


def text_expression(text: str) -> str:
    """Return the expression of MONAI's config language that gives ``text``, whatever characters it has."""
    return "$" + re.sub("[#@%]", lambda found: f"\\x{ord(found[0]):02x}", ascii(text))


def meant(value: Any) -> Any:
    """Return a value, or the text that it is the expression of: what :func:`literal` was given."""
    if isinstance(value, str) and value.startswith(("$'", '$"')):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(value[1:])
    return value
