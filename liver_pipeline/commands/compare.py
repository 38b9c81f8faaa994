"""Train and evaluate several experiments on one split with one budget, and write what came out side by side.

Every run is a bundle of its own, ``OUT/<experiment>/seed<k>[-fold<j>]``, trained and evaluated in processes of its own:
memory is then that of one run, and a run that dies does not take the others with it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from tqdm import tqdm

from liver_pipeline.bundle.keys import keys_with, root_of
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.commands.evaluate import is_scored
from liver_pipeline.commands.train import finished, train
from liver_pipeline.comparison.plan import (
    RUN,
    ComparisonPlan,
    Trial,
    make_shared_splits,
    merge_contestants,
    name_contestants,
)
from liver_pipeline.comparison.results import MASKS, METRICS, RunResult, read_results
from liver_pipeline.comparison.tables import Comparison, FailedRun
from liver_pipeline.evaluation.pairing import Pair
from liver_pipeline.evaluation.scoring import pair_picture
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import remove_abandoned, write_text
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.tables import read_json, write_table
from liver_pipeline.reports.comparison import comparison_page
from liver_pipeline.reports.gallery import places
from liver_pipeline.reports.markdown import comparison_markdown


def compare(
    out_dir: str | Path,
    experiments: Sequence[str],
    *,
    networks: Sequence[str] = (),
    layers: Mapping[str, str] | None = None,
    seeds: int = 1,
    folds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Comparison:
    """Train, evaluate and compare; the same call again continues, and repeats nothing that is finished.

    Args:
        out_dir: Holds the split, a folder an experiment and, at the end, ``compare.csv``, ``compare_tumors.csv``,
            ``compare.md`` and ``compare.html``.
        experiments: Names or paths of experiment files.
        networks: Names or paths of network files, each with the default recipe.
        layers: Layers for all. The ``data`` layer is one for all in any case: this, or what an experiment names.
        seeds: Number of trainings of each experiment that differ by seed alone.
        folds: Cross-validation: each patient is tested once, and validated once; None holds out one test part.
        overrides: Keys for all experiments.

    Returns:
        What was compared, with the runs that failed.

    Raises:
        ValueError: If there are fewer than two experiments, names collide or are unknown, a key is this command's own
            or unknown to all experiments, or the split is another one than that of an earlier call.
        FileNotFoundError: If there are no data.
    """
    overrides = dict(overrides or {})
    for key in overrides:
        if root_of(key) in keys_with(Role.COMPARE):
            where = "see OUT_DIR, --seeds, --folds"
            raise ValueError(f"compare sets {key} itself, the same for all ({where}); leave it out")
        if root_of(key) == "split_fractions" != key:
            raise ValueError(f"{key} is a part of split_fractions, the same for all; give it whole")
    contestants = name_contestants(experiments, networks, layers or {})
    plan = ComparisonPlan(Path(out_dir), contestants, layers or {}, seeds, folds, overrides)
    remove_abandoned(plan.out_dir)
    classes, failed = merge_contestants(plan)
    make_shared_splits(plan)
    results: list[RunResult] = []
    trials = [trial for trial in plan.trials() if trial.contestant.name in classes]
    for number, trial in enumerate(trials, 1):
        result = _run(plan, trial, classes[trial.contestant.name], f"[{number}/{len(trials)}] {trial.name}")
        if isinstance(result, RunResult):
            results.append(result)
        else:
            failed.append(result)
    return _write(plan, results, failed)


# --- one run ---


def _run(plan: ComparisonPlan, trial: Trial, classes: int, title: str) -> RunResult | FailedRun:
    """Train, segment, score and read one run; whatever goes wrong comes back with its reason."""
    folder = plan.out_dir / trial.name
    steps: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = [
        ("training", _train, (folder, trial, plan.split_file(trial.fold), dict(plan.overrides))),
        ("evaluation", _evaluate, (folder, plan.tested_labels(trial.fold))),
    ]
    for stage, work, arguments in steps:
        tqdm.write(f"{title}: {stage}")
        apart = not (stage == "training" and (folder / "configs").is_dir() and finished(folder))
        if reason := (_alone if apart else _attempt)(work, *arguments):  # a finished training is only looked at
            tqdm.write(f"{title}: {stage} failed: {reason}")
            return FailedRun(trial.name, stage, reason)
    try:
        return read_results(
            folder,
            experiment=trial.contestant.name,
            seed=trial.seed,
            fold=trial.fold,
            classes=classes,
            patients={case["case"]: case["patient"] for case in plan.cases},
        )
    except (OSError, ValueError) as error:
        return FailedRun(trial.name, "evaluation", finding_of(error).detail)


def _alone(work: Callable[..., None], *arguments: Any) -> str | None:
    """Run a function in a process of its own; return why it failed, None if it did not."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin_process) as pool:
        try:
            return pool.submit(_attempt, work, *arguments).result()
        except BrokenProcessPool:
            return "the process died, most likely for want of memory"


