"""NRRD headers (https://teem.sourceforge.net/nrrd/format.html): ``.nrrd``, and ``.nhdr`` with a file beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.findings import refuse
from liver_pipeline.io.label_names import ValueName
from liver_pipeline.io.raw import FROM_END, RawHeader, checked_shape, header_lines, voxel_file

_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
SPACES = {  # to RAS
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
MODALITIES = {"CT": "CT", "MR": "MR", "DWMRI": "MR"}


def nrrd_header(path: Path) -> RawHeader:
    """Read the header of a NRRD file.

    Raises:
        IntakeError: BAD_HEADER, NOT_3D, NO_AFFINE without space, directions or origin, UNITS, UNSUPPORTED_DTYPE,
            UNSUPPORTED_ENCODING, VOXELS_MISSING.
        OSError: If it cannot be read.
    """
    lines, length = header_lines(path)
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in lines[1:]:
        if line and not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon:
                raise refuse(path, "BAD_HEADER", f"{line[:60]!r} is no field of NRRD; copy the file again")
            if value.startswith("="):  # a pair of somebody's own, which may be called as a field is
                pairs[key.strip().lower()] = value[1:].strip()
            else:
                fields[key.strip().lower()] = value.strip()
    sizes = _integers(path, fields, "sizes")
    if "segment0_id" in pairs and len(sizes) == 4 and sizes[0] > 1:
        detail = f"3D Slicer's segments overlap, in {sizes[0]} layers; export them to a label map, in which none do"
        raise refuse(path, "NOT_3D", detail)
    shape = checked_shape(path, sizes)
    if [len(sizes)] != _integers(path, fields, "dimension"):
        raise refuse(path, "BAD_HEADER", f"dimension {fields['dimension']} and sizes {fields['sizes']}")
    encoding = ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        detail = f"encoding {fields.get('encoding', 'is missing')!r}; save the file as raw or gzip"
        raise refuse(path, "UNSUPPORTED_ENCODING", detail)
    data, start = _voxels(path, fields, length)
    return RawHeader(
        shape, _dtype(path, fields), _affine(path, fields), encoding, data, start, _skip(path, fields, encoding),
        MODALITIES.get(pairs.get("modality", "").upper(), ""), _segment_names(path, pairs),
    )  # fmt: skip


def _segment_names(path: Path, pairs: dict[str, str]) -> tuple[ValueName, ...]:
    """Return the values of 3D Slicer's segments with their names."""
    numbers = [match[1] for key in pairs if (match := re.fullmatch(r"segment(\d+)_id", key))]
    values = {number: pairs.get(f"segment{number}_labelvalue", "1") for number in numbers}  # 1 before Slicer 4.11
    if odd := [value for value in values.values() if not re.fullmatch("[0-9]{1,5}", value)]:
        raise refuse(path, "BAD_HEADER", f"LabelValue of a segment is {odd[0]!r}; save the segmentation again")
    return tuple((int(value), pairs.get(f"segment{number}_name", "")) for number, value in values.items())


def _integers(path: Path, fields: dict[str, str], key: str, default: str | None = None) -> list[int]:
    try:
        return [int(number) for number in (fields[key] if default is None else fields.get(key, default)).split()]
    except (KeyError, ValueError) as reason:
        raise refuse(path, "BAD_HEADER", f"{key} is {fields.get(key, 'missing')!r}") from reason


def _dtype(path: Path, fields: dict[str, str]) -> np.dtype[Any]:
    name = fields.get("type", "").lower()
    kind = next((kind for kind, names in _TYPES.items() if name in names.split("|")), None)
    if kind is None:
        raise refuse(path, "UNSUPPORTED_DTYPE", f"type is {name or 'missing'!r}; export integers or float")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and kind[1] != "1":
        raise refuse(path, "BAD_HEADER", f"endian is {fields.get('endian', 'missing')!r}; expected little or big")
    return np.dtype((order or "") + kind)


def _affine(path: Path, fields: dict[str, str]) -> npt.NDArray[np.float64]:
    space = fields.get("space", "").lower()
    if space not in SPACES:
        detail = f"space is {space or 'missing'!r}; expected one in patient axes, such as left-posterior-superior"
        raise refuse(path, "NO_AFFINE", f"{detail}: restore the geometry")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if units - {"mm", ""}:
        raise refuse(path, "UNITS", f"space units are {', '.join(sorted(units))}; write millimetres")
    rows = [_vectors(path, fields, key) for key in ("space directions", "space origin")]
    directions, origin = rows[0][:3], rows[1]
    if len(rows[0]) < 3 or len(origin) != 1:
        raise refuse(path, "NO_AFFINE", "space directions or space origin do not describe three axes")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(directions).T, origin[0]
    return np.diag([*SPACES[space], 1.0]) @ affine


def _vectors(path: Path, fields: dict[str, str], key: str) -> list[list[float]]:
    text = fields.get(key, "")
    try:
        found = [[float(n) for n in part.split(",")] for part in re.findall(r"\(([^)]*)\)", text)]
    except ValueError as reason:
        raise refuse(path, "BAD_HEADER", f"{key} is {text!r}") from reason
    if not found or any(len(vector) != 3 for vector in found):
        raise refuse(path, "NO_AFFINE", f"{key} is {text or 'missing'!r}: restore the geometry")
    return found


def _voxels(path: Path, fields: dict[str, str], length: int) -> tuple[Path, int]:
    """Return the file of the voxels, and how many bytes of it are header."""
    name = fields.get("data file", fields.get("datafile"))
    if name is None:
        return path, length
    if name.upper().startswith("LIST") or re.search(r"%\d*d", name):
        raise refuse(path, "UNSUPPORTED_ENCODING", f"data file {name!r}: many files of voxels; save them as one")
    return voxel_file(path, name), 0


def _skip(path: Path, fields: dict[str, str], encoding: str) -> int:
    lines, skip = (_integers(path, fields, f"{what} skip", fields.get(f"{what}skip", "0")) for what in ("line", "byte"))
    if lines != [0] or len(skip) != 1 or skip[0] < FROM_END or (skip[0] == FROM_END and encoding != "raw"):
        raise refuse(path, "UNSUPPORTED_ENCODING", f"line skip {lines}, byte skip {skip}; save the file again")
    return skip[0]
