"""What a comparison is about: who takes part, which runs there are, and the split that all of them share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.build import check_builds
from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.names import DEFAULT_LAYERS, layer_file, share_dir
from liver_pipeline.bundle.stages import merge_stages, refuse_unused
from liver_pipeline.comparison.tables import FailedRun
from liver_pipeline.data.cases import Case
from liver_pipeline.data.splits import held_out_fold, make_split, write_split
from liver_pipeline.io.tables import read_json

RUN = ("train", "evaluate")  # the workflows of each run
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
    """All that a comparison is about; :func:`merge_contestants` finds cases and, by contestant, shares of a split."""

    out_dir: Path
    contestants: Sequence[Contestant]
    layers: Mapping[str, str]
    seeds: int
    folds: int | None
    overrides: Mapping[str, Any]
    cases: list[Case] = field(default_factory=list)
    fractions: dict[str, list[float]] = field(default_factory=dict)

    def tested(self) -> Sequence[int | None]:
        """The folds that are tested in turn; None alone where one part is held out."""
        return range(self.folds) if self.folds else (None,)

    def trials(self) -> Iterator[Trial]:
        """Every run; the experiments take turns, so that a comparison that is stopped early is a fair one."""
        for fold in self.tested():
            for seed in range(self.seeds):
                for contestant in self.contestants:
                    yield Trial(contestant, seed, fold)

    def split_file(self, fold: int | None) -> Path:
        """The split that all experiments share."""
        return self.out_dir / ("split.json" if fold is None else f"split-fold{fold}.json")

    def tested_labels(self, fold: int | None) -> list[str]:
        """The references of the cases that are tested."""
        tested = set(read_json(self.split_file(fold))["cases"]["test"])
        return [case["label"] for case in self.cases if case["case"] in tested]


def name_contestants(
    experiments: Sequence[str], networks: Sequence[str], layers: Mapping[str, str]
) -> list[Contestant]:
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


def merge_contestants(plan: ComparisonPlan) -> tuple[dict[str, int], list[FailedRun]]:
    """Return the number of classes of each contestant that can be composed and built, and those that cannot.

    The cases of the data set, and how each would split them, are found on the way. What is wrong with all of them is
    raised.
    """
    classes: dict[str, int] = {}
    failed: list[FailedRun] = []
    first: Exception | None = None
    for contestant in plan.contestants:
        try:
            stages = merge_stages(contestant.layers, experiment=contestant.experiment, overrides=plan.overrides)
            refuse_unused(stages, plan.overrides, RUN)
            for configs in stages.values():
                check_builds(configs)
        except ValueError as reason:
            first = first or reason
            tqdm.write(f"{contestant.name} takes no part: {reason}")  # now, not when the others have been trained
            failed.append(FailedRun(contestant.name, "configuration", str(reason)))
            continue
        parser = ConfigParser(stages[""]["train"])
        if not classes:
            plan.cases = parser.get_parsed_content("cases")
        classes[contestant.name] = parser.get_parsed_content("num_classes")
        plan.fractions[contestant.name] = list(parser.get_parsed_content("split_fractions"))
    if not classes:
        assert first is not None
        raise first
    return classes, failed


def shared_fractions(fractions: Mapping[str, list[float]]) -> list[float]:
    """Return the shares of train, val and test for all: those that contestants name, or the default.

    Args:
        fractions: By contestant.

    Raises:
        ValueError: If they name different ones.
    """
    default: list[float] = read_config(share_dir("configs") / "train.yaml")["split_fractions"]
    own = {name: shares for name, shares in fractions.items() if shares != default}
    wanted = next(iter(own.values()), default)
    if any(shares != wanted for shares in own.values()):
        named = ", ".join(f"{name}: {shares}" for name, shares in own.items())
        for_all = f"split_fractions={json.dumps(wanted, separators=(',', ':'))}"
        raise ValueError(
            f"the experiments name different split_fractions ({named}); give one for all, such as {for_all}"
        )
    return wanted


def make_shared_splits(plan: ComparisonPlan) -> None:
    """Write the splits that are not there; refuse those of an earlier call with other settings."""
    if plan.folds is not None and plan.folds < LEAST_FOLDS:
        raise ValueError(f"{plan.folds} folds; at least {LEAST_FOLDS}: one to test, one to validate, the rest to train")
    fractions = [] if plan.folds else shared_fractions(plan.fractions)
    plan.out_dir.mkdir(parents=True, exist_ok=True)
    for fold in plan.tested():
        settings = {"fractions": fractions} if fold is None else {"folds": plan.folds, "fold": fold}
        path = plan.split_file(fold)
        if path.exists():
            stored = read_json(path)
            there = stored.get("settings") if isinstance(stored, Mapping) else None
            if there != settings:
                raise ValueError(
                    f"{path} was made with {there}, not {settings}; choose another OUT_DIR, or say split_fractions or "
                    f"--folds as there"
                )
            continue
        if fold is None or plan.folds is None:
            split = make_split(plan.cases, fractions=fractions)
        else:
            split = held_out_fold(plan.cases, folds=plan.folds, fold=fold)
        if not split["test"]:
            raise ValueError(f"split_fractions {fractions} leave no case to test")
        write_split(path, split, settings)
