"""3D-IRCADb-01 (IRCAD, Strasbourg): a folder a patient, with DICOM slices and a folder of masks a structure."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.scans import Scan, read_scan, write_label_map

LIVER, TUMOR = 1, 2


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
    hu = np.clip(np.rint(scan.array * np.float32(scan.slope) + np.float32(scan.intercept)), -32768, 32767)
    image = nib.Nifti1Image(hu.astype(np.int16), scan.affine, scan.header)
    partial = volume.with_name(f".partial-{volume.name}")
    nib.save(image, partial)
    partial.replace(volume)
    write_label_map(segmentation, label_map, like=scan, overwrite=overwrite)
    return volume, segmentation


def read_masks(masks: str | Path, scan: Scan) -> npt.NDArray[np.uint8]:
    """Join the mask series of a case to one label map on the grid of ``scan``, uint8 (X, Y, Z).

    Raises:
        FileNotFoundError: If there is no ``liver`` mask.
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
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # two levels of plain names; a member cannot climb out of the folder
            parts = [part for part in Path(member.filename).parts if part not in ("/", "..")][-2:]
            if member.is_dir() or len(parts) < 2:
                continue
            target = Path(scratch).joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        yield Path(scratch)
