"""The clinical table as a DICOM Structured Report (TID 1500) whose measurements refer to the segments (TID 1411)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import highdicom as hd
from pydicom.sr.codedict import codes

from liver_pipeline.dicom_results.origin import Origin
from liver_pipeline.dicom_results.segmentation import MANUFACTURER, stamp
from liver_pipeline.dicom_results.source import SourceSeries
from liver_pipeline.dicom_results.uids import derived_uid
from liver_pipeline.labels import LabelMap

REPORT_SERIES = 9002
PRIVATE = "99LIVERPIPE"
UNITS = {
    "ml": codes.UCUM.CubicCentimeter,
    "mm": codes.UCUM.Millimeter,
    "percent": codes.UCUM.Percent,
    "count": codes.UCUM.NoUnits,
    "hu": codes.UCUM.HounsfieldUnit,
}
# Of the scan inside a lesion: name, code, key of the table, unit.
OF_CT = (("Mean attenuation", "LP-7", "mean_hu", "hu"), ("Standard deviation of attenuation", "LP-8", "sd_hu", "hu"))
OF_MR = (("Mean signal", "LP-9", "mean_hu", "count"), ("Standard deviation of signal", "LP-10", "sd_hu", "count"))


def build_structured_report(
    table: Mapping[str, Any], label_map: LabelMap, source: SourceSeries, segmentation: Any, origin: Origin
) -> Any:
    """Return the report as Comprehensive 3D SR: one measurement group for the liver, one for each lesion.

    A group refers to its segment; a lesion's tracking identifier names the slice of its diameters. Figures that are
    None are left out, as the template asks. What the record says of quality stands in the liver's group: an evaluation,
    and a comment for each reason.

    Args:
        table: Result of :func:`liver_pipeline.evaluation.description.describe_label_map`.
        label_map: The labels (X, Y, Z) along the axes of the series.
        source: The series.
        segmentation: The SEG that the report refers to.
        origin: Where the labels come from.
    """
    ct = source.modality != "MR"
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid(f"device {version('liver-pipeline')}"),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=version("liver-pipeline"),
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    groups = [_liver_group(table["liver"], label_map, segmentation, source, origin)]
    groups += [_lesion_group(row, source, segmentation, origin, OF_CT if ct else OF_MR) for row in table["lesions"]]
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion if ct else codes.LN.MRIUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    built = hd.sr.Comprehensive3DSR(
        evidence=[*source.headers, segmentation],
        content=report[0],
        series_number=REPORT_SERIES,
        series_instance_uid=origin.uid("report series"),
        sop_instance_uid=origin.uid(f"report {segmentation.SOPInstanceUID}"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="Liver and lesion measurements, research, not for diagnosis",
    )
    stamp(built, origin)
    return built


def _liver_group(
    liver: Mapping[str, Any], label_map: LabelMap, segmentation: Any, source: SourceSeries, origin: Origin
) -> Any:
    """Volumes of liver and tumor with their intervals, the burden, and what is known of the mask's quality."""
    burden = liver["tumor_burden"]
    named = (
        ("Liver volume with tumor", "LP-1", liver["liver_with_tumor_ml"], "ml"),
        ("Liver volume without tumor", "LP-2", liver["liver_without_tumor_ml"], "ml"),
        ("Total tumor volume", "LP-3", liver["tumor_ml"], "ml"),
        ("Number of lesions", "LP-4", liver["lesion_count"], "count"),
        ("Tumor burden", "LP-5", None if burden is None else 100 * burden, "percent"),
        *_interval_ends(liver["intervals"]),
    )
    group = _group(
        hd.sr.TrackingIdentifier(uid=origin.uid("segment 1"), identifier="Liver"),
        _segment_reference(segmentation, source, 1) if (label_map == 1).any() else None,
        finding_category=codes.SCT.AnatomicalStructure,
        finding_type=codes.SCT.Liver,
        measurements=[_measurement(name, code, value, unit) for name, code, value, unit in named if value is not None],
        qualitative_evaluations=_quality(origin.quality),
    )
    for reason in origin.quality.get("reasons", ()):
        comment = hd.sr.TextContentItem(
            name=codes.DCM.Comment, value=_text_of(reason), relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
        group[0].ContentSequence.append(comment)
    return group


def _interval_ends(intervals: Mapping[str, Any]) -> Iterator[tuple[str, str, float, str]]:
    """Yield name, code, value and unit of both ends of each interval of a volume."""
    for key, what, codes_of_ends in (("liver_ml", "Liver volume with tumor", ("LP-11", "LP-12")),
                                     ("tumor_ml", "Total tumor volume", ("LP-13", "LP-14"))):  # fmt: skip
        if (interval := intervals[key]) is not None:
            for end, code in zip(("low", "high"), codes_of_ends, strict=True):
                name = f"{what}, {end} end of the {100 * intervals['level']:.0f} % interval"
                yield name, code, interval[end], "ml"


def _lesion_group(row: Mapping[str, Any], source: SourceSeries, segmentation: Any, origin: Origin, values: Any) -> Any:
    """Volume, diameters, place and values of one lesion."""
    sizes = ((codes.SCT.Volume, "volume_ml", "ml"), (codes.SCT.LongAxis, "diameter_mm", "mm"),
             (codes.SCT.ShortAxis, "perpendicular_mm", "mm"))  # fmt: skip
    measurements = [hd.sr.Measurement(name=name, value=_rounded(row[key]), unit=UNITS[u]) for name, key, u in sizes]
    for axis, value in zip(("L", "P", "S"), row["centroid_lps_mm"], strict=True):
        measurements.append(_measurement(f"Centroid {axis} (patient coordinates)", f"LP-C{axis}", value, "mm"))
    for name, code, key, unit in (("Distance to liver surface", "LP-6", "distance_to_surface_mm", "mm"), *values):
        if row[key] is not None:
            measurements.append(_measurement(name, code, row[key], unit))
    return _group(
        hd.sr.TrackingIdentifier(
            uid=origin.uid(f"lesion {row['id']}"),
            identifier=f"Lesion {row['id']} (diameters in slice {row['slice']} from the feet)",
        ),
        _segment_reference(segmentation, source, 2),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        measurements=measurements,
    )


def _group(tracking: Any, segment: Any, **told: Any) -> Any:
    """One measurement group in the liver; without a segment to refer to, it refers to none."""
    told["finding_sites"] = [hd.sr.FindingSite(codes.SCT.Liver)]
    if segment is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(tracking_identifier=tracking, **told)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking, referenced_segment=segment, **told
    )


