"""The DICOM series that results refer to: headers in the order of a mask's planes, fit to be referred to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset

from liver_pipeline.dicom_results.uids import derived_uid
from liver_pipeline.geometry.affines import Affine, corner_shift_mm, grids_match
from liver_pipeline.io.dicom import read_plane_headers
from liver_pipeline.io.dicom_classes import IMAGE_CLASSES
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.formats import sniff
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import LabelMap

# Of patient, study and slice: DICOM's type 2, which a series may hold empty, and anonymisation often removes.
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "InstanceNumber",
)  # fmt: skip
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")  # type 1: what names a slice
ONE_FOR_ALL = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName")


@dataclass(frozen=True)
class SourceSeries:
    """A series that can be referred to.

    Attributes:
        headers: One a plane along Z, without pixels; what may be empty and was missing is there, and empty. The
            distance of planes is the measured one: a wrong SpacingBetweenSlices would move a result.
        affine: Voxel index to RAS mm, as a scan read from the same place has it.
    """

    headers: tuple[Dataset, ...]
    affine: Affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y, Z."""
        first = self.headers[0]
        return int(first.Columns), int(first.Rows), len(self.headers)

    @property
    def modality(self) -> str:
        """CT or MR."""
        return str(self.headers[0].get("Modality") or IMAGE_CLASSES.get(self.headers[0].SOPClassUID, ""))


def is_series(path: Path) -> bool:
    """Tell whether what lies at ``path`` may be a DICOM series: a folder, a zip or a slice.

    Raises:
        OSError: If it cannot be read.
    """
    return sniff(path) in ("folder", "dicom")


def read_source(path: Path | str, reader: ScanReader | None = None, *, series: str | None = None) -> SourceSeries:
    """Read the headers of the series at ``path`` as results refer to it.

    A FrameOfReferenceUID that is missing is derived from the series' UID, so that two results agree.

    Args:
        path: A folder or zip of a series.
        reader: How the run reads scans.
        series: Which of several series there; see :func:`liver_pipeline.io.dicom_series.choose_series`.

    Raises:
        IntakeError: DICOM_REFERENCE if it is no DICOM series, or lacks what results refer to; else what reading gives.
    """
    path, reader = Path(path), reader or ScanReader()
    if not path.exists():
        raise refuse(path, "NOT_FOUND", "there is no such file or folder; is the path spelt right?")
    if not is_series(path):
        raise refuse(path, "DICOM_REFERENCE", "no DICOM series: a DICOM result refers to slices; give it the series")
    headers, affine = read_plane_headers(path, accept=reader.accept, series=series)
    if "PerFrameFunctionalGroupsSequence" in headers[0]:
        raise refuse(path, "DICOM_REFERENCE", "an enhanced file of many frames: results refer to single slices so far")
    for name in NEEDED:
        if lacking := sum(not header.get(name) for header in headers):
            raise _lacks(path, f"{name} is missing or empty in {lacking} of {len(headers)} slices")
    for name in ONE_FOR_ALL:
        values = {str(header.get(name) or "") for header in headers}
        if len(values) > 1:
            raise _lacks(path, f"slices differ in {name}")
    if repeated := sum(n - 1 for n in Counter(header.SOPInstanceUID for header in headers).values()):
        raise _lacks(path, f"{repeated} slices have the SOPInstanceUID of another one")
    frame = headers[0].get("FrameOfReferenceUID") or derived_uid(f"frame of {headers[0].SeriesInstanceUID}")
    gap = _gap_mm(affine)
    for header in headers:
        header.FrameOfReferenceUID = frame
        header.SpacingBetweenSlices = gap
        header.SliceThickness = header.get("SliceThickness") or gap
        for name in MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, None)
    return SourceSeries(tuple(headers), affine)


def _gap_mm(affine: Affine) -> float:
    """Distance between neighbouring planes along their normal, to what a decimal string in DICOM holds."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return round(float(abs(affine[:3, 2] @ normal) / np.linalg.norm(normal)), 9)


def _lacks(path: Path, what: str) -> IntakeError:
    return refuse(path, "DICOM_REFERENCE", f"{what}; a DICOM result refers to slices by it: export the series again")


def labels_on(source: SourceSeries, mask: Scan) -> LabelMap:
    """Return a mask's labels (X, Y, Z) along the axes of the series.

    Raises:
        IntakeError: LABEL_GRID_MISMATCH if it lies on another grid.
    """
    turn = nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(source.affine))
    labels: Any = nib.apply_orientation(mask.array, turn)
    affine = mask.affine @ nib.orientations.inv_ornt_aff(turn, mask.array.shape)
    if grids_match(labels.shape, affine, source.shape, source.affine):
        return np.asarray(labels, dtype=np.uint8)
    if labels.shape == source.shape:
        detail = f"up to {corner_shift_mm(labels.shape, affine, source.affine):.3g} mm off the series"
    else:
        detail = f"shape {labels.shape}, the series {source.shape}"
    raise refuse(mask.path, "LABEL_GRID_MISMATCH", f"{detail}; name the series that the mask was made of")
