"""3D-IRCADb-01 (IRCAD, Strasbourg): a folder a patient, with DICOM slices and a folder of masks a structure."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from liver_pipeline.data.cases import Case
from liver_pipeline.data.converted import converted_folder, write_volume
from liver_pipeline.data.layouts import lits_cases
from liver_pipeline.io.volumes import Scan, read_scan, write_label_map
from liver_pipeline.io.zips import unzip
from liver_pipeline.labels import LIVER, TUMOR, LabelValues


def ircadb_cases(
    dataset_dir: str | Path, converted_dir: str | Path | None = None, label_map: LabelValues | None = None
) -> list[Case]:
    """Cases of 3D-IRCADb-01; each case folder is a patient. What ``converted_dir`` lacks is converted into it first.

    Args:
        dataset_dir: Holds the case folders; see :func:`convert_case`.
        converted_dir: Folder for the NIfTI files, in LiTS layout; None is ``<dataset_dir>_converted`` beside it. A file
            that is there is used as it is: remove it to convert again.
        label_map: As for :func:`~liver_pipeline.data.layouts.lits_cases`, of the converted label maps.

    Raises:
        FileNotFoundError: If there is no case folder, or a part of one is missing.
        ValueError: If two folders have the same number, or masks lie on another grid than their scan.
        IntakeError: If a series cannot be read.
    """
    root = Path(dataset_dir).absolute()
    target = converted_folder(root, converted_dir)
    numbers: dict[int, Path] = {}
    for case_dir in case_folders(root):
        number = case_number(case_dir)
        if number in numbers:
            raise ValueError(f"{numbers[number].name} and {case_dir.name} in {root} are both case {number}; rename one")
        numbers[number] = case_dir
    for number, case_dir in numbers.items():
        if not all((target / f"{name}-{number}.nii.gz").exists() for name in ("volume", "segmentation")):
            convert_case(case_dir, target, number, overwrite=True)
    wanted = {f"volume-{number}" for number in numbers}
    return [case for case in lits_cases(target, label_map) if case["case"] in wanted]


def case_folders(folder: str | Path) -> list[Path]:
    """List the case folders directly below ``folder``, by number; ``folder`` itself if it is one.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(folder)
    candidates = [folder, *folder.iterdir()] if folder.is_dir() else []
    found = [path for path in candidates if path.is_dir() and any(path.glob("PATIENT_DICOM*"))]
    if not found:
        raise FileNotFoundError(f"no folder with PATIENT_DICOM in {folder.resolve()}; 3D-IRCADb has one a patient")
    return sorted(found, key=lambda path: (case_number(path), path.name))


def case_number(case_dir: Path) -> int:
    """Return the last number in the folder's name (``3Dircadb1.7`` is 7), 0 if there is none."""
    numbers = re.findall(r"\d+", case_dir.name)
    return int(numbers[-1]) if numbers else 0


def convert_case(
    case_dir: str | Path, output_dir: str | Path, number: int, *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write ``volume-N.nii.gz`` (HU, int16) and ``segmentation-N.nii.gz`` (0, 1 liver, 2 tumor), as LiTS names them.

    The liver is the mask ``liver``, tumors are all masks whose name begins with ``livertumor``; a cyst (``liverkyst``)
    stays liver.

    Args:
        case_dir: Holds ``PATIENT_DICOM`` and ``MASKS_DICOM``, each as a folder or as a zip.
        output_dir: Made when it does not exist.
        number: N in the file names.
        overwrite: Replace files that exist.

    Returns:
        Paths of the volume and of the segmentation.

    Raises:
        FileNotFoundError: If a part is missing, or there is no liver mask.
        FileExistsError: If an output exists and ``overwrite`` is false.
        IntakeError: If a series cannot be read.
    """
    case_dir, output_dir = Path(case_dir), Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    volume, segmentation = (output_dir / f"{name}-{number}.nii.gz" for name in ("volume", "segmentation"))
    taken = [path for path in (volume, segmentation) if path.exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{taken[0]} exists; give --overwrite to replace it")
    scan = read_scan(_part(case_dir, "PATIENT_DICOM"))
    label_map = read_masks(_part(case_dir, "MASKS_DICOM"), scan)
    write_volume(volume, scan)
    write_label_map(segmentation, label_map, like=scan, overwrite=overwrite)
    return volume, segmentation


def read_masks(masks: str | Path, scan: Scan) -> npt.NDArray[np.uint8]:
    """Join the mask series of a case to one label map on the grid of ``scan``, uint8 (X, Y, Z).

    Raises:
        FileNotFoundError: If there is no ``liver`` mask.
        IntakeError: If a series, or the zip, cannot be read.
        ValueError: If a mask lies on another grid than the scan.
    """
    with _as_folder(Path(masks)) as folder:
        structures = {path.name.lower(): path for path in sorted(folder.rglob("*")) if path.is_dir()}
        if "liver" not in structures:
            raise FileNotFoundError(f"no folder 'liver' in {masks}; found {', '.join(structures) or 'nothing'}")
        label_map = np.where(_mask(structures["liver"], scan), np.uint8(LIVER), np.uint8(0))
        for name, path in structures.items():
            if name.startswith("livertumor"):
                label_map[_mask(path, scan)] = TUMOR
    return np.asfortranarray(label_map)


def _mask(path: Path, scan: Scan) -> npt.NDArray[np.bool_]:
    series = read_scan(path, modality="label")
    if series.array.shape != scan.array.shape or not np.allclose(series.affine, scan.affine, atol=1e-2):
        raise ValueError(f"the masks in {path.name} lie on another grid than the scan: {series.array.shape}")
    mask: npt.NDArray[np.bool_] = series.array > 0  # stored as 0 and 255
    return mask


def _part(case_dir: Path, name: str) -> Path:
    for path in (case_dir / name, case_dir / f"{name}.zip"):
        if path.exists():
            return path
    raise FileNotFoundError(f"no {name} or {name}.zip in {case_dir.resolve()}")


@contextmanager
def _as_folder(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        unzip(path, Path(scratch), folders=True)
        yield Path(scratch)
