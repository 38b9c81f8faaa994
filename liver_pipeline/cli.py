"""The command line: arguments in, exit code out. Every command only calls the floors below."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

import liver_pipeline as lp
from liver_pipeline.commands import completion
from liver_pipeline.io.screen import hang_up, open_streams, unwritten

EXIT_BAD_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NONE_DONE = 4
EXIT_HUNG_UP = 141  # as shells tell of SIGPIPE


class Command(click.Command):
    """A command that refuses blank words (an unset variable of the shell) and is listed by its whole first sentence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse empty words and blanks, then parse as usual."""
        for number, word in enumerate(args, 1):
            if not word.strip() or (word.startswith("--") and not word.partition("=")[2].strip() and "=" in word):
                raise ValueError(f"word {number} after {ctx.info_name} is empty ({word!r}); is a variable unset?")
        return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = sys.maxsize) -> str:
        """Return the first sentence of the help; the list of commands wraps it, where click would cut it."""
        return super().get_short_help_str(sys.maxsize)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """End the help of a command that takes KEY=VALUE with where the keys are listed."""
        if any(parameter.name == "overrides" for parameter in self.params):
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
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.exceptions.Exit, click.Abort):
            raise  # click's own, RuntimeErrors by descent
        except BrokenPipeError:  # as `| head` leaves it
            hang_up()
            sys.exit(EXIT_HUNG_UP)
        except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
            if ctx.params.get("debug"):
                raise
            line = " ".join(root_cause(error).split())
            own = "; own classes lie in the working directory" if "Cannot locate class" in line else ""
            click.echo(f"liver-pipeline: {line}{own}", err=True)
            sys.exit(EXIT_BAD_USAGE)


def root_cause(error: BaseException) -> str:
    """Return what the exception says that MONAI wraps where a config cannot be built; any other speaks for itself.

    Of a component of others, whose words do not say what in the config they are about, its name stands before them.
    """
    foreign = ""
    while error.__cause__ is not None and (wrapped := re.match("Failed to (instantiate|evaluate)", str(error))):
        if built := re.match("Failed to instantiate component '(?!liver_pipeline)([^']+)'", wrapped.string):
            foreign = f"{built[1]}: "
        error = error.__cause__
    if any(f"[Errno {number}]" in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):  # others quote it, too
        return "no space is left on the disk that is written to; make room, then give the same command again"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # without Python's number and quotes
    return f"{foreign}{error}"


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


def _layers(**named: str | None) -> dict[str, str]:
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


@main.command("compose")
@click.argument("run_dir")
@layer_options
@overwrite_option
@overrides_argument
def compose_command(
    run_dir: str, experiment: str | None, overwrite: bool, overrides: tuple[str, ...], **chosen: str
) -> None:
    """Merge the config layers into RUN_DIR, without training.

    \b
    Example: liver-pipeline compose runs/swin --network swin_unetr --data lits dataset_dir=LiTS learning_rate=1e-4
    """
    from liver_pipeline.bundle.entry import parse_overrides

    values = parse_overrides(overrides)
    lp.compose(run_dir, _layers(**chosen), experiment=experiment, overrides=values, overwrite=overwrite)
    click.echo(f"composed {run_dir}; start it with: liver-pipeline train {run_dir}")


@main.command("train")
@click.argument("run_dir")
@layer_options
@click.option("--from", "parent", metavar="RUN", help="Begin with a trained run, or default: its network and weights.")
@click.option("--freeze", type=click.Choice(["encoder"]), help="Leave this part of the network as it is.")
@click.option("--restart", is_flag=True, help="Begin anew: what an earlier training wrote goes to RUN_DIR/earlier.")
@click.option("--folds", type=click.IntRange(min=2), metavar="N", help="Cross-validate: RUN_DIR/fold0, fold1, ...")
@click.option("--fold", type=click.IntRange(min=0), metavar="K", help="With --folds: only this one, from 0.")
@overrides_argument
def train_command(
    run_dir: str,
    experiment: str | None,
    parent: str | None,
    freeze: str | None,
    restart: bool,
    folds: int | None,
    fold: int | None,
    overrides: tuple[str, ...],
    **chosen: str,
) -> None:
    """Train a network into RUN_DIR, which is then a MONAI bundle.

    A RUN_DIR that `compose` made is trained as it is; otherwise the layers named here are composed into it first. The
    same command again continues a training that was stopped; a larger max_epochs prolongs it.

    \b
    Example: liver-pipeline train runs/r34 --network resnet34_unet --data msd_task03 dataset_dir=Task03_Liver
             liver-pipeline train runs/ours --from default --data folder dataset_dir=ours
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.commands.folds import SUMMARY, train_folds

    if fold is not None and folds is None:
        raise click.UsageError("--fold needs --folds, the number of all of them")
    values = parse_overrides(overrides) | ({"freeze": freeze} if freeze else {})
    options: Any = {"experiment": experiment, "overrides": values, "parent": parent, "restart": restart}
    if folds is not None:
        done = train_folds(run_dir, _layers(**chosen), folds=folds, fold=fold, **options)
        click.echo(f"{done} of {folds} folds are finished; validation: {Path(run_dir) / SUMMARY}")
        return
    weights = lp.train(run_dir, _layers(**chosen), **options)
    click.echo(f"weights: {weights}; log: {Path(run_dir) / 'log.csv'}")


