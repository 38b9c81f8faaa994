"""Synthetic abdominal CT with a liver and tumors whose place, size and Hounsfield values are known.

Phantoms let every command run without patient data. They are drawn from ellipsoids, so a network that segments them
well has shown that the code works, and nothing about patients.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from liver_pipeline.io.files import whole_file
from liver_pipeline.labels import LIVER, TUMOR

# Mean Hounsfield values in the portal-venous phase, rounded from textbook ranges.
TISSUE_HU = {
    "air": -1000,
    "fat": -100,
    "muscle": 55,
    "liver": 110,
    "tumor": 20,
    "spleen": 125,
    "kidney": 180,
    "bone": 400,
}


def liver_phantom(
    shape: Sequence[int] = (128, 104, 64),
    spacing: Sequence[float] = (3.0, 3.0, 5.0),
    *,
    n_tumors: int = 3,
    noise_hu: float = 12.0,
    seed: int = 0,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Draw one abdomen.

    Args:
        shape: Voxels along R, A, S.
        spacing: Voxel size in mm along R, A, S. The field of view should be about 380 x 310 x 300 mm.
        n_tumors: Tumors inside the liver, radius 10 to 26 mm; 0 gives a tumor-free liver.
        noise_hu: Standard deviation of the noise in HU.
        seed: Seeds position, size and noise.

    Returns:
        Image in HU, int16, and label map (0 background, 1 liver, 2 tumor), uint8; both of shape ``shape``.
    """
    rng = np.random.default_rng(seed)
    mm = np.meshgrid(
        *((np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)),
        indexing="ij",
        sparse=True,
    )
    jitter = rng.uniform(-8, 8, size=3)

    def ball(center: npt.ArrayLike, radii: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Signed distance-like value, below 1 inside the ellipsoid; centre and radii in mm."""
        steps = zip(mm, np.asarray(center), np.asarray(radii), strict=True)
        value: npt.NDArray[np.float32] = sum(((m - c) / r) ** 2 for m, c, r in steps)
        return value

    image = np.full(shape, TISSUE_HU["air"], dtype=np.float32)
    image[ball((0, 0, 0), (175, 130, 1e4)) < 1] = TISSUE_HU["fat"]
    image[ball((0, 0, 0), (158, 113, 1e4)) < 1] = TISSUE_HU["muscle"]
    image[ball((0, -70, 0), (22, 22, 1e4)) < 1] = TISSUE_HU["bone"]
    image[ball((-95, -25, 30), (32, 45, 55)) < 1] = TISSUE_HU["spleen"]
    for side in (-60, 60):
        image[ball((side, -55, -50), (24, 26, 52)) < 1] = TISSUE_HU["kidney"]

    scale = rng.uniform(0.9, 1.1)
    center = np.array([70, 5, 30]) + jitter
    radii = np.array([72, 82, 78]) * scale
    left = np.array([5, 42, 45]) + jitter
    liver = (ball(center, radii) < 1) | (ball(left, np.array([62, 38, 40]) * scale) < 1)
    image[liver] = TISSUE_HU["liver"]
    label = liver.astype(np.uint8) * LIVER
    for _ in range(n_tumors):
        direction = rng.normal(size=3)
        place = center + direction / np.linalg.norm(direction) * radii * rng.uniform(0.1, 0.6)
        tumor = (ball(place, np.full(3, rng.uniform(10, 26))) < 1) & liver
        image[tumor] = TISSUE_HU["tumor"]
        label[tumor] = TUMOR
    image = ndimage.gaussian_filter(image, sigma=[1.2 / s for s in spacing])  # scanner blur of about 3 mm FWHM
    image += rng.normal(scale=noise_hu, size=image.shape)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), label


def save_phantom(
    folder: str | Path,
    number: int,
    *,
    label_folder: str | Path | None = None,
    affine: npt.ArrayLike | None = None,
    spacing: Sequence[float] = (3.0, 3.0, 5.0),
    **options: Any,
) -> None:
    """Write ``volume-N.nii.gz`` and ``segmentation-N.nii.gz``, as LiTS names them, each whole or not at all.

    Args:
        folder: Where the volume goes; made when it does not exist.
        number: N in the file names, and the seed.
        label_folder: Where the segmentation goes; default is ``folder``.
        affine: Voxel to RAS in mm; default is diagonal with ``spacing``.
        spacing: Voxel size in mm along the axes.
        options: Passed to :func:`liver_phantom`.
    """
    image, label = liver_phantom(spacing=spacing, seed=number, **options)
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    for array, path in zip((image, label), _paths(folder, number, label_folder), strict=True):
        nifti = nib.Nifti1Image(array, affine)
        nifti.header.set_xyzt_units("mm")
        nifti.set_qform(affine, code=1)
        nifti.set_sform(affine, code=1)
        with whole_file(path) as temporary:
            temporary.write_bytes(gzip.compress(nifti.to_bytes(), 6, mtime=0))


def draw_phantom(folder: str | Path, number: int, *, label_folder: str | Path | None = None, **options: Any) -> None:
    """Write a phantom as :func:`save_phantom` does, unless it is there.

    Raises:
        FileExistsError: If one of its two files is there alone and is not of this phantom: it may be somebody's scan.
    """
    paths = _paths(folder, number, label_folder)
    there = [path for path in paths if path.exists()]
    if len(there) == 2:
        return
    if there:  # a killed process may have left one of them
        drawn: list[npt.NDArray[Any]] = [*liver_phantom(seed=number, **options)]
        if not _holds(there[0], drawn[paths.index(there[0])]):
            raise FileExistsError(f"{there[0]} is no phantom drawn here; name another folder for the phantoms")
    save_phantom(folder, number, label_folder=label_folder, **options)


def _paths(folder: str | Path, number: int, label_folder: str | Path | None) -> tuple[Path, Path]:
    return Path(folder) / f"volume-{number}.nii.gz", Path(label_folder or folder) / f"segmentation-{number}.nii.gz"


def _holds(path: Path, array: npt.NDArray[Any]) -> bool:
    """Tell whether a file holds these voxels; one that cannot be read does not."""
    try:
        return np.array_equal(np.asanyarray(nib.load(path).dataobj), array)
    except Exception:
        return False


def make_phantom_dataset(dataset_dir: str | Path, n_cases: int = 8, **options: Any) -> Path:
    """Write ``n_cases`` phantoms in LiTS layout; the last one has no tumor. Cases that exist are kept.

    Returns:
        The dataset folder.

    Raises:
        FileExistsError: See :func:`draw_phantom`.
    """
    dataset_dir = Path(dataset_dir)
    for number in range(n_cases):
        tumors = {"n_tumors": 0} if number == n_cases - 1 else {}
        draw_phantom(dataset_dir, number, **{**options, **tumors})
    return dataset_dir
