"""Scans that lie in memory already: nibabel, SimpleITK and itk images, or an array with its affine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.io.dicom import LPS_TO_RAS
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import Scan, checked

IN_MEMORY = Path("in_memory")  # stands in messages and records where a file's path would


def scan_in_memory(source: Any, affine: npt.ArrayLike | None = None, *, reader: ScanReader) -> Scan:
    """Return what a reader would give for a volume that is in memory, checked as a file's is.

    Args:
        source: A nibabel image, a SimpleITK or itk image, or an array (X, Y, Z) of HU (or MR values).
        affine: Of an array: voxel index to RAS mm, (4, 4). Images bring their own.
        reader: Modality, and the codes that are accepted or repaired.

    Returns:
        The scan; its ``sha256`` is over shape, affine and voxels.

    Raises:
        IntakeError: As for a file.
        TypeError: If ``source`` is none of these, an array comes without an affine, or an image with one.
    """
    if isinstance(source, np.ndarray):
        if affine is None:
            raise TypeError("an array needs affine=, voxel index to RAS mm, shape (4, 4)")
        return _scan(source, np.asarray(affine, dtype=np.float64), nib.Nifti1Header(), reader)
    if affine is not None:
        raise TypeError(f"affine= goes with an array; a {type(source).__name__} has its own")
    if isinstance(source, nib.spatialimages.SpatialImage):
        return _scan(np.asanyarray(source.dataobj), source.affine, source.header, reader)
    if hasattr(source, "GetDirection") and hasattr(source, "GetSpacing"):
        return _scan(_itk_array(source), _itk_affine(source), nib.Nifti1Header(), reader)
    raise TypeError(
        f"cannot segment a {type(source).__name__}; give a path, a Scan, a nibabel, SimpleITK or itk image, or an array"
    )


def _scan(array: npt.NDArray[Any], affine: Affine, header: Any, reader: ScanReader) -> Scan:
    stored: npt.NDArray[Any] = np.asfortranarray(array, dtype=array.dtype.newbyteorder("="))
    digest = hashlib.sha256(repr((stored.shape, stored.dtype.str, affine.tolist())).encode())
    digest.update(stored.data if stored.flags.c_contiguous else stored.T.data)
    own = nib.Nifti1Image(np.broadcast_to(np.uint8(0), stored.shape), affine, _nifti1(header)).header
    scan = Scan(stored, affine, 1.0, 0.0, own, IN_MEMORY, digest.hexdigest(), ())
    return checked(scan, reader.modality, reader.accept, reader.repair)


def _nifti1(header: Any) -> Any:
    """Return a NIfTI header as it is; of another format's, nothing: the affine says it all."""
    return header if isinstance(header, nib.Nifti1Header) else None


def _itk_array(image: Any) -> npt.NDArray[Any]:
    """Return voxels (X, Y, Z); a view where the library allows it."""
    if type(image).__module__.startswith("SimpleITK"):
        import SimpleITK

        return np.asarray(SimpleITK.GetArrayViewFromImage(image)).T
    import itk

    return np.asarray(itk.array_view_from_image(image)).T


def _itk_affine(image: Any) -> Affine:
    """Return voxel index to RAS mm; itk's world is LPS."""
    direction = image.GetDirection()
    if hasattr(direction, "GetVnlMatrix"):
        import itk

        direction = itk.array_from_matrix(direction)
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction, dtype=np.float64).reshape(3, 3) * np.asarray(list(image.GetSpacing()))
    affine[:3, 3] = np.asarray(list(image.GetOrigin()), dtype=np.float64)
    moved: Affine = LPS_TO_RAS @ affine
    return moved
