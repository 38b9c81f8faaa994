"""CHAOS (Kavur et al. 2021, Medical Image Analysis 69, 101950): DICOM series, and a folder of PNG slices as reference.

``CT/<patient>/DICOM_anon`` with ``Ground``, ``MR/<patient>/T2SPIR/DICOM_anon`` with ``Ground``, and
``MR/<patient>/T1DUAL/DICOM_anon/{InPhase,OutPhase}`` with one ``Ground`` for both phases. Which PNG belongs to which
slice is told by the order of the file names of both, not by positions in the patient: so say the challenge's own
metrics (github.com/emrekavur/CHAOS-evaluation, ``CHAOSmetrics.py``). In CT the names run from head to feet, so that a
series sorted by position meets its PNGs in reverse.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from liver_pipeline.data.cases import Case
from liver_pipeline.data.converted import converted_folder, write_volume
from liver_pipeline.data.layouts import case_of
from liver_pipeline.io.volumes import Scan, read_scan, write_label_map
from liver_pipeline.labels import LabelValues

SERIES = {  # by modality: folder of the series below the patient's, and name of the case
    "ct": {"DICOM_anon": ""},
    "mr": {
        "T1DUAL/DICOM_anon/InPhase": "_t1in",
        "T1DUAL/DICOM_anon/OutPhase": "_t1out",
        "T2SPIR/DICOM_anon": "_t2",
    },
}
LIVER_GREY = {"ct": (1, 255), "mr": (55, 70)}  # first and last; MR's liver is 63, kidneys and spleen lie above 110
# Slices of one anonymised series may have different SeriesInstanceUIDs; positions and counts are checked all the same.
ACCEPT = ("MIXED_SERIES",)


def chaos_cases(
    dataset_dir: str | Path,
    modality: str = "mr",
    converted_dir: str | Path | None = None,
    label_map: LabelValues | None = None,
) -> list[Case]:
    """Cases of CHAOS's training set; what ``converted_dir`` lacks is converted into it first.

    All series of a patient have the same ``patient``, so that no split parts them. CT and MR are of different patients.

    Args:
        dataset_dir: Holds ``CT`` and ``MR`` (``Train_Sets`` of the download).
        modality: "ct" or "mr"; the other one is left alone.
        converted_dir: Folder for the NIfTI files; None is ``<dataset_dir>_converted`` beside it. A file that is there
            is used as it is: remove it to convert again.
        label_map: As for :func:`~liver_pipeline.data.layouts.lits_cases`, of the converted label maps: the data set
            outlines no tumors, so that ``{1: liver_or_tumor}`` mixes it with others.

    Raises:
        FileNotFoundError: If there is no patient, or a series or its reference is missing.
        ValueError: If PNGs and slices do not match.
        IntakeError: If a series cannot be read.
    """
    root = Path(dataset_dir).absolute()
    target = converted_folder(root, converted_dir)
    cases = []
    for patient in _patients(root / modality.upper()):
        for series, suffix in SERIES[modality].items():
            name = f"{modality}_{patient.name}{suffix}"
            image, label = target / "images" / f"{name}.nii.gz", target / "labels" / f"{name}.nii.gz"
            if not (image.exists() and label.exists()):
                convert_series(patient / series, _ground(patient / series), image, label, modality)
            cases.append(case_of(name, image, label, f"{modality}_{patient.name}", label_map))
    return cases


def _patients(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(
            f"no patients in {folder.resolve()}; dataset_dir is CHAOS's Train_Sets, and --modality says CT or MR"
        )
    return sorted(found, key=lambda path: _natural(path.name))


def _ground(series: Path) -> Path:
    """Return the folder of PNGs of a series; both phases of T1DUAL have the same."""
    folder = next(parent.parent for parent in (series, *series.parents) if parent.name == "DICOM_anon") / "Ground"
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; CHAOS's Test_Sets have no reference")
    return folder


def convert_series(series: Path, ground: Path, image: Path, label: Path, modality: str) -> None:
    """Write a series and its reference (0, 1 liver) as NIfTI files on one grid.

    Raises:
        ValueError: See :func:`read_ground`.
        IntakeError: If the series cannot be read.
    """
    scan = read_scan(series, modality=modality, accept=ACCEPT)
    label_map = read_ground(ground, scan, LIVER_GREY[modality])
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(image, scan)
    write_label_map(label, label_map, like=scan, overwrite=True)


def read_ground(ground: Path, scan: Scan, liver_grey: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Join the PNG slices of a reference to a label map.

    The n-th PNG by name belongs to the n-th slice file by name, wherever that lies in the volume.

    Args:
        ground: Folder of the PNGs.
        scan: The series; its ``slice_files`` say which file became which plane.
        liver_grey: First and last grey value of liver.

    Returns:
        Labels (0, 1 liver) on the scan's grid, uint8 (X, Y, Z).

    Raises:
        ValueError: If there are more or fewer PNGs than slices, one has another size, or none shows liver.
    """
    pngs = sorted(ground.glob("*.png"), key=lambda path: _natural(path.name))
    planes = sorted(range(len(scan.slice_files)), key=lambda plane: _natural(scan.slice_files[plane]))
    if len(pngs) != len(planes):
        raise ValueError(f"{ground} has {len(pngs)} PNGs, {scan.path} has {len(planes)} slices; copy both again")
    label_map: npt.NDArray[np.uint8] = np.zeros(scan.array.shape, dtype=np.uint8, order="F")
    for png, plane in zip(pngs, planes, strict=True):
        grey = np.asarray(Image.open(png).convert("L")).T  # rows of a picture run along Y
        if grey.shape != scan.array.shape[:2]:
            raise ValueError(f"{png} has {grey.shape} pixels, the slices of {scan.path} {scan.array.shape[:2]}")
        label_map[:, :, plane] = (grey >= liver_grey[0]) & (grey <= liver_grey[1])
    if not label_map.any():
        raise ValueError(f"no PNG in {ground} shows liver, grey value {liver_grey[0]} to {liver_grey[1]}")
    return label_map


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that reads digits as numbers: ``i10`` comes after ``i9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
