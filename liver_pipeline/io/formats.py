"""Which reader a file is for, by its content."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from liver_pipeline.io.dicom import is_series_folder, read_series, sop_class
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.nifti import read_nifti
from liver_pipeline.io.streams import StoredVolume


def read_stored(path: Path, *, accept: Collection[str] = ()) -> StoredVolume:
    """Read a file, or a folder of DICOM slices, in whichever format it is.

    Raises:
        IntakeError: With the code of what is wrong with the file.
        OSError: If it cannot be read.
    """
    if path.is_dir():
        if not is_series_folder(path):
            raise refuse(path, "NOT_A_SCAN", "a folder without DICOM slices; name the folder that holds them")
        return read_series(path, accept=tuple(accept))
    if sniff(path) == "zip":
        return read_series(path, accept=tuple(accept))
    return read_nifti(path)


def sniff(path: Path) -> str:
    """Return "zip" or "nifti" (which a NIfTI file may still turn out not to be) by the first bytes.

    Raises:
        IntakeError: DICOM_MULTIFRAME for one DICOM file: its folder is the scan.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        return "zip"
    if head and sop_class(path) is not None:
        raise refuse(path, "DICOM_MULTIFRAME", "a single DICOM file; name the folder that holds its series")
    return "nifti"
