"""Small pictures of a prediction over its reference: one slice per case, one thumbnail per lesion that went wrong.

Axial slices as radiologists see them: the patient's right is on the left, anterior is up.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import joint_box
from liver_pipeline.labels import LabelMap, Scaled
from liver_pipeline.visualize.colours import CONTOUR_RGB, PREDICTION_RGB, REFERENCE_RGB
from liver_pipeline.visualize.contours import outline, slice_contours

HU_WINDOW = (-100.0, 200.0)
CASE_PIXELS, LESION_PIXELS = 340, 132
LESION_MARGIN_MM = 18.0
WRONG = ("missed", "invented")

Image = npt.NDArray[np.uint8]
ClassLevels = Mapping[str, npt.NDArray[np.uint8]]


def case_picture(
    pred: LabelMap,
    label: LabelMap,
    spacing: Sequence[float],
    scan: Scaled | None = None,
    levels: ClassLevels | None = None,
) -> dict[str, Any]:
    """Draw one case.

    Args:
        pred: Predicted labels, shape (X, Y, Z), axes along right, anterior, superior.
        label: Reference labels of the same shape.
        spacing: Voxel size in mm.
        scan: Values, slope and intercept of the CT on the same grid; without it the reference is shaded.
        levels: round(255 p) of "liver" and "tumor" on the same grid; the slice of the case gets their contours.

    Returns:
        ``case``: PNG bytes of the slice with most tumor (or liver), or None for empty maps; ``slice``; ``contours``:
        whether it has them.
    """
    box = joint_box(pred, label)
    fullest = None if box is None else fullest_slice(pred[box], label[box])
    if box is None or fullest is None:
        return {"case": None, "slice": None, "contours": False}
    z = fullest + box[2].start
    window = _widened(box[:2], 12.0, spacing, pred.shape)
    png = _slice_png(pred, label, z, window, spacing, CASE_PIXELS, scan, levels)
    return {"case": png, "slice": z, "contours": levels is not None}


def lesion_pictures(
    pred: LabelMap,
    label: LabelMap,
    spacing: Sequence[float],
    lesions: Sequence[Mapping[str, Any]],
    scan: Scaled | None = None,
) -> list[tuple[Mapping[str, Any], bytes]]:
    """Draw the lesions of a case that were missed or invented.

    Args:
        pred: As for :func:`case_picture`.
        label: Likewise.
        spacing: Voxel size in mm.
        lesions: Rows of ``lesion_list``.
        scan: As for :func:`case_picture`.

    Returns:
        Their rows, each with a PNG.
    """
    return [(row, _thumbnail(pred, label, spacing, row, scan)) for row in lesions if row["status"] in WRONG]


def fullest_slice(*label_maps: LabelMap) -> int | None:
    """Return the slice with most voxels that one of the maps calls tumor; liver where there is no tumor; None if empty.

    Args:
        label_maps: Of one shape (X, Y, Z).
    """
    for value in (2, 1):
        areas = np.logical_or.reduce([labels >= value for labels in label_maps]).sum(axis=(0, 1))
        if areas.any():
            return int(areas.argmax())
    return None


def _thumbnail(
    pred: LabelMap, label: LabelMap, spacing: Sequence[float], row: Mapping[str, Any], scan: Scaled | None
) -> bytes:
    """The slice of a lesion's longest diameter, cut out around the lesion."""
    (x0, x1), (y0, y1), _ = row["box"]
    half = max((x1 - x0 + 1) * spacing[0], (y1 - y0 + 1) * spacing[1]) / 2
    centre = ((x0 + x1 + 1) / 2 * spacing[0], (y0 + y1 + 1) / 2 * spacing[1])
    reach = half + LESION_MARGIN_MM
    window = tuple(
        slice(max(0, int((middle - reach) / size)), min(count, int(np.ceil((middle + reach) / size))))
        for middle, size, count in zip(centre, spacing, pred.shape, strict=False)
    )
    return _slice_png(pred, label, row["slice"], window, spacing, LESION_PIXELS, scan)


def _widened(
    box: Sequence[slice], margin_mm: float, spacing: Sequence[float], shape: Sequence[int]
) -> tuple[slice, ...]:
    steps = [int(np.ceil(margin_mm / size)) for size in spacing[:2]]
    return tuple(
        slice(max(0, axis.start - step), min(size, axis.stop + step))
        for axis, step, size in zip(box, steps, shape, strict=False)
    )


def _slice_png(
    pred: LabelMap,
    label: LabelMap,
    z: int,
    window: tuple[slice, ...],
    spacing: Sequence[float],
    pixels: int,
    scan: Scaled | None,
    levels: ClassLevels | None = None,
) -> bytes:
    """Draw a window of slice ``z`` with both outlines over the contours; the longer side gets ``pixels`` pixels."""
    columns, rows = _sampling(window, spacing, pixels)
    pick = np.ix_(columns, rows)
    here, there = pred[..., z][pick], label[..., z][pick]
    grey = _shade(there) if scan is None else _windowed(scan, z, pick)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    if levels is not None:
        lines = slice_contours({name: array[..., z][pick] for name, array in levels.items()})
        for value, colour in CONTOUR_RGB.items():
            picture[lines == value] = colour
    for labels, colour in ((there, REFERENCE_RGB), (here, PREDICTION_RGB)):
        picture[outline(labels >= 1)] = (0.45 * picture[outline(labels >= 1)] + 0.55 * np.array(colour)).astype(
            np.uint8
        )
    for labels, colour in ((there, REFERENCE_RGB), (here, PREDICTION_RGB)):
        picture[outline(labels == 2)] = colour
    upright = np.ascontiguousarray(picture.transpose(1, 0, 2))
    file = io.BytesIO()
    from matplotlib.image import imsave  # here: takes half a second to import

    imsave(file, upright, format="png")
    return file.getvalue()


def _sampling(
    window: tuple[slice, ...], spacing: Sequence[float], pixels: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Voxel indices of picture columns (right to left) and rows (anterior to posterior), square pixels."""
    lengths = [(axis.stop - axis.start) * size for axis, size in zip(window, spacing, strict=False)]
    step = max(lengths) / pixels
    indices = []
    for axis, size, length in zip(window, spacing, lengths, strict=False):
        centres = (np.arange(max(1, round(length / step))) + 0.5) * step / size
        indices.append(np.clip(axis.start + centres.astype(np.intp), axis.start, axis.stop - 1)[::-1])
    return indices[0], indices[1]


def _shade(label: LabelMap) -> Image:
    """Grey levels of the reference, where there is no CT."""
    return np.array([24, 78, 128], dtype=np.uint8)[label]


def _windowed(scan: Scaled, z: int, pick: tuple[npt.NDArray[np.intp], ...]) -> Image:
    """HU of a slice inside the liver window as grey levels."""
    hu = scan.values(scan.array[..., z][pick])
    return (np.clip((hu - HU_WINDOW[0]) / (HU_WINDOW[1] - HU_WINDOW[0]), 0, 1) * 255).astype(np.uint8)