def _begin_process() -> None:
    """Let this process end with the one that started it: else the same command again meets a training that goes on."""
    warnings.filterwarnings("ignore", message="`torch.jit")  # said to the developers of monai
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _attempt(work: Callable[..., None], *arguments: Any) -> str | None:
    """Run a function; return why it failed, None if it did not. Here and not in the parent: causes are not pickled."""
    try:
        work(*arguments)
    except Exception as error:
        return finding_of(error).detail
    return None


def _train(folder: Path, trial: Trial, split_file: Path, overrides: dict[str, Any]) -> None:
    """Train, or continue, with a copy of the shared split: the run stays a bundle that can be moved."""
    shared = read_json(split_file)
    contestant = trial.contestant
    cache_dir = str((split_file.parent / "cache").absolute())  # for all: what is preprocessed alike is so once
    values = {"cache_dir": cache_dir, **overrides, "seed": trial.seed}
    layers = contestant.layers
    train(folder, layers, experiment=contestant.experiment, overrides=values, split=shared, workflows=RUN)


def _evaluate(folder: Path, labels: Sequence[str]) -> None:
    """Segment the test cases that are not yet segmented, and score anew where a mask or a reference has changed."""
    wanted = {"probabilities": True, "describe": True, "overwrite": True}
    run_workflow(folder, "evaluate", {**wanted, "run": ["$@evaluator.run()"]})
    if not is_scored(folder / METRICS, folder / MASKS / LEDGER, labels):
        run_workflow(folder, "evaluate", {**wanted, "run": ["%score"]})


# --- after the last run ---


def _write(plan: ComparisonPlan, results: list[RunResult], failed: list[FailedRun]) -> Comparison:
    """Write tables and page."""
    splits = [read_json(plan.split_file(fold))["cases"] for fold in plan.tested()]
    comparison = Comparison(results, failed, splits, budget={**plan.layers, **plan.overrides})
    if results:
        write_table(plan.out_dir / "compare.csv", [row for result in results for row in result.rows])
        write_table(plan.out_dir / "compare_tumors.csv", [row for result in results for row in result.tumors])
        write_text(plan.out_dir / "compare.md", comparison_markdown(comparison))
        write_text(plan.out_dir / "compare.html", comparison_page(comparison, _pictures(plan, comparison)))
    return comparison


def _pictures(plan: ComparisonPlan, comparison: Comparison) -> dict[str, list[tuple[str, bytes]]]:
    """Draw worst, median and best prediction of each experiment; captions and PNGs."""
    files = {case["case"]: case for case in plan.cases}
    drawn: dict[str, list[tuple[str, bytes]]] = {}
    for name in comparison.experiments:
        region, ranked = comparison.ranked(name)
        for title, place in places(len(ranked)):
            case = ranked[place]
            row, result = next(
                (row, result) for result in comparison.of(name) for row in result.rows if row["case"] == case
            )
            mask = mask_of(result.folder / MASKS, case)
            pair = Pair(
                case,
                mask,
                Path(files[case]["label"]),
                image=Path(files[case]["image"]),
                label_map=files[case].get("label_map"),
            )
            picture = pair_picture(pair, liver_only=result.classes == 2)
            if picture["case"] is not None:
                mean = comparison.statistics["cases"][name][case][f"{region}_dice"]
                caption = f"{title}{region} Dice {mean:.3f}: {case}, slice {picture['slice']} from the feet"
                if len(comparison.of(name)) > 1:
                    caption += f"; the mean of its runs, of which this is {result.name} ({row[f'{region}_dice']:.3f})"
                drawn.setdefault(name, []).append((caption, picture["case"]))
    return drawn
