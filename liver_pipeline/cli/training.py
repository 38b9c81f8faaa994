"""From layers to trained runs: composed, trained, compared, and tuned on their validation cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import liver_pipeline as lp
from liver_pipeline.cli.group import main
from liver_pipeline.cli.options import (
    FiniteRange,
    chosen_layers,
    layer_option,
    layer_options,
    overrides_argument,
    overwrite_option,
)
from liver_pipeline.commands import completion
from liver_pipeline.exits import EXIT_NONE_DONE, EXIT_SOME_FAILED


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
    lp.compose(run_dir, chosen_layers(**chosen), experiment=experiment, overrides=values, overwrite=overwrite)
    click.echo(f"composed {run_dir}; start it with: liver-pipeline train {run_dir}")


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
        done = train_folds(run_dir, chosen_layers(**chosen), folds=folds, fold=fold, **options)
        click.echo(f"{done} of {folds} folds are finished; validation: {Path(run_dir) / SUMMARY}")
        return
    weights = lp.train(run_dir, chosen_layers(**chosen), **options)
    click.echo(f"weights: {weights}; log: {Path(run_dir) / 'log.csv'}")


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
        layers=chosen_layers(**chosen),
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
