"""The command line: arguments in, exit code out. Every command only calls the floors below."""

from __future__ import annotations

import sys
from typing import Any

import click

EXIT_BAD_USAGE = 2


class OneLineErrors(click.Group):
    """A group whose commands end with one line on bad input; ``--debug`` shows the traceback instead."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors that a user can mend into one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, RuntimeError) as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"liver-pipeline: {' '.join(str(root_cause(error)).split())}", err=True)
            sys.exit(EXIT_BAD_USAGE)


def root_cause(error: BaseException) -> BaseException:
    """Return the exception at the bottom of the ``__cause__`` chain: MONAI wraps config errors in RuntimeError."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(package_name="liver-pipeline")
def main(debug: bool) -> None:
    """Segment liver (1) and liver tumors (2) in CT and MR: train, predict and evaluate networks chosen in YAML."""
