"""What a viewer's page shows: scan and label maps in eight bits along RAS axes, as much of them as a page can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import Box, joint_box, shifted, widen
from liver_pipeline.io.nifti import nifti_bytes
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.volumes import Scan

MAX_SIDE = 2048  # voxels; what GPUs take along one axis of a texture
MAX_VOXELS = 2**26  # NiiVue keeps four bytes a voxel on the GPU for each volume of each panel
MAX_BYTES = 30_000_000  # of all volumes, compressed; base64 makes them 40 MB of the page
SHOWN_MARGIN_MM = 30.0  # around the liver, where the whole scan would be too much
HU_SHOWN = (-200.0, 400.0)  # soft tissue and filled vessels; 255 steps of 2.4 HU, well below a CT's noise
SHARES_SHOWN = (0.5, 99.8)  # percentiles of an MR scan's values


@dataclass(frozen=True)
class Shown:
    """Volumes of one page on one grid.

    Attributes:
        volumes: "scan", "mask", "reference", "contours" to uint8 (X, Y, Z), axes along right, anterior, superior.
        affine: Voxel index to RAS mm, of all of them.
        low: Value of the scan's grey level 0; HU of a CT.
        high: Value of its level 255.
        in_hu: Whether the scan's values are HU.
        box: What of the scan is shown, in its voxels along these axes.
        cropped: Whether that is only the liver and what is around it.
        steps: How many of the scan's voxels one voxel of the page stands for, along each axis.
    """

    volumes: Mapping[str, npt.NDArray[np.uint8]]
    affine: Affine
    low: float
    high: float
    in_hu: bool
    box: Box
    cropped: bool = False
    steps: tuple[int, int, int] = (1, 1, 1)

    def nifti(self, name: str) -> bytes:
        """Return one volume as a ``.nii.gz`` whose scale gives back values; its display window is all of them."""
        array = self.volumes[name]
        header = nib.Nifti1Header()
        header.set_data_shape(array.shape)
        header.set_data_dtype(np.uint8)
        header.set_xyzt_units("mm")
        header.set_qform(self.affine, code=1, strip_shears=True)
        header.set_sform(self.affine, code=1)
        header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
        if name == "scan":
            header["scl_slope"], header["scl_inter"] = (self.high - self.low) / 255, self.low
            header["cal_min"], header["cal_max"] = self.low, self.high
        return nifti_bytes(array, header)


def shown_volumes(scan: Scan, labels: Mapping[str, npt.NDArray[np.uint8]]) -> Shown:
    """Return scan and label maps as a page can hold them.

    Args:
        scan: A CT or MR.
        labels: "mask", "reference" and "contours", each as the scan lies along RAS axes.

    Returns:
        All of it, or where that is more than a page or a GPU can hold, the box of the liver with a margin; where there
        is no liver, or that is still too much, with several voxels in one: the mean of the scan, the greatest label, so
        that no lesion vanishes.
    """
    array, affine = to_ras(scan)
    in_hu = scan.modality != "MR" and all(finding.code not in ("HU_SCALE", "MODALITY") for finding in scan.findings)
    low, high = HU_SHOWN if in_hu else _range_of(array, scan.slope, scan.intercept)
    everything = (slice(0, array.shape[0]), slice(0, array.shape[1]), slice(0, array.shape[2]))
    shown = Shown({"scan": _levels(array, scan, low, high), **labels}, affine, low, high, in_hu, everything)
    maps = [labels[name] for name in labels if name != "contours"]
    if not _fits(shown) and (box := joint_box(*maps) if maps else None):
        shown = _cut(shown, widen(box, SHOWN_MARGIN_MM, spacing_of(affine), array.shape))
    while not _fits(shown):
        shown = _coarser(shown)
    return shown


def encoded(shown: Shown) -> dict[str, bytes]:
    """Return each volume as a compressed NIfTI file."""
    return {name: shown.nifti(name) for name in shown.volumes}


def _fits(shown: Shown) -> bool:
    shape = shown.volumes["scan"].shape
    if max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        return False
    return math.prod(shape) <= MAX_BYTES or sum(map(len, encoded(shown).values())) <= MAX_BYTES


def _range_of(array: npt.NDArray[Any], slope: float, intercept: float) -> tuple[float, float]:
    sample = array[tuple(slice(None, None, max(1, side // 64)) for side in array.shape)]
    values = sample.astype(np.float64) * slope + intercept
    low, high = np.percentile(values[np.isfinite(values)], SHARES_SHOWN)
    return float(low), float(max(high, low + 1e-6))


def _levels(array: npt.NDArray[Any], scan: Scan, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Return values as levels 0 to 255, plane by plane: no float volume at full size."""
    levels = np.empty(array.shape, dtype=np.uint8, order="F")
    for z in range(array.shape[2]):
        values = np.nan_to_num(array[:, :, z].astype(np.float32) * np.float32(scan.slope) + np.float32(scan.intercept))
        levels[:, :, z] = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
    return levels


def _cut(shown: Shown, box: Box) -> Shown:
    volumes = {name: array[box] for name, array in shown.volumes.items()}
    cropped = volumes["scan"].shape != shown.volumes["scan"].shape
    return replace(shown, volumes=volumes, affine=shifted(shown.affine, box), box=box, cropped=cropped)


def _coarser(shown: Shown) -> Shown:
    """Join two voxels in one along the axes on which voxels are smallest."""
    spacing = spacing_of(shown.affine)
    x, y, z = (2 if edge < 1.5 * min(spacing) else 1 for edge in spacing)
    volumes = {name: _joined(array, (x, y, z), name == "scan") for name, array in shown.volumes.items()}
    affine = shown.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (np.array([x, y, z]) - 1) / 2  # the centre of the first joined voxel
    affine[:3, :3] *= (x, y, z)
    a, b, c = shown.steps
    return replace(shown, volumes=volumes, affine=affine, steps=(a * x, b * y, c * z))


def _joined(array: npt.NDArray[np.uint8], steps: Sequence[int], averaged: bool) -> npt.NDArray[np.uint8]:
    for axis, step in enumerate(steps):
        if step == 2:
            odd = [(0, array.shape[other] % 2 if other == axis else 0) for other in range(3)]
            even = np.pad(array, odd, mode="edge")
            one, two = (even[tuple(slice(k if n == axis else 0, None, 2 if n == axis else 1) for n in range(3))]
                        for k in (0, 1))  # fmt: skip
            array = (one // 2 + two // 2 + (one & two & 1)) if averaged else np.maximum(one, two)
    return array
