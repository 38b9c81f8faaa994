"""Completion of names in bash, zsh and fish; loaded at each press of Tab, so it loads nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click import Context, Parameter
from click.shell_completion import CompletionItem, get_completion_class

PROGRAM = "liver-pipeline"
VARIABLE = "_LIVER_PIPELINE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
Completer = Callable[[Context, Parameter, str], list[Any]]
_ADD = "            COMPREPLY+=($value)\n"


def completion_script(shell: str) -> str:
    """Return the script that a shell reads to complete ``liver-pipeline``; in bash no space follows ``key=``."""
    found = get_completion_class(shell)
    assert found is not None, shell
    script: str = found(None, {}, PROGRAM, VARIABLE).source()  # type: ignore[arg-type]  # the command is not asked
    return script.replace(_ADD, f"{_ADD}            [[ $value == *= ]] && compopt -o nospace\n")


def complete_names(kind: str) -> Completer:
    """Return what completes names of one kind of ``list``, each with its line; of several, the last after a comma."""

    def complete(_ctx: Context, _param: Parameter, typed: str) -> list[Any]:
        from liver_pipeline.commands.listing import names_of

        before, comma, last = typed.rpartition(",")
        named = {name: about for name, about in names_of(kind).items() if name.startswith(last)}
        paths = [CompletionItem(typed, type="file")] if not named and not comma else []
        return [CompletionItem(f"{before}{comma}{name}", help=about) for name, about in named.items()] + paths

    return complete


def complete_run(_ctx: Context, _param: Parameter, typed: str) -> list[Any]:
    """Complete weights in the box; where none begins so, folders."""
    from liver_pipeline.bundle.shipped import shipped_runs

    named = ["default", *shipped_runs()] if not Path(typed).is_dir() else []
    found = [CompletionItem(name) for name in named if typed and name.startswith(typed)]
    return found or [CompletionItem(typed, type="dir")]


def complete_key(_ctx: Context, _param: Parameter, typed: str) -> list[Any]:
    """Complete keys, as ``key=``."""
    from liver_pipeline.bundle.keys import ROWS

    return [CompletionItem(f"{row.name}=", help=row.what) for row in ROWS if row.name.startswith(typed)]


def complete_kind(_ctx: Context, _param: Parameter, typed: str) -> list[Any]:
    """Complete the kinds of ``list``."""
    from liver_pipeline.commands.listing import LISTS

    return [kind for kind in LISTS if kind.startswith(typed)]


def complete_key_name(_ctx: Context, _param: Parameter, typed: str) -> list[Any]:
    """Complete the names of keys."""
    from liver_pipeline.bundle.keys import ROWS

    return [CompletionItem(row.name, help=row.what) for row in ROWS if row.name.startswith(typed)]
