"""What data sets that come as DICOM share: where they are converted to, and how a scan is written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from liver_pipeline.io.files import whole_file
from liver_pipeline.io.volumes import Scan


def converted_folder(root: Path, converted_dir: str | Path | None) -> Path:
    """Return the folder for the NIfTI files: ``converted_dir``, or ``<root>_converted`` beside ``root``."""
    return root.with_name(f"{root.name}_converted") if converted_dir is None else Path(converted_dir)


def write_volume(path: Path, scan: Scan) -> None:
    """Write a scan as compressed NIfTI on its own grid, slope and intercept applied; whole or not at all.

    Whole values are written as int16, fractions (as some MR scanners' slopes give them) as float32.

    Raises:
        OSError: If it cannot be written.
    """
    values = scan.array * np.float32(scan.slope) + np.float32(scan.intercept)
    if scan.array.dtype.kind in "iu" and scan.slope.is_integer() and scan.intercept.is_integer():
        values = np.clip(values, -32768, 32767).astype(np.int16)
    header = scan.header.copy()
    header.set_data_dtype(values.dtype)
    with whole_file(path) as temporary, igzip.open(temporary, "wb") as file:
        nib.Nifti1Image(values, scan.affine, header).to_stream(file)
