"""Which reader a file is for, by its content."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from liver_pipeline.io.dicom import is_series_folder, read_series
from liver_pipeline.io.dicom_headers import sop_class
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.nifti import read_nifti
from liver_pipeline.io.streams import StoredVolume


def read_stored(
    path: Path, *, accept: Collection[str] = (), series: str | None = None, labels: bool = False
) -> StoredVolume:
    """Read a file, or a folder of DICOM slices, in whichever format it is.

    Args:
        path: Where it is.
        accept: Codes of errors to take as warnings, for checks that have to pass before voxels are read.
        series: Which of several DICOM series; see :func:`liver_pipeline.io.dicom_series.choose_series`.
        labels: Whether it is a label map.

    Raises:
        IntakeError: With the code of what is wrong with the file.
        OSError: If it cannot be read.
    """
    if path.is_dir():
        if not is_series_folder(path):
            raise refuse(path, "NOT_A_SCAN", "a folder without DICOM slices; name the folder that holds them")
        return read_series(path, accept=accept, series=series, labels=labels)
    if sniff(path) == "dicom":
        return read_series(path, accept=accept, series=series, labels=labels)
    return read_nifti(path)


def sniff(path: Path) -> str:
    """Return "dicom" (a zip, too) or "nifti" (which a NIfTI file may still turn out not to be) by the first bytes."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04" or (head and sop_class(path) is not None):
        return "dicom"
    return "nifti"
