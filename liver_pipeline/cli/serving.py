"""A trained run for others: behind a web page, on the hospital's network, in other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from liver_pipeline.cli.group import main
from liver_pipeline.cli.options import FiniteRange, overrides_argument
from liver_pipeline.commands import completion

PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command("app")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Open no browser; the address goes to the screen.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; this machine alone by default.")
@click.option("--work", metavar="DIR", default="liver_pipeline_app", show_default=True, help="Uploads and masks.")
@click.option("--runs", metavar="DIR", help="Run folders to choose from, besides the weights in the box.")
@click.option("--data", metavar="DIR", help="Scans that can be named by path instead of being uploaded.")
def app_command(no_browser: bool, **options: Any) -> None:
    """Open the app in the browser: drop scans, look at masks, keep a table of cases. Ctrl-C ends it.

    \b
    Example: liver-pipeline app --work cases/
    """
    from liver_pipeline.commands.app import run_app

    run_app(browser=not no_browser, **options)


@main.command("node")
@click.argument("run_dir", metavar="RUN", shell_complete=completion.complete_run)
@click.option("--aet", "title", required=True, metavar="AET", help="Our AE title.")
@click.option("--port", type=click.IntRange(1, 65535), default=11112, show_default=True)
@click.option(
    "--from",
    "allowed",
    required=True,
    metavar="AET[@HOST:PORT],...",
    help="AE titles that may send, others are refused; with an address, how many slices a series has is asked there.",
)
@click.option("--send-to", "peer", metavar="AET@HOST:PORT", help="Where SEG, SR and captures go, by C-STORE.")
@click.option("--stow", metavar="URL", help="Where they go by STOW-RS; instead of --send-to, or as well.")
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on; loopback unless told.")
@click.option("--folder", default="liver_node", show_default=True, help="Private folder of received scans and masks.")
@click.option("--quiet-seconds", type=FiniteRange(min=1), default=30, show_default=True, help="End of a series.")
@click.option("--keep-hours", type=FiniteRange(min=0.1), default=24, show_default=True, help="What is older goes.")
@click.option("--series", metavar="thinnest|contrast|UID", help="Of a study's series take one (default: each).")
@click.option("--tls-cert", "certificate", type=PEM, metavar="PEM", help="Listen by TLS, with this certificate.")
@click.option("--tls-key", "key", type=PEM, metavar="PEM", help="Its key.")
@click.option("--tls-ca", "authority", type=PEM, metavar="PEM", help="Who signs the certificates of peers.")
@click.option("--send-tls", is_flag=True, help="Call DICOM peers by TLS, too.")
@overrides_argument
def node_command(run_dir: str, series: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Receive CT and MR series by DICOM, segment them with RUN, send SEG, SR and captures back; until it is stopped.

    The same command again goes on where it was, also after a kill. KEY=VALUE are keys of the run's inference.yaml.

    \b
    Example: liver-pipeline node default --aet LIVER --from PACS@10.0.0.1:104 --send-to PACS@10.0.0.1:104 --bind 0.0.0.0
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.commands.node import run_node

    if (options["certificate"] is None) != (options["key"] is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    values = parse_overrides(overrides) | ({} if series is None else {"series": series})
    run_node(run_dir, overrides=values, **options)


@main.command("export")
@click.argument("run_dir", metavar="RUN", shell_complete=completion.complete_run)
@click.argument("out_dir", metavar="OUT")
@click.option(
    "--format", "file_format", type=click.Choice(["torchscript", "onnx", "openvino", "bundle"]), required=True,
    help="Networks for other programs, or a clean copy of the run.",
)  # fmt: skip
def export_command(run_dir: str, out_dir: str, file_format: str) -> None:
    """Write the networks of RUN for other programs into the new folder OUT, or with `bundle` RUN itself, to hand it on.

    Nothing of the cases goes along: no samples, log, cache, split or path. Before it is there, three phantoms are
    segmented with it and with RUN: at least 99.99 % of the labels have to agree. `onnx` needs pip install
    'liver-pipeline[export]'.

    \b
    Example: liver-pipeline export runs/r34 exported/r34 --format onnx
             liver-pipeline export default exported/default --format torchscript
             liver-pipeline export runs/r34 to_hand_on/r34 --format bundle
    """
    from liver_pipeline.commands.export import export

    done = export(run_dir, out_dir, file_format=file_format)
    agree = f"{done.voxels - done.differing} of {done.voxels} labels of three phantoms agree"
    click.echo(f"{agree} ({done.labelled} are liver or tumor); {len(done.files)} files in {done.folder}")
