"""Options that several commands have, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from liver_pipeline.commands import completion


def chosen_layers(**named: str | None) -> dict[str, str]:
    """Return the layers that were named, by their kind."""
    return {kind: name for kind, name in named.items() if name is not None}


def layer_option(kind: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that names one layer; the shell completes it."""
    return click.option(f"--{kind}", metavar="NAME", help=text, shell_complete=completion.complete_names(kind))


def layer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose config layers."""
    for name, text in (
        ("experiment", "Experiment: differences from the other layers, such as a source paper."),
        ("recipe", "Loss, optimizer, schedule (default: default)."),
        ("augmentation", "Random changes of the training windows (default: moderate)."),
        ("modality", "ct, mr or a variant of them (default: ct)."),
        ("data", "How the data set lies on disk (default: lits)."),
        ("network", "Network (default: unet3d)."),
    ):
        command = layer_option(name, text)(command)
    return command


overrides_argument = click.argument(
    "overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=completion.complete_key
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")


def _label_values(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    """Read --label-map as label_map=... is read."""
    from liver_pipeline.bundle.checks import check_values
    from liver_pipeline.bundle.entry import parse_overrides

    if text is None:
        return None
    values = parse_overrides([f"label_map={text}"])
    check_values(**values)
    return values["label_map"]


label_map_option = click.option(
    "--label-map",
    metavar="VALUES",
    callback=_label_values,
    help="What values of label maps mean, such as '{6: 1, 7: 2}': 1 liver, 2 tumor, liver_or_tumor.",
)


class FiniteRange(click.FloatRange):
    """A range of numbers, to which nan and infinity do not belong."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or say that it is none."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of this range", param, ctx)
        return number
