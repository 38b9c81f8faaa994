"""Cross-validation as run folders: RUN/fold0, RUN/fold1, ..., ordinary bundles on folds dealt once by patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.compose import set_run_aside
from liver_pipeline.bundle.ensembles import FOLDS
from liver_pipeline.bundle.entry import literal
from liver_pipeline.bundle.folders import fold_dirs
from liver_pipeline.bundle.parent import begun_with
from liver_pipeline.commands.train import finished, train, wanted_configs
from liver_pipeline.data.splits import make_split, split_content
from liver_pipeline.io.checkpoints import peek_latest
from liver_pipeline.io.files import move_aside, remove_abandoned, write_json
from liver_pipeline.io.locks import lock_run
from liver_pipeline.io.tables import clean_name, read_json, write_table

SUMMARY = "folds.csv"


def train_folds(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    folds: int,
    fold: int | None = None,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    parent: str | Path | None = None,
    restart: bool = False,
) -> int:
    """Train ``RUN/fold0`` to ``RUN/fold{folds - 1}``, or one of them; what is finished stays, the rest continues.

    ``RUN/folds.json`` says which cases each fold holds out; it is dealt by the first call, by patient, and is the same
    for all. ``RUN/folds.csv`` has the best validation of each finished fold, mean and standard deviation.

    Args:
        run_dir: Holds the folds.
        layers: See :func:`liver_pipeline.commands.train.train`.
        folds: How many.
        fold: Only this one, from 0: for one job of an array.
        experiment: See :func:`liver_pipeline.commands.train.train`.
        overrides: See :func:`liver_pipeline.commands.train.train`.
        parent: See :func:`liver_pipeline.commands.train.train`; each fold begins with it.
        restart: Begin anew, see :func:`liver_pipeline.commands.train.train`; without ``fold`` the cases are dealt anew.

    Returns:
        How many folds are finished.

    Raises:
        FileExistsError: If ``run_dir`` is a run itself.
        ValueError: If there are too few patients, ``folds.json`` has another number of folds, or see
            :func:`liver_pipeline.commands.train.train`.
    """
    run_dir = Path(run_dir)
    if (run_dir / "configs").exists():
        raise FileExistsError(f"{run_dir} is a run itself; name another folder for the folds")
    if fold is not None and not 0 <= fold < folds:
        raise ValueError(f"fold {fold} of {folds}: they are counted from 0")
    cache_dir = str((run_dir / "cache").absolute())  # each case is prepared once for all folds
    shared = {"cache_dir": cache_dir, **(overrides or {}), "folds": folds}
    remove_abandoned(run_dir)

    def own_config(number: int) -> dict[str, Any]:
        folder, own = run_dir / f"fold{number}", {**shared, "fold": number}
        with begun_with(parent, folder, layers, own, anew=restart) as (all_layers, values, _):
            return wanted_configs(folder, all_layers, experiment, values)[""]["train"]

    if restart and fold is None:
        _begin_all_anew(run_dir, _deal(run_dir, own_config(0)))
    for number in range(folds) if fold is None else [fold]:
        split = _split(run_dir, own_config(number))
        train(
            run_dir / f"fold{number}",
            layers,
            experiment=experiment,
            overrides={**shared, "fold": number},
            parent=parent,
            restart=restart and fold is not None,
            split=split,
        )
        write_table(run_dir / SUMMARY, folds_summary(run_dir))
    return sum(finished(path) is not None for path in fold_dirs(run_dir))


def _begin_all_anew(run_dir: Path, dealt: dict[str, Any]) -> None:
    """Move what earlier trainings wrote aside, and take the cases as they were dealt now."""
    for folder in fold_dirs(run_dir):
        with lock_run(folder):
            aside = set_run_aside(folder)
        tqdm.write(f"what the earlier training wrote is in {aside}")
    move_aside(run_dir, [FOLDS, SUMMARY])
    write_json(run_dir / FOLDS, dealt)


def _deal(run_dir: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of folds.json, the cases dealt by patient."""
    folds, fold = config["folds"], config["fold"]
    parser = ConfigParser({**config, "bundle_root": literal(str((run_dir / f"fold{fold}").absolute()))})
    cases, seed = parser.get_parsed_content("cases"), parser.get_parsed_content("seed")
    dealt = [make_split(cases, folds=folds, fold=number, seed=seed)["val"] for number in range(folds)]
    names = [[case["case"] for case in part] for part in dealt]
    return {"settings": {"folds": folds, "seed": seed}, "folds": names}


def _split(run_dir: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a fold's split.json; deal the cases if that was not done."""
    folds, fold, path = config["folds"], config["fold"], run_dir / FOLDS
    if not path.is_file():
        write_json(path, _deal(run_dir, config))
    stored = _read_folds(path)
    held_out = stored["folds"]
    if len(held_out) != folds:
        raise ValueError(f"{path} has {len(held_out)} folds, not {folds}; choose another folder or give --restart")
    train_names = sorted(name for number, part in enumerate(held_out) if number != fold for name in part)
    parts = {"train": train_names, "val": sorted(held_out[fold]), "test": []}
    return split_content(parts, {**stored["settings"], "fold": fold})


def _read_folds(path: Path) -> dict[str, Any]:
    """Return ``settings`` and ``folds``, the names of the cases that each holds out.

    Raises:
        ValueError: If the file is not as :func:`_split` writes it.
    """
    stored = read_json(path)
    folds = stored.get("folds") if isinstance(stored, Mapping) else None
    if not isinstance(folds, list) or not all(isinstance(name, str) for part in folds for name in _list(part, path)):
        raise ValueError(f"{path}: 'folds' is {str(folds)[:80]}; expected a list of lists of names of cases")
    return {"settings": stored.get("settings") or {}, "folds": [[clean_name(name) for name in part] for part in folds]}


def _list(part: Any, path: Path) -> list[Any]:
    if not isinstance(part, list):
        raise ValueError(f"{path}: a fold is {str(part)[:80]}; expected a list of names of cases")
    return part


def folds_summary(run_dir: str | Path) -> list[dict[str, Any]]:
    """Return rows of the best validation of each finished fold, then their mean and standard deviation (n - 1).

    A fold without any score has an empty row; what is undefined in a fold is left out of mean and deviation.
    """
    rows: list[dict[str, Any]] = []
    for path in fold_dirs(run_dir):
        state = None if finished(path) is None else peek_latest(path / "models")
        if state is None:
            continue
        scored = [row for row in state["log"]["rows"] if row.get("val_mean_dice") is not None]
        best = max(scored, key=lambda row: float(row["val_mean_dice"]), default={"epoch": None})
        scores = {key: value for key, value in best.items() if key.startswith("val_")}
        rows.append({"fold": path.name.removeprefix("fold"), "epoch": best["epoch"], **scores})
    names = dict.fromkeys(key for row in rows for key in row if key.startswith("val_"))
    values = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    means = {"fold": "mean", **{name: mean(found) for name, found in values.items() if found}}
    deviations = {"fold": "sd", **{name: stdev(found) for name, found in values.items() if len(found) > 1}}
    return [*rows, means, deviations]
