"""Which files belong to which case, and which cases train, validate and test.

A case is a plain dictionary of strings, ``{"case", "patient", "image", "label"}``, so that it goes through YAML, JSON
and MONAI datasets as it is.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liver_pipeline.files import write_json
from liver_pipeline.inputs import case_name

Case = dict[str, str]
Split = dict[str, list[Case]]
PARTS = ("train", "val", "test")
NIFTI_SUFFIXES = (".nii", ".nii.gz")


def find_nifti(folder: str | Path) -> list[Path]:
    """List ``*.nii`` and ``*.nii.gz`` below ``folder``, sorted by path, hidden files left out.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder.resolve()}; dataset_dir names the folder of the data set")
    found = (p for p in folder.rglob("*") if p.name.lower().endswith(NIFTI_SUFFIXES) and not p.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def lits_cases(dataset_dir: str | Path) -> list[Case]:
    """Cases in LiTS layout: ``volume-N.nii[.gz]`` and ``segmentation-N.nii[.gz]``, flat or in batch folders.

    Raises:
        FileNotFoundError: If there is no volume, or a volume lacks its segmentation.
        ValueError: If a number occurs twice.
    """
    found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}}
    for path in find_nifti(dataset_dir):
        match = re.fullmatch(r"(volume|segmentation)-(\d+)", case_name(path.name))
        if match:
            kind, number = match[1], int(match[2])
            if number in found[kind]:
                raise ValueError(f"{kind} {number} lies twice in {dataset_dir}: {found[kind][number]} and {path}")
            found[kind][number] = path
    images, labels = found["volume"], found["segmentation"]
    if not images:
        raise FileNotFoundError(
            f"no volume-N.nii or volume-N.nii.gz below {Path(dataset_dir).resolve()}; dataset_dir is the LiTS folder"
        )
    _require_labels([str(n) for n in sorted(images.keys() - labels.keys())], "segmentation-N.nii[.gz]")
    return [_case(f"volume-{n}", images[n], labels[n]) for n in sorted(images)]


def msd_cases(dataset_dir: str | Path) -> list[Case]:
    """Cases of a Medical Segmentation Decathlon task: ``dataset.json``, ``imagesTr/``, ``labelsTr/``.

    Raises:
        FileNotFoundError: If ``dataset.json`` or a file that it names is missing.
    """
    root = Path(dataset_dir)
    index = root / "dataset.json"
    if not index.is_file():
        raise FileNotFoundError(f"no dataset.json in {root.resolve()}; dataset_dir is the folder that holds imagesTr")
    cases = [
        _case(case_name(Path(item["image"]).name), root / item["image"], root / item["label"])
        for item in json.loads(index.read_text())["training"]
    ]
    missing = [path for case in cases for path in (case["image"], case["label"]) if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"dataset.json names {len(missing)} files that do not exist, such as {missing[0]}")
    return sorted(cases, key=lambda case: case["case"])


def folder_cases(
    dataset_dir: str | Path, images: str = "images", labels: str = "labels", patient_pattern: str | None = None
) -> list[Case]:
    """Cases in two folders with the same file names; ``patients.csv`` (columns case, patient) groups them if it exists.

    Args:
        dataset_dir: Holds the two folders.
        images: Name of the folder of scans.
        labels: Name of the folder of label maps.
        patient_pattern: Regular expression whose first group is the patient in a case's name, such as ``(.*)_scan``.

    Raises:
        FileNotFoundError: If a folder is missing or empty, or a scan lacks its label map.
        ValueError: If a case has no patient in ``patients.csv`` or its name does not match ``patient_pattern``.
    """
    root = Path(dataset_dir)
    by_name = {case_name(path.name): path for path in find_nifti(root / labels)}
    scans = find_nifti(root / images)
    if not scans:
        raise FileNotFoundError(f"no .nii or .nii.gz in {(root / images).resolve()}")
    _require_labels(
        [case_name(path.name) for path in scans if case_name(path.name) not in by_name], f"a file in {root / labels}"
    )
    patients = _read_patients(root / "patients.csv")
    return [
        _case(name := case_name(path.name), path, by_name[name], _patient(name, patients, patient_pattern))
        for path in scans
    ]


def _case(name: str, image: Path, label: Path, patient: str | None = None) -> Case:
    return {"case": name, "patient": patient or name, "image": str(image), "label": str(label)}


def _require_labels(missing: Sequence[str], what: str) -> None:
    if missing:
        raise FileNotFoundError(f"{len(missing)} scans have no label map ({what}): {', '.join(missing[:5])}")


def _read_patients(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        return {row["case"]: row["patient"] for row in csv.DictReader(file)}


def _patient(name: str, patients: dict[str, str] | None, pattern: str | None) -> str:
    if patients is not None:
        if name not in patients:
            raise ValueError(f"patients.csv has no row for case {name}")
        return patients[name]
    if pattern is None:
        return name
    match = re.search(pattern, name)
    if not match or not match.groups():
        raise ValueError(f"patient_pattern {pattern!r} finds no patient in the case name {name!r}; it needs one group")
    return match[1]


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


def held_out_fold(cases: Sequence[Case], *, folds: int, fold: int, seed: int = 0) -> Split:
    """Split for judging by cross-validation: fold ``fold`` is test, the next one val, the others train.

    Each patient is tested once in all folds, by a network whose checkpoint was chosen on other patients.

    Raises:
        ValueError: See :func:`make_split`; and a split of two folds leaves nothing to train on.
    """
    test, val = (make_split(cases, folds=folds, fold=number, seed=seed)["val"] for number in (fold, (fold + 1) % folds))
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
    write_json(split_file, {"settings": dict(settings), "cases": names})


def load_split(cases: Sequence[Case], split_file: str | Path) -> Split:
    """Return the split that a training wrote, with the paths of ``cases``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it names a case that the data set lacks, or leaks.
    """
    split_file = Path(split_file)
    if not split_file.is_file():
        raise FileNotFoundError(
            f"no split at {split_file.resolve()}; `liver-pipeline train` writes it into the run folder"
        )
    by_name = {case["case"]: case for case in cases}
    try:
        stored: dict[str, list[str]] = json.loads(split_file.read_text())["cases"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{split_file} is not a split: it needs a key 'cases' with train, val and test") from error
    unknown = [name for part in PARTS for name in stored.get(part, []) if name not in by_name]
    if unknown:
        raise ValueError(f"{split_file} names {len(unknown)} cases that the data set lacks, such as {unknown[0]}")
    split = {part: [by_name[name] for name in stored.get(part, [])] for part in PARTS}
    check_split(split)
    return split
