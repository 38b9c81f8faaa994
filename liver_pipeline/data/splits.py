"""Which cases train, validate and test: dealt by patient, written down, checked for leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from liver_pipeline.data.cases import PARTS, Case, Split
from liver_pipeline.hints import did_you_mean
from liver_pipeline.io.checksums import content_sha256
from liver_pipeline.io.files import write_json
from liver_pipeline.io.tables import clean_name, read_json


def make_split(
    cases: Sequence[Case],
    *,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    folds: int | None = None,
    fold: int = 0,
    seed: int = 0,
) -> Split:
    """Deal patients, never single scans, to train, val and test.

    Args:
        cases: The cases; those with the same ``patient`` stay together.
        fractions: Shares of train, val and test when ``folds`` is None. Every part with a share above 0 gets at least
            one patient.
        folds: Number of cross-validation folds: fold ``fold`` is val, the other ones train, test is empty.
        fold: Which fold, from 0.
        seed: Seeds the shuffle.

    Returns:
        ``{"train": [...], "val": [...], "test": [...]}``, each sorted by case.

    Raises:
        ValueError: If there are fewer patients than parts, or the fractions do not add up to 1.
    """
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case["patient"]].append(case)
    patients = sorted(groups)
    np.random.default_rng(seed).shuffle(patients)
    if folds:
        if not 2 <= folds <= len(patients) or not 0 <= fold < folds:
            raise ValueError(f"fold {fold} of {folds} folds is not possible with {len(patients)} patients")
        counts = {"train": patients[:0], "val": patients[fold::folds], "test": patients[:0]}
        counts["train"] = [p for p in patients if p not in set(counts["val"])]
    else:
        counts = _deal(patients, fractions)
    return {
        part: sorted((c for p in names for c in groups[p]), key=lambda c: c["case"]) for part, names in counts.items()
    }


def _deal(patients: list[str], fractions: Sequence[float]) -> dict[str, list[str]]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split_fractions are three shares of train, val, test that add up to 1, got {list(fractions)}"
        )
    wanted = [part for part, share in zip(PARTS, fractions, strict=True) if share > 0]
    if len(patients) < len(wanted):
        raise ValueError(
            f"{len(patients)} patients cannot be dealt to {', '.join(wanted)}; add cases or set a share to 0"
        )
    sizes = {
        part: max(1, round(share * len(patients))) if share > 0 else 0
        for part, share in zip(PARTS, fractions, strict=True)
    }
    while (excess := sum(sizes.values()) - len(patients)) != 0:  # rounding: the largest part gives or takes
        sizes[max(sizes, key=lambda part: sizes[part])] -= int(np.sign(excess))
    ends = np.cumsum([sizes[part] for part in PARTS])
    return {part: patients[end - sizes[part] : end] for part, end in zip(PARTS, ends, strict=True)}


def held_out_fold(cases: Sequence[Case], *, folds: int, fold: int) -> Split:
    """Split for judging by cross-validation: fold ``fold`` is test, the next one val, the others train.

    Each patient is tested once in all folds, by a network whose checkpoint was chosen on other patients.

    Raises:
        ValueError: See :func:`make_split`; and a split of two folds leaves nothing to train on.
    """
    test, val = (make_split(cases, folds=folds, fold=number)["val"] for number in (fold, (fold + 1) % folds))
    held = {case["case"] for case in (*test, *val)}
    train = sorted((case for case in cases if case["case"] not in held), key=lambda case: case["case"])
    split = {"train": train, "val": val, "test": test}
    check_split(split)
    return split


def check_split(split: Split) -> None:
    """Refuse a split that leaks.

    Raises:
        ValueError: If a patient, or a scan file, is on two sides, or there is nothing to train on.
    """
    for what in ("patient", "image"):
        sides = Counter(value for part in split.values() for value in {case[what] for case in part})
        shared = sorted(value for value, n in sides.items() if n > 1)
        if shared:
            raise ValueError(
                f"the split leaks: {what} {shared[0]} is in two of train, val and test ({len(shared)} such)"
            )
    if not split["train"]:
        raise ValueError("the split has no training case")


def load_or_make_split(
    cases: Sequence[Case],
    split_file: str | Path,
    *,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    folds: int | None = None,
    fold: int = 0,
    seed: int = 0,
) -> Split:
    """Return the split in ``split_file``; make it with :func:`make_split` and write it there when it does not exist.

    The file holds case names, not paths, so that a data set may move.

    Raises:
        ValueError: If the file names a case that the data set lacks, or the split leaks.
    """
    split_file = Path(split_file)
    if split_file.exists():
        return load_split(cases, split_file)
    split = make_split(cases, fractions=fractions, folds=folds, fold=fold, seed=seed)
    check_split(split)
    settings: dict[str, Any] = {"fractions": list(fractions), "folds": folds, "fold": fold, "seed": seed}
    write_split(split_file, split, settings)
    return split


def write_split(split_file: str | Path, split: Split, settings: Mapping[str, Any]) -> None:
    """Write the names of the cases of each part, with the settings that they came from."""
    names = {part: [case["case"] for case in split[part]] for part in PARTS}
    write_json(split_file, split_content(names, settings))


def split_content(names: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a split file holds; its hash tells one that was dealt from one that somebody wrote or edited."""
    content = {"settings": dict(settings), "cases": {part: list(names[part]) for part in PARTS}}
    return {**content, "dealt_sha256": content_sha256(content)}


