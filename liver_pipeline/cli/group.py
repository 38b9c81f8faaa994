"""The program that commands join: it checks their words and tells errors in one line."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from liver_pipeline.causes import MENDABLE, unwrapped
from liver_pipeline.exits import EXIT_BAD_USAGE
from liver_pipeline.io.screen import open_streams, unwritten


class Command(click.Command):
    """A command that refuses blank words (an unset variable of the shell) and is listed by its whole first sentence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse empty words and blanks, then parse as usual; tell who writes a key as an option how to write it."""
        for number, word in enumerate(args, 1):
            if not word.strip() or (word.startswith("--") and not word.partition("=")[2].strip() and "=" in word):
                raise ValueError(f"word {number} after {ctx.info_name} is empty ({word!r}); is a variable unset?")
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from liver_pipeline.bundle.keys import root_of, row_of

            key = error.option_name.lstrip("-").replace("-", "_")
            if not self.takes_keys or row_of(root_of(key)) is None:
                raise
            message = f"'{error.option_name}' is a key; write {key}=VALUE, without dashes."
            raise click.UsageError(message, ctx) from None

    @property
    def takes_keys(self) -> bool:
        """Whether the command takes KEY=VALUE."""
        return any(parameter.name == "overrides" for parameter in self.params)

    def get_short_help_str(self, limit: int = sys.maxsize) -> str:
        """Return the first sentence of the help; the list of commands wraps it, where click would cut it."""
        return super().get_short_help_str(sys.maxsize)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """End the help of a command that takes KEY=VALUE with where the keys are listed."""
        if self.takes_keys:
            formatter.write_paragraph()
            formatter.write_text(
                "KEY=VALUE: `liver-pipeline keys` lists them all, `liver-pipeline keys spacing` tells about one."
            )
        super().format_epilog(ctx, formatter)


class OneLineErrors(click.Group):
    """A group whose commands end with one line on bad input; ``--debug`` shows the traceback instead."""

    command_class = Command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run on streams that may be closed, or whose disk may be full, and tell if something was not printed."""
        open_streams()
        try:
            return super().main(*args, **extra)
        except SystemExit as end:
            if not end.code and (reason := unwritten()):
                lost = f"what was printed is lost ({reason.strerror}); files are as the command leaves them"
                click.echo(f"liver-pipeline: {lost}", err=True)
                sys.exit(EXIT_BAD_USAGE)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors that a user can mend into one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise  # click's own, RuntimeErrors by descent
        except MENDABLE as error:
            if ctx.params.get("debug"):
                raise
            line = " ".join(root_cause(error).split())
            own = "; own classes lie in the working directory" if "Cannot locate class" in line else ""
            click.echo(f"liver-pipeline: {line}{own}", err=True)
            sys.exit(EXIT_BAD_USAGE)


def root_cause(error: BaseException) -> str:
    """Return what the exception says that MONAI wraps where a config cannot be built, behind a component of others."""
    error, foreign = unwrapped(error)
    if any(f"[Errno {number}]" in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):  # others quote it, too
        return "no space is left on the disk that is written to; make room, then give the same command again"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # without Python's number and quotes
    return f"{foreign}: {error}" if foreign else str(error)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(package_name="liver-pipeline")
def main(debug: bool) -> None:
    """Segment liver (1) and liver tumors (2) in CT and MR: train, predict and evaluate networks chosen in YAML."""
    warnings.filterwarnings("ignore", message="`torch.jit")  # said to the developers of monai
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that are no UTF-8, and narrow encodings
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise FileNotFoundError("the working directory is gone; cd to one that is there") from None
    sys.path.append(here)  # own classes are found where `python -m monai.bundle` finds them
