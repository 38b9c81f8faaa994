"""Stored pixels of DICOM planes, before any rescale: pydicom for plain and run-length ones, ITK (GDCM) for the rest."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from liver_pipeline.io.dicom_headers import Slice
from liver_pipeline.io.findings import refuse


def read_planes(path: Path, slices: Sequence[Slice], hashes: dict[Path, str]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the stored pixels (X, Y) of each slice with its place in ``slices``, file by file.

    Args:
        path: The folder, zip or file that messages name.
        slices: In any order.
        hashes: Takes the sha256 of each file that is opened here: a slow disk is asked for it once.

    Raises:
        IntakeError: DICOM_DAMAGED with the name of the slice.
    """
    by_file: dict[Path, list[int]] = defaultdict(list)
    for index, one in enumerate(slices):
        by_file[one.path].append(index)
    for file, indices in by_file.items():
        planes = _decoded(path, file, [slices[index] for index in indices], hashes)
        for index, plane in zip(indices, planes, strict=True):
            if plane.shape != slices[index].size:
                raise refuse(path, "DICOM_DAMAGED", f"{slices[index].name} has pixels of shape {plane.shape}")
            yield index, plane


def _decoded(path: Path, file: Path, slices: Sequence[Slice], hashes: dict[Path, str]) -> Iterator[npt.NDArray[Any]]:
    """Yield planes (X, Y) of one file."""
    try:
        syntax = UID(slices[0].text("TransferSyntaxUID"))
        plain = not syntax or syntax == RLELossless or not syntax.is_encapsulated
        yield from _plain(file, slices, hashes) if plain else _compressed(file, slices)
    except (OSError, MemoryError):
        raise
    except Exception as reason:  # decoders fail in many ways
        line = " ".join(f"{type(reason).__name__}: {reason}".split())[:200]
        detail = f"the pixels of {slices[0].name} cannot be read ({line}); copy it again"
        raise refuse(path, "DICOM_DAMAGED", detail) from reason


def _plain(file: Path, slices: Sequence[Slice], hashes: dict[Path, str]) -> Iterator[npt.NDArray[Any]]:
    from pydicom.pixels import iter_pixels  # here: pydicom 2, which MONAI Label needs, lacks it

    with file.open("rb") as stream:
        hashes[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        dataset = pydicom.dcmread(stream, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble: as it turned out to be written
        implicit, little = dataset.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    frames = None if slices[0].frame is None else [one.frame for one in slices]
    for plane in iter_pixels(dataset, raw=True, indices=frames):
        yield plane.T


def _compressed(file: Path, slices: Sequence[Slice]) -> Iterator[npt.NDArray[Any]]:
    """Decode with GDCM, which applies one slope and intercept to all frames: they are taken off again."""
    import itk  # here, because it takes seconds to import

    io = itk.GDCMImageIO.New()
    io.SetFileName(str(file))
    io.ReadImageInformation()
    reader = itk.ImageFileReader[itk.Image[itk.D, 3]].New(FileName=str(file), ImageIO=io)
    reader.Update()
    frames = itk.GetArrayViewFromImage(reader.GetOutput())
    slope, intercept = float(io.GetRescaleSlope()), float(io.GetRescaleIntercept())
    for one in slices:
        stored = np.rint((frames[one.frame or 0] - intercept) / slope)
        yield stored.astype(np.int64).T
