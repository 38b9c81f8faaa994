"""What there is to name, completion by the shell, and a first run of everything."""

from __future__ import annotations

import click

from liver_pipeline.cli.group import main
from liver_pipeline.cli.options import overwrite_option
from liver_pipeline.commands import completion


@main.command("list")
@click.argument("kind", required=False, shell_complete=completion.complete_kind)
def list_command(kind: str | None) -> None:
    """List what can be named: networks, recipes, augmentations, data, modalities, experiments, weights.

    \b
    Example: liver-pipeline list
             liver-pipeline list networks
    """
    from liver_pipeline.commands.listing import list_lines

    click.echo("\n".join(list_lines(kind)))


@main.command("keys")
@click.argument("name", required=False, shell_complete=completion.complete_key_name)
def keys_command(name: str | None) -> None:
    """List what KEY=VALUE can set, with default and unit; with NAME, all about one key.

    \b
    Example: liver-pipeline keys
             liver-pipeline keys learning_rate
    """
    from liver_pipeline.commands.listing import key_lines

    click.echo("\n".join(key_lines(name)))


@main.command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
def completion_command(shell: str) -> None:
    """Print the script that lets a shell complete commands, options and names.

    Bash reads it from ~/.local/share/bash-completion/completions/liver-pipeline, zsh as _liver-pipeline in a folder of
    its fpath, fish from ~/.config/fish/completions/liver-pipeline.fish.

    \b
    Example: mkdir -p ~/.local/share/bash-completion/completions
             liver-pipeline completion bash > ~/.local/share/bash-completion/completions/liver-pipeline
    """
    click.echo(completion.completion_script(shell))


@main.command("demo")
@click.argument("folder", default="liver_pipeline_demo", metavar="[DIR]")
@overwrite_option
def demo_command(folder: str, overwrite: bool) -> None:
    """Run everything once on phantoms, about two minutes on a CPU: data, training, prediction, evaluation, pictures.

    \b
    Example: liver-pipeline demo
    """
    from liver_pipeline.commands.demo import run_demo

    run_demo(folder, overwrite=overwrite)