@main.command("plan")
@click.argument("output_dir", metavar="OUT_DIR")
@click.option("--gpu-memory-gb", type=FiniteRange(min=1), default=24.0, show_default=True, help="Of the GPU.")
@layer_option("experiment", "Keep this one as it is; only fill in the data set's HU window, mean and SD.")
@layer_option("modality", "ct, mr or a variant of them (default: ct).")
@layer_option("data", "How the data set lies on disk (default: lits).")
@layer_option("network", "Network to plan for (default: unet3d).")
@click.option("--overwrite", is_flag=True, help="Replace an experiment.yaml that was edited.")
@overrides_argument
def plan_command(
    output_dir: str,
    experiment: str | None,
    gpu_memory_gb: float,
    overwrite: bool,
    overrides: tuple[str, ...],
    **chosen: str,
) -> None:
    """Look at a data set once; write its fingerprint, a page, and an experiment file that fits it into OUT_DIR.

    The same command again reads only cases that are new or changed. Exit code: 0 all cases can be used, 3 some cannot,
    4 none can, or none holds liver or tumor.

    \b
    Example: liver-pipeline plan plans/lits --network dynunet dataset_dir=LiTS
             liver-pipeline train runs/lits --experiment plans/lits/experiment.yaml dataset_dir=LiTS
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.commands.plan import plan

    values = parse_overrides(overrides)
    options: Any = {"experiment": experiment, "gpu_memory_gb": gpu_memory_gb, "overwrite": overwrite}
    planned = plan(output_dir, _layers(**chosen), overrides=values, **options)
    for row in planned.rows:
        for finding in () if row["usable"] else row["findings"]:
            click.echo(f"{row['case']}: {finding['file']}: {finding['code']}: {finding['detail']}", err=True)
    n_cases, n_usable = planned.summary["n_cases"], planned.summary["n_usable"]
    click.echo(f"{n_usable} of {n_cases} cases can be used; look at {Path(output_dir) / 'fingerprint.html'}")
    if empty := planned.summary["n_cases_without_label"]:
        nothing = " There is nothing to learn: are these the label maps?" if empty == n_usable else ""
        click.echo(f"{empty} label maps hold neither liver (1) nor tumor (2).{nothing}", err=True)
    if planned.experiment is None:
        sys.exit(EXIT_NONE_DONE)
    click.echo(f"train it with: --experiment {planned.experiment}")
    if n_usable < n_cases:
        sys.exit(EXIT_SOME_FAILED)


@main.command("synthesize")
@click.argument("out_dir")
@click.option("--n", type=click.IntRange(min=1), default=12, show_default=True, help="Number of scans.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same scans."
)
@click.option("--shapes", type=click.Path(exists=True, file_okay=False), help="Folder of liver shapes, as .npz files.")
@click.option("--spacing", type=FiniteRange(min=0.5), default=3.0, show_default=True, help="Voxel size in mm.")
@click.option("--mr", is_flag=True, help="Random contrast, as MR has, in place of CT.")
def synthesize_command(out_dir: str, mr: bool, **options: Any) -> None:
    """Paint N abdomens with livers and tumors into OUT_DIR: images/, labels/ and a contact sheet.

    OUT_DIR is a data set for `--data folder`. Without shapes the livers are invented as well.

    \b
    Example: liver-pipeline synthesize painted --n 12 --seed 0
    """
    from liver_pipeline.commands.synthesize import synthesize

    click.echo(f"look at {synthesize(out_dir, ct=not mr, **options)}")


@main.command("predict")
@click.argument("run_dir", metavar="RUN", shell_complete=completion.complete_run)
@click.argument("scans", metavar="INPUT")
@click.argument("masks", metavar="OUTPUT")
@click.option("--retry-failed", is_flag=True, help="Try the cases again that failed last time.")
@click.option("--dry-run", is_flag=True, help="List cases, outputs and memory; write nothing.")
@click.option("--max-failures", type=click.IntRange(min=1), metavar="N", help="Stop after N failed cases.")
@click.option("--describe", is_flag=True, help="Also write a clinical table beside each mask.")
@click.option("--view", is_flag=True, help="Also write a page to look at beside each mask: <case>.html.")
@click.option("--probabilities", is_flag=True, help="Also write probabilities of liver and tumor beside each mask.")
@click.option(
    "--dicom", metavar="seg,sr,sc", help="Also write DICOM results: segmentation, report (and seg), captures."
)
@click.option("--seg-type", type=click.Choice(["binary", "labelmap"]), help="Of the segmentation (default: binary).")
@click.option("--seg-deflate", is_flag=True, help="Pack the segmentation, for archives that take it.")
@click.option("--shard", metavar="I/N", help="Only part I (from 0) of N, while other machines run the other parts.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="On a Ray cluster at host:port or auto; none starts Ray here. Write it last, or as --ray=ADDRESS.",
)
@click.option("--worker-cores", type=click.IntRange(min=1), metavar="K", help="With --ray: of each worker without GPU.")
@click.option("--series", metavar="thinnest|contrast|UID", help="Of a study's DICOM series take one (default: each).")
@click.option(
    "--format", type=click.Choice(["nifti", "nrrd", "mha"]), help="Of the masks in a folder (default: nifti)."
)
@click.option("--orientation", metavar="LAS|...", help="Where the axes of Analyze files run to: they do not say so.")
@click.option("--partial", is_flag=True, help="Of a cross-validation take the folds that are trained, if some are not.")
@click.option("--ensemble", multiple=True, metavar="RUN", help="One more run to average with; repeatable.")
@overwrite_option
@overrides_argument
def predict_command(
    run_dir: str,
    scans: str,
    masks: str,
    ensemble: tuple[str, ...],
    partial: bool,
    dicom: str | None,
    shard: str | None,
    ray: str | None,
    worker_cores: int | None,
    overrides: tuple[str, ...],
    **options: Any,
) -> None:
    """Segment INPUT with RUN: label maps 0, 1 liver, 2 tumor on each scan's own grid in OUTPUT.

    RUN is a run folder, or "default": weights that come with the package. INPUT is a file (NIfTI, NRRD, MetaImage, MGH,
    Analyze), a folder searched recursively, or a DICOM study (folder or zip). OUTPUT is a folder, or for one scan a
    file, whose ending is its format. The same command again continues where it stopped. Exit code: 0 all done, 3 some
    failed, 4 none done. A RUN that holds the folds of a cross-validation gives the mean of their probabilities, as
    --ensemble does for any runs on the same grid.

    \b
    Example: liver-pipeline predict default scan.nii.gz mask.nii.gz
             liver-pipeline predict runs/r34 scans/ masks/
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.bundle.lean import import_monai_for, uncollected

    values = parse_overrides(overrides) | {key: value for key, value in options.items() if value}
    if dicom is None and (options["seg_type"] or options["seg_deflate"]):
        raise click.UsageError("--seg-type and --seg-deflate are of --dicom seg")
    if dicom is not None:
        values["dicom"] = [kind.strip() for kind in dicom.split(",")]
    with uncollected():
        if not ensemble:
            import_monai_for(run_dir, values)
        from liver_pipeline.commands.predict import predict

    spread: Any = {"shard": shard, "ray": ray, "worker_cores": worker_cores}
    predict(run_dir, scans, masks, ensemble=ensemble, partial=partial, overrides=values, **spread).exit()


PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


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


@main.command("status")
@click.argument("masks", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Say it again every 5 seconds, until no run is alive.")
def status_command(masks: Path, watch: bool) -> None:
    """Say how far the runs of `predict` into the folder MASKS are: done, failed, running and where, how long still.

    It reads what they write, of one run, of shards or of a cluster, and writes the page MASKS/status.html.

    \b
    Example: liver-pipeline status masks/ --watch
    """
    from liver_pipeline.commands.status import status
    from liver_pipeline.reports.status import status_lines

    while True:
        found = status(masks)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo("\n".join(status_lines(found)))
        if not (watch and any(run["alive"] for run in found["runs"])):
            return
        time.sleep(5)


@main.command("view")
@click.argument("scan")
@click.argument("mask", required=False)
@click.option("--reference", metavar="LABELS", help="Reference label map: shown beside the mask, lesions are matched.")
@label_map_option
@click.option("-o", "--output", metavar="PAGE", help="The page (default: <case>.html beside MASK, or here).")
@overwrite_option
def view_command(**options: Any) -> None:
    """Write one HTML file on which to look at SCAN, its MASK and a reference: offline, in any browser.

    \b
    Example: liver-pipeline view scan.nii.gz mask.nii.gz --reference labels.nii.gz -o page.html
    """
    click.echo(f"open {lp.view(**options)}; it holds the patient's images")


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


@main.command("collect")
@click.argument("work")
@click.argument("output", metavar="OUT")
@click.option("--data", metavar="DIR", help="What `app --data` was given, where cases were named by path.")
def collect_command(work: str, output: str, data: str | None) -> None:
    """Make OUT of the cases in the app's folder WORK that were corrected or accepted: a set for `train --data folder`.

    Exit code 3: some cases could not be taken.

    \b
    Example: liver-pipeline collect cases/ corrected/
    """
    from liver_pipeline.commands.collect import collect

    told = collect(work, output, data=data)
    for case, why in told.items():
        if why:
            click.echo(f"{case} is left out: {why}", err=True)
    left_out = sum(map(bool, told.values()))
    click.echo(f"{len(told) - left_out} cases; train on them with --data folder dataset_dir={output}")
    if left_out:
        sys.exit(EXIT_SOME_FAILED)


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


@main.command("compare")
@click.argument("out_dir")
@click.option(
    "--experiments",
    default="",
    metavar="A,B,...",
    help="Experiments, by name or as paths of YAML files.",
    shell_complete=completion.complete_names("experiment"),
)
@click.option(
    "--networks",
    default="",
    metavar="X,Y,...",
    help="Networks with the default recipe, likewise.",
    shell_complete=completion.complete_names("network"),
)
@layer_option("data", "How the data set lies on disk (default: what they name, or lits).")
@layer_option("modality", "A modality for all; by default each experiment has its own.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings of each experiment.")
@click.option("--folds", type=click.IntRange(min=3), metavar="N", help="Cross-validate: each patient is tested once.")
@overrides_argument
def compare_command(
    out_dir: str,
    experiments: str,
    networks: str,
    seeds: int,
    folds: int | None,
    overrides: tuple[str, ...],
    **chosen: str,
) -> None:
    """Train and evaluate experiments on one split, and write compare.html, compare.md and compare.csv into OUT_DIR.

    KEY=VALUE applies to all of them. Every run is a bundle, OUT_DIR/EXPERIMENT/seedN. The same command again continues:
    nothing that is finished is repeated. Exit code: 0 all done, 3 some failed, 4 none done.

    \b
    Example: liver-pipeline compare runs/paper5 --experiments kurupapu_vgg16,kurupapu_fcn --seeds 3 dataset_dir=LiTS
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.commands.compare import compare

    comparison = compare(
        out_dir,
        [name for name in experiments.split(",") if name],
        networks=[name for name in networks.split(",") if name],
        layers=_layers(**chosen),
        seeds=seeds,
        folds=folds,
        overrides=parse_overrides(overrides),
    )
    for failed in comparison.failed:
        click.echo(f"{failed.run}: {failed.stage} failed: {failed.reason}", err=True)
    if not comparison.results:
        sys.exit(EXIT_NONE_DONE)
    done = f"{len(comparison.results)} runs compared, {len(comparison.failed)} failed"
    click.echo(f"{done}; page: {Path(out_dir) / 'compare.html'}")
    if comparison.failed or comparison.case_failures:
        sys.exit(EXIT_SOME_FAILED)


@main.command("tune-postprocessing")
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False))
@click.option("--min-gain", type=FiniteRange(min=0), default=0.001, show_default=True, help="Least gain in Dice.")
def tune_postprocessing_command(run_dir: str, min_gain: float) -> None:
    """Choose on the validation cases of RUN_DIR which post-processing steps help, and write them into its configs.

    \b
    Example: liver-pipeline tune-postprocessing runs/r34
    """
    from liver_pipeline.commands.tune_postprocessing import tune_postprocessing as tune

    choice = tune(run_dir, min_gain=min_gain)
    for row in choice.table:
        gain = f"{row['gain']:+.4f}" if row["round"] else ""
        click.echo(f"{'*' if row['chosen'] else ' '} {row['round']} {row['step']:<48} {row['mean_dice']:.4f} {gain}")
    table = Path(run_dir) / "tuning" / "postprocessing.csv"
    click.echo(f"{len(choice.steps)} steps written into {run_dir}/configs; all trials: {table}")


@main.command("tune-quality")
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False))
def tune_quality_command(run_dir: str) -> None:
    """Find out on the validation cases of RUN_DIR how far its masks can be trusted.

    That is: below which agreement `predict quality=true` flags a mask, in which interval true volumes lie, and how
    often a probability is right.

    \b
    Example: liver-pipeline tune-quality runs/r34
    """
    from liver_pipeline.commands.tune_quality import tune_quality
    from liver_pipeline.evaluation.intervals import interval_examples

    found = tune_quality(run_dir)
    least = f"liver {found.thresholds.liver_agreement:.3f}, tumor {found.thresholds.tumor_agreement:.3f}"
    click.echo(f"by {len(found.cases)} cases, passes must agree by: {least}; {Path(run_dir) / 'quality.json'}")
    for line in interval_examples(found):
        click.echo(line)
    click.echo(f"confidence is calibrated with temperature {found.temperature}")


@main.command("find-lr")
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False))
@click.option("--steps", type=click.IntRange(min=10), default=100, show_default=True, help="Training steps to take.")
@overrides_argument
def find_lr_command(run_dir: str, steps: int, overrides: tuple[str, ...]) -> None:
    """Find a learning rate for the composed RUN_DIR: where the loss falls fastest as the rate grows from 1e-6 to 1.

    \b
    Example: liver-pipeline compose runs/swin --network swin_unetr dataset_dir=LiTS; liver-pipeline find-lr runs/swin
    """
    from liver_pipeline.bundle.entry import parse_overrides
    from liver_pipeline.bundle.trained import is_started
    from liver_pipeline.commands.find_lr import find_learning_rate

    values = parse_overrides(overrides)
    found, present = find_learning_rate(run_dir, steps=steps, overrides=values)
    click.echo(f"the loss falls fastest at {found:.1e} (the run has {present:.1e}); curve: {run_dir}/find_lr/curve.png")
    anew = "--restart " if is_started(Path(run_dir)) else ""  # a training that has begun keeps its rate
    click.echo(f"take it with: liver-pipeline train {run_dir} {anew}learning_rate={found:.1e}")


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


@main.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="Folder of label maps named as the scans are, or one.")
@label_map_option
@click.option("--modality", type=click.Choice(["ct", "mr"]), default="ct", show_default=True)
@click.option("--accept", multiple=True, metavar="CODE", help="Take errors of this code as warnings; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file: path, codes, severity, detail.")
def check_command(
    path: Path, labels: Path | None, label_map: Any, modality: str, accept: tuple[str, ...], as_json: bool
) -> None:
    """Check the scan PATH, or every scan below the folder PATH.

    Exit code 0: no errors; 3: errors found; 2: no such path, or no scans in it.

    \b
    Example: liver-pipeline check scans/ --labels labels/ --label-map '{6: 1, 7: 2}'
    """
    if label_map is not None and labels is None:
        raise click.UsageError("--label-map says what the values of --labels mean")
    from liver_pipeline.commands.check import check_scans, summary_lines
    from liver_pipeline.io.studies import find_volumes

    inputs = find_volumes(path, accept=accept)
    reports = []
    with tqdm(total=len(inputs), unit="scan", disable=None, leave=False) as bar:
        for report in check_scans(inputs, labels=labels, label_map=label_map, modality=modality, accept=accept):
            reports.append(report)
            bar.update(1 if labels is None else 0.5)
            if as_json:
                click.echo(json.dumps(report.as_json()))
            for finding in () if as_json else report.findings:
                click.echo(f"{finding.severity:7s} {report.path}: {finding.code}: {finding.detail}")
    if not as_json:
        click.echo("\n".join(summary_lines(reports)))
    if any(report.severity == "error" for report in reports):
        sys.exit(EXIT_SOME_FAILED)


@main.command("evaluate")
@click.argument("pred_dir", type=click.Path(path_type=Path))
@click.argument("label_dir", type=click.Path(path_type=Path))
@click.argument("output_dir", type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    type=click.Choice(["lits", "lits-official", "plain"]),
    default="lits",
    show_default=True,
    help="LiTS as meant, LiTS as its program computes it (faults included), or without LiTS's own figures.",
)
@click.option("--probabilities", type=click.Path(path_type=Path), help="Folder of probabilities: AUC, calibration.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the scans, for the report's pictures.")
@label_map_option
@click.option("--min-lesion-ml", type=FiniteRange(min=0), default=0.0, help="Leave smaller lesions out.")
@click.option("--liver-only", is_flag=True, help="Count tumor as liver, with the protocol plain.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; by default one per core as memory allows.")
@click.option("--memory-gb", type=FiniteRange(min=0.1), help="Memory for all processes; default half of the job's.")
@click.option("--cases", metavar="A,B,...|FILE", help="Score these alone; FILE has a name a line, or a column case.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
def evaluate_command(
    pred_dir: Path,
    label_dir: Path,
    output_dir: Path,
    protocol: str,
    probabilities: Path | None,
    images: Path | None,
    label_map: Any,
    min_lesion_ml: float,
    liver_only: bool,
    workers: int | None,
    memory_gb: float | None,
    cases: str | None,
    overwrite: bool,
) -> None:
    """Score the label maps of PRED_DIR against those of LABEL_DIR; tables and a report go to OUTPUT_DIR.

    Files are matched by name, with the folder that they lie in. One without its counterpart is listed as failed, and
    does not stop the others. Exit code: 0 all scored, 3 some failed, 4 none scored.

    \b
    Example: liver-pipeline evaluate masks/ labels/ scores/ --images scans/
    """
    from liver_pipeline.commands.evaluate import evaluate
    from liver_pipeline.io.tables import read_names

    named = None
    if cases is not None:
        named = read_names(cases) if Path(cases).is_file() else [name for name in cases.split(",") if name.strip()]

    metrics = evaluate(
        pred_dir,
        label_dir,
        output_dir,
        protocol=protocol,
        overwrite=overwrite,
        probability_dir=probabilities,
        image_dir=images,
        label_map=label_map,
        min_lesion_ml=min_lesion_ml,
        liver_only=liver_only,
        workers=workers,
        memory_gb=memory_gb,
        cases=named,
    )
    for case, failure in metrics["failures"].items():
        click.echo(f"{case}: {failure['code']}: {failure['detail']}", err=True)
    for key in ("liver_dice", "tumor_dice", "lesion_dice_per_case", "lesion_recall", "lesion_precision"):
        value = metrics["global"].get(key)
        if value is not None:
            click.echo(f"{key:24} {value:.4f}")
    click.echo(f"{metrics['n_cases']} cases scored, {metrics['n_failed']} failed; results in {output_dir}")
    if metrics["failures"]:
        sys.exit(EXIT_SOME_FAILED if metrics["n_cases"] else EXIT_NONE_DONE)


@main.command("segments")
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a map that is there.")
def segments_command(mask: Path, output: Path, overwrite: bool) -> None:
    """Estimate Couinaud's segments of the liver in the label map MASK from its shape; write OUTPUT, 1 to 8.

    To look at and to correct; describe --segments OUTPUT measures with it. No vessel is looked at.

    \b
    Example: liver-pipeline segments masks/a.nii.gz a.segments.nii.gz
    """
    from liver_pipeline.evaluation.couinaud import write_segments
    from liver_pipeline.io.files import refuse_existing

    refuse_existing([output], overwrite, inputs=[mask])
    write_segments(mask, output, overwrite=overwrite)


@main.command("describe")
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("scan", type=click.Path(path_type=Path), required=False)
@click.option("--reference", type=click.Path(path_type=Path), help="Reference label map: says which lesions are real.")
@label_map_option
@click.option("--confidence", type=click.Path(path_type=Path), help="Probabilities of liver and tumor, or of tumor.")
@click.option(
    "--segments", metavar="MAP|auto", help="Couinaud map (1 to 8), or auto: estimate it from the liver's shape."
)
@click.option("--resect", metavar="5,6", help="What is left of the liver without these segments.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table as JSON; - for the screen.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the lesions as CSV.")
@click.option(
    "--sr", "sr_path", type=click.Path(path_type=Path), help="Write a DICOM SR and its SEG; SCAN is a DICOM series."
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def describe_command(
    mask: Path,
    scan: Path | None,
    reference: Path | None,
    label_map: Any,
    confidence: Path | None,
    segments: str | None,
    resect: str | None,
    json_path: Path | None,
    csv_path: Path | None,
    sr_path: Path | None,
    overwrite: bool,
) -> None:
    """Measure liver and lesions of the label map MASK; with its SCAN, their HU too.

    \b
    Example: liver-pipeline describe masks/a.nii.gz scans/a.nii.gz
             liver-pipeline describe masks/a.nii.gz --segments auto --resect 5,6
    """
    from liver_pipeline.evaluation.description import as_text, describe, lesions_csv
    from liver_pipeline.evaluation.segments import parse_segments
    from liver_pipeline.io.files import refuse_existing, write_text

    to_screen = json_path == Path("-")
    files = [path for path in (None if to_screen else json_path, csv_path, sr_path) if path is not None]
    refuse_existing(files, overwrite, inputs=[mask, scan, reference, confidence, Path(segments) if segments else None])
    if sr_path is not None and scan is None:
        raise click.UsageError("--sr needs SCAN, the DICOM series that the report refers to")
    resected = () if resect is None else parse_segments(resect)
    table = describe(
        mask,
        scan,
        reference=reference,
        label_map=label_map,
        confidence=confidence,
        segments=segments,
        resect=resected,
    )
    text = json.dumps(table, indent=1, allow_nan=False) + "\n"
    if json_path is not None and not to_screen:
        write_text(json_path, text)
    if csv_path is not None:
        write_text(csv_path, lesions_csv(table))
    if sr_path is not None and scan is not None:
        from liver_pipeline.dicom_results.results import write_report

        write_report(table, mask, scan, sr_path, overwrite=overwrite)
    click.echo(text.rstrip() if to_screen else as_text(table))