def _segment_reference(segmentation: Any, source: SourceSeries, label: int) -> Any:
    """Refer to a whole segment: frames and a segment's number must not stand side by side (PS3.3 C.18.4)."""
    return hd.sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=label,
        source_series=hd.sr.SourceSeriesForSegmentation(source.headers[0].SeriesInstanceUID),
    )


def _quality(quality: Mapping[str, Any]) -> list[Any]:
    """Say whether somebody should look at the mask twice, where the record knows."""
    if "flagged" not in quality:
        return []
    doubtful = hd.sr.CodedConcept("LP-Q2", PRIVATE, "Doubtful, look at it before use")
    fine = hd.sr.CodedConcept("LP-Q3", PRIVATE, "No objection")
    name = hd.sr.CodedConcept("LP-Q1", PRIVATE, "Quality of the segmentation")
    return [hd.sr.QualitativeEvaluation(name=name, value=doubtful if quality["flagged"] else fine)]


def _text_of(reason: Any) -> str:
    """Return a reason as text: it may come with its code."""
    return ": ".join(str(value) for value in reason.values()) if isinstance(reason, Mapping) else str(reason)


def _measurement(name: str, code: str, value: float, unit: str) -> Any:
    """One measurement under a private code."""
    return hd.sr.Measurement(
        name=hd.sr.CodedConcept(value=code, scheme_designator=PRIVATE, meaning=name),
        value=_rounded(value),
        unit=UNITS[unit],
    )


def _rounded(value: float) -> float:
    """Six significant digits: a decimal string in DICOM holds 16 characters."""
    return float(f"{value:.6g}")
