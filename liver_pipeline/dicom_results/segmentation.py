"""A mask as DICOM SEG."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from liver_pipeline.dicom_results.origin import Origin
from liver_pipeline.dicom_results.source import SourceSeries
from liver_pipeline.labels import LabelMap
from liver_pipeline.visualize.colours import CLASS_RGB

MANUFACTURER = "liver-pipeline"
SEGMENTATION_SERIES = 9001


def build_segmentation(
    label_map: LabelMap, source: SourceSeries, origin: Origin, *, seg_type: str = "binary", deflate: bool = False
) -> Any:
    """Return the labels of a mask as a Segmentation that refers to the series.

    Liver is segment 1, without the tumors in it; tumor is segment 2. A segment without voxels stays listed: it was
    looked for. The distance of planes is the measured one, whatever SpacingBetweenSlices of the series says.

    Args:
        label_map: Labels 0, 1, 2 (X, Y, Z) along the axes of the series.
        source: The series.
        origin: Where the labels come from.
        seg_type: "binary", one bit a voxel and segment; or "labelmap" (2024), a byte a voxel, which few archives take.
        deflate: Pack the whole file with deflate: a fiftieth of the size, where the archive takes it.
    """
    kind = {"binary": hd.seg.SegmentationTypeValues.BINARY, "labelmap": hd.seg.SegmentationTypeValues.LABELMAP}
    packed = seg_type == "labelmap" and not deflate
    segmentation = hd.seg.Segmentation(
        source_images=list(source.headers),
        pixel_array=np.ascontiguousarray(label_map.transpose(2, 1, 0)),
        segmentation_type=kind[seg_type],
        segment_descriptions=[_segment(label, origin) for label in origin.labels],
        series_instance_uid=origin.uid(f"{seg_type} series"),
        series_number=SEGMENTATION_SERIES,
        sop_instance_uid=origin.uid(seg_type),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=version("liver-pipeline"),
        device_serial_number=origin.weights or "unknown",
        content_description="Liver and liver tumors",
        content_label="LIVER_TUMOR",
        content_creator_name=f"{MANUFACTURER}^",
        series_description="Liver and tumor, research, not for diagnosis",
        transfer_syntax_uid=RLELossless if packed else ExplicitVRLittleEndian,
        omit_empty_frames=bool(label_map.any()),  # of an empty mask highdicom keeps all, with words on the screen
    )
    if deflate:  # highdicom knows it not; the pixels are as they were
        segmentation.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dimensions = origin.uid("dimensions")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    stamp(segmentation, origin)
    return segmentation


def stamp(result: Any, origin: Origin) -> None:
    """Date a result by when its mask was made, so that it can be made again to the byte; names go as UTF-8."""
    result.SpecificCharacterSet = "ISO_IR 192"
    day, time = origin.made.strftime("%Y%m%d"), origin.made.strftime("%H%M%S")
    for name, value in (("Date", day), ("Time", time)):
        for what in (f"Content{name}", f"Series{name}", f"{name}OfSecondaryCapture"):
            if what in result:
                setattr(result, what, value)
        setattr(result, f"InstanceCreation{name}", value)
    for equipment in result.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = day + time


def _segment(label: int, origin: Origin) -> Any:
    """Describe liver or tumor."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER,
        family=codes.DCM.ArtificialIntelligence,
        version=version("liver-pipeline"),
        parameters={"weights": origin.weights, "settings": origin.settings} if origin.weights else None,
    )
    shared: Any = {
        "segment_number": label,
        "algorithm_type": "AUTOMATIC" if origin.automatic else "SEMIAUTOMATIC",
        "algorithm_identification": algorithm,
        "tracking_uid": origin.uid(f"segment {label}"),
        "display_color": hd.color.CIELabColor.from_rgb(*CLASS_RGB[label]),
    }
    if label == 1:
        return hd.seg.SegmentDescription(
            segment_label="Liver",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Liver,
            tracking_id="Liver without tumor",
            **shared,
        )
    return hd.seg.SegmentDescription(
        segment_label="Tumor",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        anatomic_regions=[codes.SCT.Liver],
        tracking_id="Liver tumor",
        **shared,
    )
