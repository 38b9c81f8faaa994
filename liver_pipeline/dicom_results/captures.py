"""Pictures of a mask as secondary captures: for archives and screens that show no SEG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import RLELossless

from liver_pipeline.dicom_results.origin import Origin
from liver_pipeline.dicom_results.segmentation import MANUFACTURER, stamp
from liver_pipeline.dicom_results.source import SourceSeries
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import LabelMap
from liver_pipeline.visualize.contours import draw_outlines
from liver_pipeline.visualize.pictures import HU_WINDOW

CAPTURE_SERIES = 9003
LEAST_PIXELS = 512  # of the longer side: below it the text would not fit
WARNING = "RESEARCH, NOT FOR DIAGNOSIS"
TEXT_PIXELS = 15


def build_captures(
    scan: Scan, label_map: LabelMap, source: SourceSeries, origin: Origin, table: Mapping[str, Any]
) -> Iterator[Any]:
    """Draw the slices that show liver or tumor, with outlines, volumes and a warning; without any, the middle one.

    Args:
        scan: Voxels on the grid of the series; a CT is shown at the liver's window, anything else from its first to its
            99th percentile.
        label_map: Labels (X, Y, Z) along the axes of the series.
        source: The series.
        origin: Where the labels come from.
        table: Result of :func:`liver_pipeline.evaluation.description.describe_label_map`.

    Yields:
        One RGB image a slice, run-length encoded.
    """
    planes = np.flatnonzero(label_map.any(axis=(0, 1))).tolist() or [source.shape[2] // 2]
    low, high = HU_WINDOW if source.modality != "MR" else _range_of(scan)
    times = math.ceil(LEAST_PIXELS / max(source.shape[:2]))
    for number, plane in enumerate(planes, 1):
        values = scan.array[:, :, plane].T.astype(np.float64) * scan.slope + scan.intercept
        grey = (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        lines = [*_lines(table, origin), f"slice {plane + 1} of {source.shape[2]}"]
        picture = _drawn(_enlarged(grey, times), _enlarged(label_map[:, :, plane].T, times), lines)
        header = source.headers[plane]
        capture = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=header,
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=origin.uid("capture series"),
            series_number=CAPTURE_SERIES,
            sop_instance_uid=origin.uid(f"capture {plane}"),
            instance_number=number,
            manufacturer=MANUFACTURER,
            pixel_spacing=tuple(float(value) / times for value in header.PixelSpacing),
            patient_orientation=tuple(_side(header.ImageOrientationPatient[i : i + 3]) for i in (0, 3)),
            transfer_syntax_uid=RLELossless,
            series_description="Liver and tumor outlines, research, not for diagnosis",
        )
        capture.BodyPartExamined = "LIVER"
        stamp(capture, origin)
        yield capture


def _range_of(scan: Scan) -> tuple[float, float]:
    low, high = np.percentile(scan.array[::4, ::4], (1, 99)) * scan.slope + scan.intercept
    return float(low), max(float(high), float(low) + 1e-6)


def _enlarged(plane: npt.NDArray[np.uint8], times: int) -> npt.NDArray[np.uint8]:
    return plane.repeat(times, axis=0).repeat(times, axis=1)


def _drawn(grey: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], lines: list[str]) -> npt.NDArray[np.uint8]:
    """Return grey values (rows, columns) as RGB with outlines, the warning below, the other lines above."""
    picture = np.repeat(grey[..., None], 3, axis=-1)
    draw_outlines(picture, labels)
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT_PIXELS)
    look: dict[str, Any] = {"font": font, "fill": "white", "stroke_width": 1, "stroke_fill": "black"}
    for number, line in enumerate(lines):
        draw.text((6, 4 + number * (TEXT_PIXELS + 4)), line, **look)
    draw.text((6, image.height - TEXT_PIXELS - 8), WARNING, **look | {"fill": "yellow"})
    return np.asarray(image)


def _lines(table: Mapping[str, Any], origin: Origin) -> list[str]:
    """Return what is written on each picture."""
    liver = table["liver"]
    whole = liver["liver_with_tumor_ml"]
    lines = [
        f"{MANUFACTURER} {version('liver-pipeline')}",
        "no liver found" if whole is None else f"liver with tumor {whole:.0f} ml",
    ]
    if 2 in origin.labels:
        lines.append(f"tumor {liver['tumor_ml']:.1f} ml in {liver['lesion_count']} lesions")
    if liver["truncated"]:
        lines.append("cut by the edge of the scan: volumes are lower bounds")
    if origin.quality.get("flagged"):
        lines.append("doubtful: see the report before use")
    return lines


def _side(direction: Any) -> str:
    """Return the letter of the side of the patient that a direction (LPS) points to."""
    axis = int(np.abs(np.array(direction, dtype=np.float64)).argmax())
    return ("LPH" if float(direction[axis]) > 0 else "RAF")[axis]
