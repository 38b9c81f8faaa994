"""How cases lie on disk: LiTS, known by their numbers, or your own images/ and labels/, known by their paths below."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from liver_pipeline.data.cases import Case
from liver_pipeline.hints import did_you_mean
from liver_pipeline.io.discovery import volume_files
from liver_pipeline.io.file_names import case_name
from liver_pipeline.io.tables import read_table
from liver_pipeline.labels import LabelValues


def find_volumes_below(folder: str | Path) -> list[Path]:
    """List the volumes below ``folder`` (see :func:`liver_pipeline.io.discovery.volume_files`), sorted by path.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder.resolve()}; dataset_dir names the folder of the data set")
    return volume_files(folder)


def lits_cases(dataset_dir: str | Path, label_map: LabelValues | None = None) -> list[Case]:
    """Cases in LiTS layout: ``volume-N.nii[.gz]`` and ``segmentation-N.nii[.gz]``, flat or in batch folders.

    Other formats of volumes do as well.

    Args:
        dataset_dir: Holds them.
        label_map: What the values of the label maps mean; None: 0 background, 1 liver, 2 tumor.

    Raises:
        FileNotFoundError: If there is no volume, or a volume lacks its segmentation.
        ValueError: If a number occurs twice.
    """
    found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}}
    for path in find_volumes_below(dataset_dir):
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
    require_labels([str(n) for n in sorted(images.keys() - labels.keys())], "segmentation-N.nii[.gz]")
    tell_unused([labels[n] for n in sorted(labels.keys() - images.keys())], Path(dataset_dir))
    return [case_of(f"volume-{n}", images[n], labels[n], label_map=label_map) for n in sorted(images)]


def folder_cases(
    dataset_dir: str | Path,
    images: str = "images",
    labels: str = "labels",
    patient_pattern: str | None = None,
    label_map: LabelValues | None = None,
) -> list[Case]:
    """Cases in two folders with the same file names; ``patients.csv`` (columns case, patient) groups them if it exists.

    A case is named by its path below the folder without suffix, such as ``siteA/case1``, here and in ``patients.csv``.

    Args:
        dataset_dir: Holds the two folders.
        images: Name of the folder of scans.
        labels: Name of the folder of label maps.
        patient_pattern: Regular expression whose first group is the patient in a case's name, such as ``(.*)_scan``.
        label_map: As for :func:`lits_cases`.

    Raises:
        FileNotFoundError: If a folder is missing or empty, or a scan lacks its label map.
        ValueError: If two files have the same name but for the suffix, ``patients.csv`` is not as
            :func:`liver_pipeline.io.tables.read_table` has it or lacks a case, or the name of a case does not match
            ``patient_pattern``.
    """
    root = Path(dataset_dir)
    label_maps, scans = (cases_below(root / name) for name in (labels, images))
    if not scans:
        raise FileNotFoundError(f"no .nii.gz, .nrrd, .mha or the like in {(root / images).resolve()}")
    require_labels(
        [name for name in scans if name not in label_maps], f"a file of the same path and name in {root / labels}"
    )
    tell_unused([label_maps[name] for name in label_maps if name not in scans], root / images)
    patients = _read_patients(root / "patients.csv")
    return [
        case_of(name, path, label_maps[name], _patient(name, patients, patient_pattern), label_map)
        for name, path in scans.items()
    ]


def cases_below(folder: Path) -> dict[str, Path]:
    """Return the volumes below a folder by case: the path below the folder, without suffix.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: See :func:`refuse_doubles`.
    """
    files = find_volumes_below(folder)
    names = [case_name(path.relative_to(folder).as_posix()) for path in files]
    refuse_doubles(names, files, folder)
    return dict(zip(names, files, strict=True))


def refuse_doubles(names: Sequence[str], files: Sequence[Path | str], where: Path) -> None:
    """Refuse names that two files have; upper and lower case are the same, as on the file systems of macOS and Windows.

    Raises:
        ValueError: Naming both files.
    """
    seen: dict[str, Path | str] = {}
    for name, file in zip(names, files, strict=True):
        if (other := seen.get(name.casefold())) is not None:
            raise ValueError(f"{where}: {other} and {file} are both case {name}; rename one, or keep one of them")
        seen[name.casefold()] = file


def case_of(
    name: str, image: Path, label: Path, patient: str | None = None, label_map: LabelValues | None = None
) -> Case:
    """Return a case; without ``patient`` it is a patient of its own."""
    case: Case = {"case": name, "patient": patient or name, "image": str(image), "label": str(label)}
    return case if label_map is None else {**case, "label_map": dict(label_map)}


def require_labels(missing: Sequence[str], what: str) -> None:
    """Raise FileNotFoundError, naming the first few, if a scan has no label map."""
    if missing:
        raise FileNotFoundError(f"{len(missing)} scans have no label map ({what}): {', '.join(missing[:5])}")


def tell_unused(labels: Sequence[Path], where: Path) -> None:
    """Say that label maps have no scan of their name, so that no case goes missing without a word."""
    if labels:
        shown = ", ".join(path.name for path in labels[:3])
        tqdm.write(f"{len(labels)} label maps have no scan of their name in {where} and are left out: {shown}")


def _read_patients(path: Path) -> dict[str, str] | None:
    """Return the patient of each case, which may be written with its suffix."""
    if not path.is_file():
        return None
    rows = read_table(path, ["case", "patient"])
    names = [case_name(row["case"]) for row in rows]
    refuse_doubles(names, [row["case"] for row in rows], path)
    return {name: row["patient"] for name, row in zip(names, rows, strict=True)}


def _patient(name: str, patients: dict[str, str] | None, pattern: str | None) -> str:
    if patients is not None:
        if name not in patients:
            hint = did_you_mean(name, patients) or "; a case is its path below the folder of scans, no suffix"
            raise ValueError(f"patients.csv has no row for case {name}{hint}")
        return patients[name]
    if pattern is None:
        return name
    match = re.search(pattern, name)
    if not match or not match.groups() or not match[1]:
        raise ValueError(f"patient_pattern {pattern!r} finds no patient in the case name {name!r}; it needs one group")
    return match[1]
