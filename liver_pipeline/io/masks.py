"""Masks as they are written, each saying of itself that it holds labels; and how a label map is told from a scan."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.io.file_names import FORMATS, MASK_SUFFIXES, PICTURE_MASK, RECORD, RESULT_ENDINGS, file_beside
from liver_pipeline.io.files import whole_file
from liver_pipeline.io.nifti import GZIP_LEVEL, LABEL_INTENT, header_like, intent_code, write_nifti
from liver_pipeline.io.nifti_header import best_affine
from liver_pipeline.io.streams import CHUNK

LITS_REFERENCE = re.compile(r"^(test-)?segmentation-(\d+\.nii(?:\.gz)?)$", re.IGNORECASE)
REFERENCE_FOLDERS = {"labels": "images", "labelsTr": "imagesTr", "labelsTs": "imagesTs"}  # beside the scans' folder
CONTENT = "label map"  # what a NRRD says under "content", a MetaImage as its comment
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_mask(
    path: Path, label_map: npt.NDArray[np.uint8], header: Any, announce: Callable[[str], None] | None = None
) -> str:
    """Write labels (X, Y, Z) on the grid of a NIfTI header, in the format that the name says.

    NIfTI keeps sform, qform, codes and units to the bit; NRRD and MetaImage take the affine that NIfTI's readers see;
    PNG is for one slice, labels as grey values. The file appears whole or not at all, and the same labels and header
    give the same bytes.

    Args:
        path: Ends in one of :data:`MASK_SUFFIXES`.
        label_map: uint8 (X, Y, Z).
        header: Of the scan.
        announce: See :func:`liver_pipeline.io.nifti.write_nifti`.

    Returns:
        sha256 of the file.

    Raises:
        ValueError: If the name ends in something else, or MetaImage cannot hold axes that are not at right angles.
        OSError: If it cannot be written; nothing is left behind.
    """
    if path.name.endswith((".nii.gz", ".nii")):
        x, y, z = label_map.shape
        return write_nifti(path, label_map, header_like(header, (x, y, z), intent=LABEL_INTENT), announce)
    affine = best_affine(path, header)
    if path.name.endswith(".nrrd"):
        return _write(path, [_nrrd_header(label_map.shape, affine), *_deflated(label_map, 31)], announce)
    if path.name.endswith(".mha"):
        voxels = list(_deflated(label_map, 15))  # a label map takes a few MB at most, and its size stands before it
        return _write(path, [_mha_header(label_map.shape, affine, sum(map(len, voxels))), *voxels], announce)
    if path.name.endswith(PICTURE_MASK):
        return _write(path, [_png(path, label_map)], announce)
    raise ValueError(f"{path}: a label map is written as {', '.join(MASK_SUFFIXES)}")


def mask_of(folder: Path, case: str) -> Path:
    """Return the mask of a case in a folder of masks, whatever its format; of none the place where NIfTI would be."""
    places = [folder / f"{case}{suffix}" for suffix in FORMATS.values()]
    return next((place for place in places if place.is_file()), places[0])


def is_label_map(path: Path) -> bool:
    """Tell whether a file named like a scan is none: a mask or what lies beside one, or a data set's reference.

    Known by what it says of itself (NIfTI's intent code, 3D Slicer's segments), by the provenance beside it, by the
    name of what is written beside a mask, and by where LiTS, MSD and ``--data folder`` keep their references.
    """
    name = path.name.lower()
    if name.endswith(RESULT_ENDINGS):
        return True
    twin = LITS_REFERENCE.sub(r"\1volume-\2", path.name)
    if twin != path.name and any((folder / twin).exists() for folder in _beside(path.parent)):
        return True
    if path.parent.name in REFERENCE_FOLDERS and (path.parent.parent / REFERENCE_FOLDERS[path.parent.name]).is_dir():
        return True
    return path.is_file() and (_has_provenance(path) or _says_label_map(path))


def _beside(folder: Path) -> Iterator[Path]:
    """Yield a folder, then those beside it: they are listed only if they are asked for."""
    yield folder
    yield from folder.parent.glob("*/")


def _has_provenance(path: Path) -> bool:
    record = file_beside(path, RECORD)
    try:
        output = json.loads(record.read_bytes())["output"]
        return bool(output["sha256"]) and Path(output["path"]).name == path.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _says_label_map(path: Path) -> bool:
    """Tell whether a file says of itself that it holds labels: NIfTI's intent code, our own marks, 3D Slicer's."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            file.seek(0)
            intent = intent_code(path, file)
    except OSError:
        return False
    if head[:7] == b"NRRD000":
        return f"\ncontent: {CONTENT}\n".encode() in head or b"\nSegment0_ID:=" in head
    if head[:4] == b"\x89PNG":
        return b"tEXtComment\0" + CONTENT.encode() in head
    return f"\nComment = {CONTENT}\n".encode() in head or intent == LABEL_INTENT


def _write(path: Path, chunks: list[bytes], announce: Callable[[str], None] | None) -> str:
    digest = hashlib.sha256()
    with whole_file(path) as temporary:
        with temporary.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        if announce is not None:
            announce(digest.hexdigest())
    return digest.hexdigest()


def _deflated(label_map: npt.NDArray[np.uint8], window_bits: int) -> Iterator[bytes]:
    """Yield the voxels, X fastest, as gzip (31) or zlib (15)."""
    compressor = isal_zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, window_bits)
    planes = max(1, 4 * CHUNK // max(1, label_map.shape[0] * label_map.shape[1]))
    for start in range(0, label_map.shape[2], planes):
        yield compressor.compress(label_map[:, :, start : start + planes].tobytes(order="F"))
    yield compressor.flush()


def _nrrd_header(shape: tuple[int, ...], affine: Affine) -> bytes:
    lps = _LPS @ affine
    lines = [
        "NRRD0004",
        f"content: {CONTENT}",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, shape))}",
        f"space directions: {' '.join(_vector(lps[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        'space units: "mm" "mm" "mm"',
        "encoding: gzip",
        f"space origin: {_vector(lps[:3, 3])}",
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _mha_header(shape: tuple[int, ...], affine: Affine, size: int) -> bytes:
    lps, spacing = _LPS @ affine, spacing_of(affine)
    axes = lps[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise ValueError("MetaImage holds no grid whose axes are not at right angles; write NRRD or NIfTI")
    lines = [
        "ObjectType = Image",
        f"Comment = {CONTENT}",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {size}",
        f"TransformMatrix = {_numbers(axes.T.ravel())}",
        f"Offset = {_numbers(lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(spacing)}",
        f"DimSize = {' '.join(map(str, shape))}",
        "ElementType = MET_UCHAR",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(lines) + "\n").encode()


def _png(path: Path, label_map: npt.NDArray[np.uint8]) -> bytes:
    """Return labels (X, Y, 1) as a grey PNG whose pixels are 0, 1, 2."""
    if label_map.shape[2] != 1:
        raise ValueError(f"{path}: a PNG holds the mask of a picture; this is one of {label_map.shape[2]} slices")
    told, buffer = PngInfo(), io.BytesIO()
    told.add_text("Comment", CONTENT)
    Image.fromarray(np.ascontiguousarray(label_map[:, :, 0].T)).save(buffer, "PNG", pnginfo=told)
    return buffer.getvalue()


def _vector(values: npt.NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"


def _numbers(values: Any) -> str:
    return " ".join(repr(float(value) + 0.0) for value in values)
