"""How cases lie on disk: LiTS, MSD Task03, or your own images/ and labels/."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from liver_pipeline.data.cases import Case
from liver_pipeline.io.discovery import case_name
from liver_pipeline.io.volumes import NIFTI_SUFFIXES


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
