"""What a DICOM file says about each of its planes; the frames of an enhanced CT or MR are planes like any other."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from liver_pipeline.io.dicom_classes import IMAGE_CLASSES, PREAMBLE, head_of_slice
from liver_pipeline.io.findings import refuse

# Of the file, or of a frame's functional groups (PS3.3 C.7.6.16), where they go by these names.
FRAME_NAMES = {
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
}
TAGS = (
    "SOPClassUID", "Modality", "ImageType", "PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesDescription", "ContrastBolusAgent", "AcquisitionNumber",
    "ConvolutionKernel", "KVP", "TriggerTime", "NominalPercentageOfCardiacPhase", "TemporalPositionIdentifier",
    "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ComplexImageComponent", "StackID", "Rows", "Columns",
    "SamplesPerPixel", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope",
    "RescaleIntercept", "NumberOfFrames", "SeriesNumber", "SliceThickness", "AcquisitionTime",
    "AcquisitionDateTime", "ProtocolName", "FilterType", "ReconstructionDiameter", "PatientPosition",
    "GantryDetectorTilt", "PatientSex",
    "RescaleType", "InstanceNumber", "VolumetricProperties",
)  # fmt: skip

# Inside of sequences, of a file or of a frame's functional groups.
QUANTITY = {
    "MeasurementUnits": ("RealWorldValueMappingSequence", "MeasurementUnitsCodeSequence", "CodeValue"),
    "MonoenergeticEnergyEquivalent": (
        "MultienergyCTProcessingSequence", "MultienergyCTCharacteristicsSequence", "MonoenergeticEnergyEquivalent",
    ),
}  # fmt: skip

WANTED = {Tag(name): FRAME_NAMES.get(name, name) for name in (*TAGS, *FRAME_NAMES)}


@dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """One plane: its file, its number in a file of many frames, and the tags that hold something.

    Lengths are in mm, patient space is LPS, as in DICOM.
    """

    path: Path
    name: str
    frame: int | None
    tags: Mapping[str, Any]

    def text(self, tag: str) -> str:
        """Return a tag's value as text, "" where it is missing or empty; of several, all as DICOM writes them."""
        value = self.tags.get(tag, "")
        return "\\".join(str(part) for part in value) if isinstance(value, list) else str(value).strip()

    def numbers(self, tag: str, count: int) -> npt.NDArray[np.float64] | None:
        """Return ``count`` finite numbers, or ``None`` where the tag holds anything else, or nothing."""
        try:
            values = np.atleast_1d(np.asarray(self.tags[tag], dtype=np.float64))
        except (KeyError, TypeError, ValueError):
            return None
        return values if values.shape == (count,) and np.isfinite(values).all() else None

    @property
    def modality(self) -> str:
        """``Modality``, or what the SOP class implies; "" if neither says."""
        return self.text("Modality") or IMAGE_CLASSES.get(self.text("SOPClassUID"), "")

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, (0, 0) where they are missing."""
        columns, rows = self.numbers("Columns", 1), self.numbers("Rows", 1)
        return (0, 0) if columns is None or rows is None else (int(columns[0]), int(rows[0]))

    @property
    def position(self) -> npt.NDArray[np.float64] | None:
        """Centre of the first pixel, shape (3,)."""
        return self.numbers("ImagePositionPatient", 3)

    @property
    def directions(self) -> npt.NDArray[np.float64] | None:
        """Unit vectors along a row and along a column, shape (2, 3); ``None`` unless they stand at right angles."""
        values = self.numbers("ImageOrientationPatient", 6)
        if values is None or np.abs(values.reshape(2, 3) @ values.reshape(2, 3).T - np.eye(2)).max() > 1e-3:
            return None
        return values.reshape(2, 3)

    @property
    def pixel_spacing(self) -> npt.NDArray[np.float64] | None:
        """Distance of rows and of columns, shape (2,)."""
        values = self.numbers("PixelSpacing", 2)
        return values if values is not None and (values > 0).all() else None

    @property
    def rescale(self) -> tuple[float, float] | None:
        """Slope and intercept."""
        slope, intercept = self.numbers("RescaleSlope", 1), self.numbers("RescaleIntercept", 1)
        if slope is None or intercept is None or slope[0] == 0:
            return None
        return float(slope[0]), float(intercept[0])


def read_headers(path: Path, files: Sequence[Path]) -> list[Slice]:
    """Return the planes of those files that can be slices; ``path`` is the folder, zip or file that messages name.

    Raises:
        IntakeError: DICOM_DAMAGED with the name of a file that cannot be read.
    """
    slices: list[Slice] = []
    for file in files:
        name = file_name(path, file)
        try:
            if (header := _header_of_slice(file)) is not None:
                slices += _planes(file, name, header)
        except (OSError, MemoryError):
            raise
        except Exception as reason:  # pydicom reads values late, and fails in many ways
            line = " ".join(f"{type(reason).__name__}: {reason}".split())[:200]
            raise refuse(
                path, "DICOM_DAMAGED", f"the header of {name} cannot be read ({line}); copy it again"
            ) from reason
    return slices


def _header_of_slice(file: Path) -> Dataset | None:
    """Return the header of a file that can be a slice, without pixels; None for any other. It is opened once."""
    with file.open("rb") as stream:
        if not head_of_slice(file, stream.read(PREAMBLE)):
            return None
        stream.seek(0)
        return pydicom.dcmread(stream, force=True, stop_before_pixels=True)


def file_name(path: Path, file: Path) -> str:
    """Return what messages call a file: members of a zip were numbered when they were unpacked."""
    return f"member {int(file.name.partition('.')[0]) + 1}" if path.is_file() and path != file else file.name


def _planes(file: Path, name: str, header: Dataset) -> Iterator[Slice]:
    shared = _filled(header)
    shared["TransferSyntaxUID"] = str(getattr(header.file_meta, "TransferSyntaxUID", ""))
    shared.setdefault("SOPClassUID", str(getattr(header.file_meta, "MediaStorageSOPClassUID", "")))
    shared |= _of_quantity(header)
    if shared["SOPClassUID"] in IMAGE_CLASSES and not {"Rows", "Columns"} <= shared.keys():
        raise ValueError("an image without Rows and Columns: it was cut short")
    if "PerFrameFunctionalGroupsSequence" not in header:
        yield Slice(file, name, None, shared)
        return
    if (told := len(header.PerFrameFunctionalGroupsSequence)) != int(shared.get("NumberOfFrames", 1)):
        raise ValueError(f"NumberOfFrames is {shared.get('NumberOfFrames')}, and {told} frames are described")
    for group in header.get("SharedFunctionalGroupsSequence", []):
        shared |= _of_groups(group)
    for number, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        yield Slice(file, f"{name} frame {number + 1}", number, shared | _of_groups(group))


def _of_groups(groups: Dataset) -> dict[str, Any]:
    """Return the tags in all of a frame's functional groups."""
    found = _of_quantity(groups)
    for element in groups:
        for item in element.value if element.VR == "SQ" else ():
            found |= _filled(item)
    return found


def _of_quantity(dataset: Dataset) -> dict[str, Any]:
    """Return the unit of the values and the energy in keV that they are computed for, where sequences say so."""
    found = {}
    for name, path in QUANTITY.items():
        items = [dataset]
        for sequence in path[:-1]:
            items = [item for one in items for item in one.get(sequence) or ()]
        if said := [str(item.get(path[-1], "")) for item in items if item.get(path[-1])]:
            found[name] = sys.intern(said[0])
    return found


def _filled(dataset: Dataset) -> dict[str, Any]:
    """Return the tags of interest that hold something, with plain values."""
    found = {}
    for tag, name in WANTED.items():
        if tag not in dataset:
            continue
        value = dataset[tag].value
        if value is None or value == "" or (isinstance(value, MultiValue) and not len(value)):
            continue
        found[name] = [_plain(part) for part in value] if isinstance(value, MultiValue) else _plain(value)
    return found


def _plain(value: Any) -> Any:
    """Return a value without what pydicom keeps with it: as written, and once in memory for all slices that say so."""
    return value if type(value) in (int, float, bytes) else sys.intern(str(value))
