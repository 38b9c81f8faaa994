"""Train and evaluate several experiments on one split with one budget, and write what came out side by side.

Every run is a bundle of its own, ``OUT/<experiment>/seed<k>[-fold<j>]``, trained and evaluated in processes of its own:
memory is then that of one run, and a run that dies does not take the others with it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.keys import keys_with
from liver_pipeline.bundle.names import DEFAULT_LAYERS, layer_file, share_dir
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.stages import merge_stages
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.commands.evaluate import is_scored
from liver_pipeline.commands.train import finished, train
from liver_pipeline.comparison.results import MASKS, METRICS, RunResult, read_results
from liver_pipeline.comparison.tables import Comparison, FailedRun
from liver_pipeline.data.cases import Case
from liver_pipeline.data.splits import held_out_fold, make_split, write_split
from liver_pipeline.evaluation.pairing import Pair
from liver_pipeline.evaluation.scoring import pair_picture
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import write_text
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.tables import read_json, write_table
from liver_pipeline.reports.comparison import comparison_page
from liver_pipeline.reports.gallery import places
from liver_pipeline.reports.markdown import comparison_markdown

LEAST_FOLDS = 3  # one to test, one to validate, one to train


@dataclass(frozen=True)
class Contestant:
    """An experiment, or a network with the default recipe, and what it is merged from."""

    name: str
    experiment: str | None
    layers: Mapping[str, str]


@dataclass(frozen=True)
class Trial:
    """One run of a contestant."""

    contestant: Contestant
    seed: int
    fold: int | None

    @property
    def name(self) -> str:
        """Its folder below the output folder."""
        return f"{self.contestant.name}/seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")


@dataclass
class ComparisonPlan:
    """All that a comparison is about."""

    out_dir: Path
    contestants: Sequence[Contestant]
    layers: Mapping[str, str]
    seeds: int
    folds: int | None
    overrides: Mapping[str, Any]
    cases: list[Case] = field(default_factory=list)

    def trials(self) -> Iterator[Trial]:
        """Every run; the experiments take turns, so that a comparison that is stopped early is a fair one."""
        for fold in range(self.folds) if self.folds else (None,):
            for seed in range(self.seeds):
                for contestant in self.contestants:
                    yield Trial(contestant, seed, fold)

    def split_file(self, fold: int | None) -> Path:
        """The split that all experiments share."""
        return self.out_dir / ("split.json" if fold is None else f"split-fold{fold}.json")


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
    for key in sorted(set(overrides) & keys_with(Role.COMPARE)):
        raise ValueError(f"compare sets {key} itself, the same for all (see OUT_DIR, --seeds, --folds); leave it out")
    contestants = _contestants(experiments, networks, layers or {})
    plan = ComparisonPlan(Path(out_dir), contestants, layers or {}, seeds, folds, overrides)
    classes, failed = _merge_all(plan)
    _make_splits(plan)
    results: list[RunResult] = []
    trials = [trial for trial in plan.trials() if trial.contestant.name in classes]
    for number, trial in enumerate(trials, 1):
        result = _run(plan, trial, classes[trial.contestant.name], f"[{number}/{len(trials)}] {trial.name}")
        if isinstance(result, RunResult):
            results.append(result)
        else:
            failed.append(result)
    return _write(plan, results, failed)


# --- before the first run ---


def _contestants(experiments: Sequence[str], networks: Sequence[str], layers: Mapping[str, str]) -> list[Contestant]:
    """Name the contestants; a file is called as it is without its suffix."""
    for name in networks:
        layer_file("network", name)  # refuses what is unknown
    own = {read_config(layer_file("experiment", name)).get("layers", {}).get("data") for name in experiments} - {None}
    if len(own) > 1 and "data" not in layers:
        raise ValueError(f"the experiments name different data layouts ({', '.join(sorted(own))}); choose with --data")
    shared = {"data": own.pop() if own else DEFAULT_LAYERS["data"], **layers}
    found = [Contestant(Path(name).stem, name, shared) for name in experiments]
    found += [Contestant(Path(name).stem, None, {**shared, "network": name}) for name in networks]
    names = [contestant.name for contestant in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice; give a copy of its file another name")
    if len(names) < 2:
        raise ValueError("a comparison needs two experiments or networks; separate their names by commas")
    return found


def _merge_all(plan: ComparisonPlan) -> tuple[dict[str, int], list[FailedRun]]:
    """Return the number of classes of each contestant that can be composed, and those that cannot.

    The cases of the data set are found on the way. What is wrong with all of them is raised.
    """
    classes: dict[str, int] = {}
    failed: list[FailedRun] = []
    first: Exception | None = None
    for contestant in plan.contestants:
        try:
            stages = merge_stages(contestant.layers, experiment=contestant.experiment, overrides=plan.overrides)
        except ValueError as reason:
            first = first or reason
            failed.append(FailedRun(contestant.name, "configuration", str(reason)))
            continue
        merged = stages[""]
        if not classes:
            plan.cases = ConfigParser(merged["train"]).get_parsed_content("cases")
        classes[contestant.name] = merged["train"]["num_classes"]
    if not classes:
        assert first is not None
        raise first
    return classes, failed


def _make_splits(plan: ComparisonPlan) -> None:
    """Write the splits that are not there; refuse those of an earlier call with other settings."""
    default = read_config(share_dir("configs") / "train.yaml")["split_fractions"]
    fractions = plan.overrides.get("split_fractions", default)
    if plan.folds is not None and plan.folds < LEAST_FOLDS:
        raise ValueError(f"{plan.folds} folds; at least {LEAST_FOLDS}: one to test, one to validate, the rest to train")
    plan.out_dir.mkdir(parents=True, exist_ok=True)
    for fold in range(plan.folds) if plan.folds else (None,):
        settings = {"fractions": fractions} if fold is None else {"folds": plan.folds, "fold": fold}
        path = plan.split_file(fold)
        if path.exists():
            there = json.loads(path.read_text())["settings"]
            if there != settings:
                raise ValueError(f"{path} was made with {there}, not {settings}; choose another OUT_DIR")
            continue
        if fold is None or plan.folds is None:
            split = make_split(plan.cases, fractions=fractions)
        else:
            split = held_out_fold(plan.cases, folds=plan.folds, fold=fold)
        if not split["test"]:
            raise ValueError(f"split_fractions {fractions} leave no case to test")
        write_split(path, split, settings)


# --- one run ---


def _run(plan: ComparisonPlan, trial: Trial, classes: int, title: str) -> RunResult | FailedRun:
    """Train, segment, score and read one run; whatever goes wrong comes back with its reason."""
    folder = plan.out_dir / trial.name
    steps: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = [
        ("training", _train, (folder, trial, plan.split_file(trial.fold), dict(plan.overrides))),
        ("evaluation", _evaluate, (folder,)),
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
    layers, used = contestant.layers, ("train", "evaluate")
    train(folder, layers, experiment=contestant.experiment, overrides=values, split=shared, workflows=used)


def _evaluate(folder: Path) -> None:
    """Segment the test cases that are not yet segmented, and score anew where a mask has changed."""
    wanted = {"probabilities": True, "describe": True, "overwrite": True}
    run_workflow(folder, "evaluate", {**wanted, "run": ["$@evaluator.run()"]})
    if not is_scored(folder / METRICS, folder / MASKS / LEDGER):
        run_workflow(folder, "evaluate", {**wanted, "run": ["%score"]})


# --- after the last run ---


def _write(plan: ComparisonPlan, results: list[RunResult], failed: list[FailedRun]) -> Comparison:
    """Write tables and page."""
    splits = [
        json.loads(plan.split_file(f).read_text())["cases"] for f in (range(plan.folds) if plan.folds else [None])
    ]
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
