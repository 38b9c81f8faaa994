"""DICOM files built from numbers: single slices and enhanced files of many frames, to be bent by tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

SHAPE, SPACING = (20, 16, 12), (1.5, 1.0, 3.0)  # X, Y, Z; mm
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def body(shape: Sequence[int] = SHAPE) -> npt.NDArray[np.int16]:
    """HU (X, Y, Z): air at -1000, fat and soft tissue inside, every voxel of a plane of its own value plus noise."""
    hu = np.full(shape, -1000, dtype=np.int16)
    inner = tuple(slice(n // 5, n - n // 5) for n in shape[:2])
    hu[inner] = 40
    hu[inner[0], inner[1].start] = -100
    return hu + np.random.default_rng(3).integers(-8, 9, shape).astype(np.int16)


def blank(uid: str, sop_class: str = CTImageStorage) -> FileDataset:
    """A file without pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = sop_class, uid
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = "1.2.3", "1.2.3.4", "CT"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    return file


def one_slice(
    k: int, hu: npt.NDArray[np.int16], *, axes: Any = AXIAL, spacing: Sequence[float] = SPACING, **tags: Any
) -> FileDataset:
    """Slice ``k`` of ``hu`` (X, Y, Z); ``axes`` are the directions of X and Y in LPS; a tag of ``None`` is left out."""
    file = blank(f"1.2.3.5.{k}")
    x, y = np.array(axes)
    file.ImagePositionPatient = place(k, axes, spacing)
    file.ImageOrientationPatient, file.PixelSpacing = [*x, *y], [spacing[1], spacing[0]]
    file.Rows, file.Columns, file.InstanceNumber = hu.shape[1], hu.shape[0], k + 1
    file.RescaleSlope, file.RescaleIntercept = 1, -1024
    file.PixelData = (hu[:, :, k].T + 1024).astype(np.int16).tobytes()
    set_tags(file, tags)
    return file


def place(k: int, axes: Any, spacing: Sequence[float]) -> list[float]:
    """Position of the first pixel of slice ``k``, from (-7, 5, 100) along the normal."""
    normal = np.cross(*np.array(axes))
    return [float(value) for value in (np.array([-7.0, 5.0, 100.0]) + normal * spacing[2] * k).round(6)]


def set_tags(file: Dataset, tags: dict[str, Any]) -> None:
    """Set tags by name; ``None`` deletes."""
    for name, value in tags.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)


def series(folder: Path, files: Iterable[FileDataset], prefix: str = "IM") -> Path:
    """Write files as IM000, IM001 and so on; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        file.save_as(folder / f"{prefix}{number:03d}", enforce_file_format=True)
    return folder


def ct(folder: Path, odd: Iterable[int] = (), hu: npt.NDArray[np.int16] | None = None, **tags: Any) -> Path:
    """Write a CT series; the slices in ``odd`` have other tags."""
    volume, odd = body() if hu is None else hu, set(odd)
    slices = (one_slice(k, volume, **(tags if k in odd else {})) for k in range(volume.shape[2]))
    return series(folder, slices)


def scout() -> FileDataset:
    """One sagittal plane that says that it is a scout."""
    side = one_slice(0, body((30, 40, 1)), axes=((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)))
    side.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return side


def item(**tags: Any) -> Dataset:
    """One item of a sequence."""
    made = Dataset()
    set_tags(made, tags)
    return made


def enhanced(
    hu: npt.NDArray[np.int16],
    order: Sequence[int],
    *,
    axes: Any = AXIAL,
    spacing: Sequence[float] = SPACING,
    sop_class: str = EnhancedCTImageStorage,
    per_frame: Any = lambda k: {},
    **tags: Any,
) -> FileDataset:
    """One file whose frames are the planes ``order`` of ``hu``; ``per_frame(k)`` gives plane ``k`` further groups."""
    file = blank("1.2.3.5", sop_class)
    x, y = np.array(axes)
    file.Rows, file.Columns, file.NumberOfFrames = hu.shape[1], hu.shape[0], len(order)
    file.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*x, *y])],
            PixelMeasuresSequence=[item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        )
    ]
    file.PerFrameFunctionalGroupsSequence = [
        item(**{"PlanePositionSequence": [item(ImagePositionPatient=place(k, axes, spacing))], **per_frame(k)})
        for k in order
    ]
    file.PixelData = b"".join((hu[:, :, k].T + 1024).astype(np.int16).tobytes() for k in order)
    set_tags(file, tags)
    return file
