"""MetaImage headers (https://itk.org/Wiki/ITK/MetaIO/Documentation): ``.mha``, and ``.mhd`` with a file beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.findings import refuse
from liver_pipeline.io.raw import FROM_END, RawHeader, checked_shape, header_lines, voxel_file

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
LAST_FIELD = "ElementDataFile"
ALIASES = {"Position": "Offset", "Origin": "Offset", "Orientation": "TransformMatrix", "Rotation": "TransformMatrix"}
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's space; AnatomicalOrientation is only told


def metaimage_header(path: Path) -> RawHeader:
    """Read the header of a MetaImage.

    Raises:
        IntakeError: BAD_HEADER, NOT_3D, NO_AFFINE without matrix, offset or spacing, UNITS, UNSUPPORTED_DTYPE,
            UNSUPPORTED_ENCODING, VOXELS_MISSING.
        OSError: If it cannot be read.
    """
    lines, length = header_lines(path, LAST_FIELD)
    pairs = (line.partition("=") for line in lines if "=" in line)
    fields = {ALIASES.get(key.strip(), key.strip()): value.strip() for key, _, value in pairs}
    if LAST_FIELD not in fields:
        raise refuse(path, "BAD_HEADER", f"there is no {LAST_FIELD}; copy the file again")
    shape = checked_shape(path, _integers(path, fields, "DimSize"))
    kind = _TYPES.get(fields.get("ElementType", ""))
    if kind is None or fields.get("ElementNumberOfChannels", "1") != "1":
        detail = f"{fields.get('ElementType', 'no ElementType')}, {fields.get('ElementNumberOfChannels', '1')} channels"
        raise refuse(path, "UNSUPPORTED_DTYPE", f"{detail}; export one channel of integers or float")
    if not _flag(fields, "BinaryData", "True"):
        raise refuse(path, "UNSUPPORTED_ENCODING", "voxels are text (BinaryData = False); save the file as binary")
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?", ""):
        raise refuse(path, "UNITS", f"DistanceUnits is {fields['DistanceUnits']}; write millimetres")
    big = _flag(fields, "BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    data, start = _voxels(path, fields, length)
    modality = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR"}.get(fields.get("Modality", ""), "")
    encoding = "zlib" if _flag(fields, "CompressedData", "False") else "raw"
    skip = _integers(path, {"HeaderSize": "0"} | fields, "HeaderSize")[0] if data != path else 0
    if skip < FROM_END or (skip == FROM_END and encoding != "raw"):
        raise refuse(path, "UNSUPPORTED_ENCODING", f"HeaderSize is {skip}; save the file again")
    return RawHeader(
        shape, np.dtype((">" if big else "<") + kind), _affine(path, fields), encoding, data, start, skip, modality
    )


def _flag(fields: dict[str, str], key: str, default: str) -> bool:
    return fields.get(key, default).lower() in ("true", "1", "t", "yes")


def _integers(path: Path, fields: dict[str, str], key: str) -> list[int]:
    try:
        return [int(number) for number in fields[key].split()] or [0]
    except (KeyError, ValueError) as reason:
        raise refuse(path, "BAD_HEADER", f"{key} is {fields.get(key, 'missing')!r}; restore it") from reason


def _numbers(path: Path, fields: dict[str, str], key: str, code: str) -> npt.NDArray[np.float64]:
    try:
        return np.array([float(number) for number in fields[key].split()], dtype=np.float64)
    except (KeyError, ValueError) as reason:
        raise refuse(path, code, f"{key} is {fields.get(key, 'missing')!r}; restore it") from reason


def _affine(path: Path, fields: dict[str, str]) -> npt.NDArray[np.float64]:
    matrix, offset = (_numbers(path, fields, key, "NO_AFFINE") for key in ("TransformMatrix", "Offset"))
    spacing = _numbers(path, fields, "ElementSpacing" if "ElementSpacing" in fields else "ElementSize", "NO_AFFINE")
    size = round(matrix.size**0.5)
    if size < 3 or size**2 != matrix.size or offset.size < 3 or spacing.size < 3:
        detail = f"{matrix.size} numbers of TransformMatrix, {offset.size} of Offset, {spacing.size} of ElementSpacing"
        raise refuse(path, "BAD_HEADER", f"{detail}; expected 9, 3 and 3")
    affine = np.eye(4)
    affine[:3, :3] = matrix.reshape(size, size)[:3, :3].T * spacing[:3]  # a row of the matrix is an axis of the array
    affine[:3, 3] = offset[:3]
    return _TO_RAS @ affine


def _voxels(path: Path, fields: dict[str, str], length: int) -> tuple[Path, int]:
    """Return the file of the voxels, and how many bytes of it are header."""
    name = fields[LAST_FIELD]
    if name.upper() == "LOCAL":
        return path, length
    if name.upper().startswith("LIST") or "%" in name:
        raise refuse(path, "UNSUPPORTED_ENCODING", f"{LAST_FIELD} = {name}: many files of voxels; save them as one")
    return voxel_file(path, name), 0
