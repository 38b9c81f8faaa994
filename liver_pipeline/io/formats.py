"""Which reader a file is for, by its content."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from PIL import Image, UnidentifiedImageError

from liver_pipeline.io.dicom import files_of, read_series
from liver_pipeline.io.dicom_classes import PREAMBLE, class_in
from liver_pipeline.io.dicom_files import series_sha256
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.metaimage import metaimage_header
from liver_pipeline.io.mgh import MAGIC as MGH_MAGIC
from liver_pipeline.io.mgh import peek_mgh, read_mgh
from liver_pipeline.io.nifti import peek, read_nifti
from liver_pipeline.io.nrrd import nrrd_header
from liver_pipeline.io.pairs import is_pair, pair_sha256, peek_pair, read_pair
from liver_pipeline.io.paths import refuse_pipe
from liver_pipeline.io.raw import RawHeader, joined_sha256, read_raw
from liver_pipeline.io.streams import GZIP_MAGIC, StoredVolume, begins_with
from liver_pipeline.io.zips import ZIP_MAGIC, is_zip, unzipped_bytes

PICTURE_MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
TEXT_HEADERS: dict[str, Callable[[Path], RawHeader]] = {"nrrd": nrrd_header, "metaimage": metaimage_header}


def read_stored(
    path: Path,
    *,
    accept: Collection[str] = (),
    series: str | None = None,
    labels: bool = False,
    orientation: str | None = None,
) -> StoredVolume:
    """Read a file, or a folder of DICOM slices, in whichever format it is.

    Args:
        path: Where it is.
        accept: Codes of errors to take as warnings, for checks that have to pass before voxels are read.
        series: Which of several DICOM series; see :func:`liver_pipeline.io.dicom_series.choose_series`.
        labels: Whether it is a label map.
        orientation: Of an Analyze file; see :func:`liver_pipeline.io.pairs.read_pair`.

    Raises:
        IntakeError: With the code of what is wrong with the file.
        OSError: If it cannot be read.
    """
    kind = sniff(path)
    if kind == "picture":
        detail = "a picture has no HU, no millimetres and one slice: runs of 2D networks (roi_size [X, Y, 1]) take it"
        raise refuse(path, "PICTURE", detail)
    if kind in ("folder", "dicom"):
        return read_series(path, accept=accept, series=series, labels=labels)
    if kind in TEXT_HEADERS:
        return read_raw(path, TEXT_HEADERS[kind](path))
    if kind == "mgh":
        return read_mgh(path)
    return read_pair(path, orientation) if kind == "pair" else read_nifti(path)


def peek_stored(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape (X, Y, Z) and voxel type of a file that is not DICOM, without reading voxels.

    Raises:
        IntakeError: With the code of what is wrong with the header.
        OSError: If it cannot be read.
    """
    kind = sniff(path)
    if kind in TEXT_HEADERS:
        header = TEXT_HEADERS[kind](path)
        return header.shape, header.dtype
    return {"mgh": peek_mgh, "pair": peek_pair}.get(kind, peek)(path)


def voxel_count(path: Path, series: str | None = None) -> tuple[int, int]:
    """Return number of voxels and bytes a voxel, from the header or (DICOM) the size on disk; (0, 0) if unreadable.

    Of several DICOM series in a folder ``series`` names one.
    """
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in files_of(path, series)) // 2, 2
        kind = sniff(path)
        if kind == "dicom":
            return (unzipped_bytes(path) if is_zip(path) else path.stat().st_size) // 2, 2
        if kind == "picture":
            with opened_picture(path) as picture:  # the header alone
                return math.prod(picture.size), 3
        shape, dtype = peek_stored(path)
        return math.prod(shape), dtype.itemsize
    except Exception:  # reading will say what is wrong with it
        return 0, 0


def stored_sha256(path: Path, series: str | None = None) -> str:
    """Return the hash that reading will give: of the file or its two files, or over the slices of a folder.

    Of several DICOM series in a folder ``series`` names one.

    Raises:
        OSError: If it cannot be read.
    """
    kind = sniff(path)
    try:
        if kind in TEXT_HEADERS:
            return joined_sha256(path, TEXT_HEADERS[kind](path))
        if kind == "pair":
            return pair_sha256(path)
        if kind == "folder" and series is not None:
            return series_sha256(path, files_of(path, series))
    except IntakeError:  # reading will say why; until then the header alone, or all of a folder, stands for it
        pass
    return series_sha256(path)


def hash_input(path: Path, series: str | None = None) -> str | None:
    """Return the hash of an input, or of one of its DICOM series; ``None`` where it cannot be read."""
    with suppress(OSError):
        return stored_sha256(path, series)
    return None


def sniff(path: Path) -> str:
    """Return folder, dicom (a zip, too), picture, nrrd, metaimage, mgh, pair or nifti (which it may still not be).

    The first bytes decide; only header and voxels in two files go by their names.

    Raises:
        OSError: If it cannot be read, or is no regular file.
    """
    if path.is_dir():
        return "folder"
    refuse_pipe(path)
    with path.open("rb") as file:
        head = file.read(PREAMBLE)
    if head.startswith(ZIP_MAGIC) or (head and class_in(head) is not None):
        return "dicom"
    if head.startswith(PICTURE_MAGICS):
        return "picture"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if _is_metaimage(head):
        return "metaimage"
    if head.startswith(MGH_MAGIC) or (head.startswith(GZIP_MAGIC) and _inflated_start(head) == MGH_MAGIC):
        return "mgh"
    return "pair" if is_pair(path) else "nifti"


def is_picture(path: Path) -> bool:
    """Tell whether a file is a PNG or JPG, by its first bytes.

    Raises:
        OSError: If it cannot be read.
    """
    return begins_with(path, *PICTURE_MAGICS)


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """Open a PNG or JPG; its pixels are read when they are asked for.

    Raises:
        IntakeError: BAD_HEADER where it says more pixels than a slice can have, or cannot be opened.
        OSError: If it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(path, formats=("PNG", "JPEG"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as reason:
            million = int(Image.MAX_IMAGE_PIXELS or 0) // 10**6
            raise refuse(
                path, "BAD_HEADER", f"more than {million} million pixels; crop or shrink the picture"
            ) from reason
        except UnidentifiedImageError as reason:
            raise refuse(path, "BAD_HEADER", "the picture's header is damaged; copy it again") from reason
    with image:
        yield image


def _is_metaimage(head: bytes) -> bool:
    """Return whether the first line is a field of MetaImage: a word, an equals sign."""
    key, equals, _ = head.partition(b"=")
    return bool(equals) and key.strip() in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType")


def _inflated_start(head: bytes) -> bytes:
    """Return the first four bytes of what gzip holds that begins with ``head``, none where it is damaged."""
    try:
        return bytes(isal_zlib.decompressobj(31).decompress(head, 4))  # 31: gzip
    except Exception:  # the reader will say what is wrong
        return b""
