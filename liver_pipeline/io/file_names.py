"""What the name of a file says: that it is a scan, of which case, or what lies beside a mask."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

# Of scans.
PACKED = (".nii.bz2", ".nii.xz", ".nii.zst")  # not read; reading says so, which is better than to pass them over
NO_SLICES = (".nii.gz", ".nii", ".zip", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")  # nobody names a slice so
SCAN_SUFFIXES = (*NO_SLICES, ".hdr.gz", ".hdr", ".img.gz", ".img", *PACKED)
VOLUME_SUFFIXES = tuple(suffix for suffix in SCAN_SUFFIXES if suffix != ".zip")
VOXELS_OF_PAIRS = (".img.gz", ".img")  # of two files the header stands for both
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

# Of masks.
FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha"}  # what `format` may be, and what masks then end in
PICTURE_MASK = ".png"  # of a picture, whatever the format of other masks
MASK_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", PICTURE_MASK)
NO_MASKS = (".dcm", ".tif", ".tiff", ".npy", ".npz", ".json", ".csv", ".txt", ".gzip")  # nobody names a folder so
STALE = ".stale"  # stands before the suffix of what an earlier run wrote for a case that has failed since
EDITED = ".edited"  # stands before the suffix of what belongs to a mask that was corrected in the app

# Of what lies beside the mask <case>.nii.gz, or was made of one.
PROBABILITIES = ".probabilities.nii.gz"
RECORD, DESCRIPTION, SCORES, PAGE = ".json", ".description.json", ".scores.json", ".html"
CAPTURES = ".sc"  # a folder of secondary captures
DICOM_ENDINGS = {"seg": ".seg.dcm", "sr": ".sr.dcm", "sc": CAPTURES}
SLICER = ".seg.nrrd"  # a segmentation of 3D Slicer
RESULT_ENDINGS = (PROBABILITIES, SLICER, *(f"{kind}{s}" for kind in (STALE, EDITED) for s in MASK_SUFFIXES))

NAME_BYTES = 255  # of a file's name, on most file systems


def case_name(name: str, is_folder: bool = False) -> str:
    """Return ``name`` without the suffix of a scan, accents in one form (NFC); that of a DICOM folder is kept whole.

    Example:
        >>> case_name("b/a.1.nii.gz"), case_name("a.seg.nrrd"), case_name("1.nii", is_folder=True)
        ('b/a.1', 'a', '1.nii')
    """
    name = unicodedata.normalize("NFC", name)
    if is_folder:
        return name
    known = (SLICER, *SCAN_SUFFIXES, *PICTURE_SUFFIXES)
    return next((name[: -len(s)] for s in known if name.lower().endswith(s) and len(name) > len(s)), name)


def lits_case_name(case: str) -> str:
    """Return the case that a label map belongs to, by the name of its file.

    LiTS numbers its scans ``volume-12`` and its references ``segmentation-12``: both are case ``volume-12``. Any other
    file is a case of its own.

    Example:
        >>> lits_case_name("batch_1/segmentation-012"), lits_case_name("liver_3")
        ('batch_1/volume-12', 'liver_3')
    """
    folder, slash, stem = case.rpartition("/")
    lits = re.fullmatch(r"(test-)?(volume|segmentation)-(\d+)", stem)
    return f"{folder}{slash}{lits[1] or ''}volume-{int(lits[3])}" if lits else case


def fitting_name(stem: str, ending: str) -> str:
    """Return ``stem + ending``; where that is longer than file systems allow, a hash takes the place of the stem's end.

    Example:
        >>> fitting_name("a.1", ".nii.gz"), len(fitting_name("x" * 300, ".nii.gz"))
        ('a.1.nii.gz', 255)
    """
    room = NAME_BYTES - len(os.fsencode(ending))
    whole = os.fsencode(stem)
    if len(whole) <= room:
        return stem + ending
    digest = hashlib.sha256(whole).hexdigest()[:12]
    return f"{whole[: room - 13].decode('utf-8', 'ignore')}~{digest}{ending}"


def file_beside(mask: Path, ending: str) -> Path:
    """Return where the file lies that ends so and belongs to a mask; see :func:`fitting_name`.

    Example:
        >>> file_beside(Path("a.1.nii.gz"), RECORD).name
        'a.1.json'
    """
    return mask.with_name(fitting_name(case_name(mask.name), ending))
