"""Files of class probabilities: what ``predict`` writes beside a mask, and what ``evaluate`` and ``describe`` read.

The last axis of the file counts classes: liver and tumor as ``predict`` writes them, liver alone from a model of two
classes, or background, liver and tumor as other tools write a softmax. A file of three axes holds tumor. Liver here is
the class; as a region, liver is liver or tumor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import affine_is_usable
from liver_pipeline.geometry.boxes import Box
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.nifti import header_like, read_nifti, write_nifti
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import FloatArray

CLASSES = {0: ("tumor",), 1: ("liver",), 2: ("liver", "tumor"), 3: ("background", "liver", "tumor")}
_REGIONS = {"liver": ("liver", "tumor"), "tumor": ("tumor",)}
LEVELS = 255  # a kept probability p is stored as round(LEVELS * p): off by at most 1 / (2 * LEVELS), about 0.002


def write_probabilities(
    path: Path, levels: npt.NDArray[np.uint8], like: Scan, announce: Callable[[str], None] | None = None
) -> str:
    """Write probabilities on the grid of ``like``: one byte a class and voxel, scaled by the header to 0 to 1.

    Args:
        path: Ends in ``.nii.gz``.
        levels: round(255 p) of the foreground classes, (X, Y, Z, classes), Fortran-ordered.
        like: The scan.
        announce: See :func:`liver_pipeline.io.nifti.write_nifti`.

    Returns:
        sha256 of the file, which appears whole or not at all.

    Raises:
        ValueError: If shapes differ.
        OSError: If it cannot be written.
    """
    if levels.shape[:3] != like.array.shape:
        raise ValueError(f"probabilities have shape {levels.shape}; expected {like.array.shape}, the scan's grid")
    header = header_like(like.header, levels.shape)
    header["scl_slope"] = 1.0 / LEVELS
    planes = levels.reshape(*levels.shape[:2], -1, order="F")  # classes follow each other as they do in the file
    return write_nifti(path, planes, header, announce)


def probabilities_record(path: str, sha256: str, classes: int) -> dict[str, Any]:
    """Return what a mask's record says of the probabilities beside it."""
    return {"path": path, "sha256": sha256, "classes": classes, "largest_error": 0.5 / LEVELS}


def read_probabilities(path: Path | str) -> dict[str, Scan]:
    """Read a file of probabilities.

    Returns:
        The stored values of each class that the file holds, by its name; they share memory.

    Raises:
        IntakeError: If it cannot be read, or has another number of classes; see :data:`CLASSES`.
    """
    path = Path(path)
    volume = read_nifti(path, channels=True)
    shape = volume.array.shape
    count = shape[3] if len(shape) == 4 else 0
    if count not in CLASSES or len(shape) > 4:
        raise refuse(path, "NOT_3D", f"shape {shape}; expected (X, Y, Z) of tumor, or 1 to 3 classes as last axis")
    if not affine_is_usable(volume.affine):
        raise refuse(path, "AFFINE_SINGULAR", "the affine has no inverse; write the probabilities on the scan's grid")
    by_class = volume.array if count else volume.array[..., None]
    rest = (volume.affine, volume.slope, volume.intercept, volume.header, path, volume.sha256, volume.findings)
    return {name: Scan(by_class[..., k], *rest) for k, name in enumerate(CLASSES[count])}


def classes_of(levels: npt.NDArray[np.uint8], like: Scan) -> dict[str, Scan]:
    """Return probabilities in memory as :func:`read_probabilities` gives those of a file; they share memory.

    Args:
        levels: As for :func:`write_probabilities`.
        like: The scan.
    """
    return {
        name: replace(like, array=levels[..., k], slope=1.0 / LEVELS, intercept=0.0, sha256="")
        for k, name in enumerate(CLASSES[levels.shape[-1]])
    }


def region_probability(classes: Mapping[str, Scan], region: str, box: Box) -> FloatArray | None:
    """Return the probability of ``liver`` (liver or tumor) or ``tumor`` inside a box, float32; None if unknown.

    A file of tumor alone says nothing of the liver.
    """
    known = [classes[name] for name in _REGIONS[region] if name in classes]
    if region not in classes or not known:
        return None
    parts = [scan.array[box].astype(np.float32) * scan.slope + scan.intercept for scan in known]
    total: FloatArray = np.sum(parts, axis=0, dtype=np.float32)
    return total
