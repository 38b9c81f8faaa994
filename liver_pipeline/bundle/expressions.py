"""Expressions ``$...`` of a config, read and not run: whether they are Python, what they name, what they call."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Collection, Iterator
from typing import Any

from liver_pipeline.bundle.tree import parts_of

REFERRED = "_"  # stands for what an expression refers to
# Functions that need nothing else, change nothing, and end.
PURE = {
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "float", "int", "len", "list", "max", "min", "range",
    "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
}  # fmt: skip


def expressions_in(config: Any) -> Iterator[tuple[str, str]]:
    """Yield every expression in a config with its path."""
    return ((path, part) for path, part in parts_of(config) if isinstance(part, str) and part.startswith("$"))


def syntax_fault(code: str) -> str:
    """Say what is wrong with an expression as it is written; "" for nothing, or for other code."""
    try:
        _tree(code if code.startswith("$") else "$0")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error.msg if isinstance(error, SyntaxError) else error)
    return ""


def imported_names(config: Any) -> set[str]:
    """Return the names that expressions such as ``$import math`` bring, wherever in a config they stand."""
    found = (node for _, code in expressions_in(config) if not syntax_fault(code) for node in _tree(code).body)
    imports = (node for node in found if isinstance(node, ast.Import | ast.ImportFrom))
    return {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}


def unknown_name(code: str, known: Collection[str]) -> str:
    """Return the first name in an expression that is none of its own, of Python's or of ``known``; "" without one."""
    nodes = list(ast.walk(_tree(code)))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)} | {REFERRED}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = (node.id for node in nodes if isinstance(node, ast.Name))
    return next((name for name in used if not (name in own or name in known or hasattr(builtins, name))), "")


def called_names(code: str) -> set[str]:
    """Return what an expression calls, as it is written: ``len``, ``torch.device``."""
    return {ast.unparse(node.func) for node in ast.walk(_tree(code)) if isinstance(node, ast.Call)}


def _tree(code: str) -> ast.Module:
    return ast.parse(re.sub(r"@[\w:]+", REFERRED, code[1:]).strip())
