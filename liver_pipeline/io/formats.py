"""Which reader a file is for, by its content."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from PIL import Image, UnidentifiedImageError

from liver_pipeline.io.dicom import read_series
from liver_pipeline.io.dicom_files import series_sha256
from liver_pipeline.io.dicom_headers import sop_class
from liver_pipeline.io.files import refuse_pipe
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.metaimage import metaimage_header
from liver_pipeline.io.mgh import MAGIC as MGH_MAGIC
from liver_pipeline.io.mgh import peek_mgh, read_mgh
from liver_pipeline.io.nifti import peek, read_nifti
from liver_pipeline.io.nrrd import nrrd_header
from liver_pipeline.io.pairs import is_pair, pair_sha256, peek_pair, read_pair
from liver_pipeline.io.raw import RawHeader, joined_sha256, read_raw
from liver_pipeline.io.streams import GZIP_MAGIC, StoredVolume, begins_with
from liver_pipeline.io.zips import ZIP_MAGIC

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
    if is_picture(path):
        detail = "a picture has no HU, no millimetres and one slice: runs of 2D networks (roi_size [X, Y, 1]) take it"
        raise refuse(path, "PICTURE", detail)
    kind = sniff(path)
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


def stored_sha256(path: Path) -> str:
    """Return the hash that reading will give: of the file or its two files, or over the slices of a folder.

    Raises:
        OSError: If it cannot be read.
    """
    kind = sniff(path)
    try:
        if kind in TEXT_HEADERS:
            return joined_sha256(path, TEXT_HEADERS[kind](path))
        if kind == "pair":
            return pair_sha256(path)
    except IntakeError:  # reading will say why; until then the header alone stands for it
        pass
    return series_sha256(path)


def sniff(path: Path) -> str:
    """Return folder, dicom (a zip, too), nrrd, metaimage, mgh, pair or nifti (which it may still turn out not to be).

    The first bytes decide; only header and voxels in two files go by their names.

    Raises:
        OSError: If it cannot be read, or is no regular file.
    """
    if path.is_dir():
        return "folder"
    refuse_pipe(path)
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == ZIP_MAGIC or (head and sop_class(path) is not None):
        return "dicom"
    if head[:7] == b"NRRD000":
        return "nrrd"
    if _is_metaimage(head):
        return "metaimage"
    if head[:4] == MGH_MAGIC or (head[:2] == GZIP_MAGIC and _inflated_start(path) == MGH_MAGIC):
        return "mgh"
    return "pair" if is_pair(path) else "nifti"


def is_picture(path: Path) -> bool:
    """Tell whether a file is a PNG or JPG, by its first bytes.

    Raises:
        OSError: If it cannot be read.
    """
    return begins_with(path, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


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


def _inflated_start(path: Path) -> bytes:
    """Return the first four bytes of what gzip holds, fewer where it is damaged."""
    try:
        with igzip.open(path, "rb") as stream:
            return bytes(stream.read(4))
    except Exception:  # the reader will say what is wrong
        return b""