def load_split(cases: Sequence[Case], split_file: str | Path) -> Split:
    """Return the split that a training wrote, with the paths of ``cases``.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it names a case that the data set lacks, or leaks.
    """
    split_file = Path(split_file)
    if split_file.is_dir():
        raise IsADirectoryError(f"split_file is {split_file}, a folder; expected a file, such as its split.json")
    if not split_file.is_file():
        raise FileNotFoundError(
            f"no split at {split_file.resolve()}; `liver-pipeline train` writes it into the run folder"
        )
    by_name = {case["case"]: case for case in cases}
    stored = _read_split(split_file)
    named = [name for part in PARTS for name in stored[part]]
    unknown = [name for name in named if name not in by_name]
    if unknown:
        hint = did_you_mean(unknown[0], by_name)
        raise ValueError(f"{split_file} names {len(unknown)} cases that the data set lacks, such as {unknown[0]}{hint}")
    if unused := sorted(by_name.keys() - set(named)):
        remedy = "a new run, or --restart, deals all cases" if is_dealt(split_file) else "name them in it"
        tqdm.write(
            f"{len(unused)} cases of the data set are in no part of {split_file} and not used, such as {unused[0]}; "
            f"were they added since? {remedy}"
        )
    split = {part: [by_name[name] for name in stored[part]] for part in PARTS}
    check_split(split)
    return split


def _read_split(split_file: Path) -> dict[str, list[str]]:
    """Return names of cases by part.

    Raises:
        ValueError: Naming the file and the place in it that is not as :func:`write_split` writes it.
    """
    content = read_json(split_file)
    stored = content.get("cases") if isinstance(content, Mapping) else None
    if not isinstance(stored, Mapping):
        raise ValueError(f"{split_file} is not a split: it needs a key 'cases' with train, val and test")
    if other := sorted(map(str, stored.keys() - set(PARTS))):
        raise ValueError(f"{split_file}: cases::{other[0]} is no part; the parts are {', '.join(PARTS)}")
    for part, names in stored.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{split_file}: cases::{part} is {str(names)[:80]}; expected a list of names of cases")
    parts = {part: [clean_name(name) for name in stored.get(part, [])] for part in PARTS}
    often = [name for name, n in Counter(name for names in parts.values() for name in names).items() if n > 1]
    if often:
        raise ValueError(f"{split_file} names case {often[0]} twice; a case is in one part, once")
    return parts


def is_dealt(split_file: str | Path) -> bool:
    """Tell whether a split file is there and is as it was dealt, so that another training may deal anew."""
    try:
        content = read_json(split_file)
        sha256 = content.pop("dealt_sha256", None)
    except (OSError, ValueError, AttributeError):
        return False
    return bool(sha256 == content_sha256(content))
