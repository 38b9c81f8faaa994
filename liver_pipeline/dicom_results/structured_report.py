"""The clinical table as a DICOM Structured Report (TID 1500); needs ``pip install liver-pipeline[dicom-sr]``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from liver_pipeline.io.files import refuse_existing, whole_file

MANUFACTURER = "liver-pipeline"
# Of patient and study: DICOM's type 2, which a series may hold empty, and anonymisation often removes.
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def write_structured_report(
    table: Mapping[str, Any], series: Path | str, path: Path | str, *, overwrite: bool = False
) -> None:
    """Write liver and lesion measurements as Comprehensive 3D SR that refers to the CT series.

    Args:
        table: Result of :func:`liver_pipeline.evaluation.description.describe_label_map`.
        series: Folder of the DICOM slices that the mask belongs to; patient and study are taken from it.
        path: The ``.dcm`` to write.
        overwrite: Replace a file that is there.

    Raises:
        ImportError: If highdicom is not installed.
        FileNotFoundError: If the folder holds no DICOM slices.
        FileExistsError: If ``path`` is there and ``overwrite`` is false.
        ValueError: If a slice lacks what names it (its UIDs).
    """
    path = Path(path)
    refuse_existing([path], overwrite)
    report = build_structured_report(table, Path(series))
    with whole_file(path) as temporary:
        report.save_as(temporary)


def build_structured_report(table: Mapping[str, Any], series: Path) -> Any:
    """Return the report as a highdicom dataset: one measurement group for the liver, one per lesion.

    Figures that are None are left out, as the template asks; a lesion's tracking identifier names the slice of its
    diameters.
    """
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise ImportError("a DICOM SR needs highdicom: pip install 'liver-pipeline[dicom-sr]'") from error
    slices = _read_headers(series)
    observer = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=hd.UID(), name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=version("liver-pipeline")
            ),
        )
    )
    groups = [_liver_group(table["liver"])] + [_lesion_group(row) for row in table["lesions"]]
    report = hd.sr.MeasurementReport(
        observation_context=observer,
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=slices,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=slices,
        content=report[0],
        series_number=1000,
        series_instance_uid=hd.UID(),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="Liver and lesion measurements",
    )


def _read_headers(series: Path) -> list[Any]:
    """Headers of the slices in a folder, in order of position; tags that may be empty and are missing are added so."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    headers = []
    for file in sorted(series.iterdir()) if series.is_dir() else []:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (InvalidDicomError, IsADirectoryError):
            continue
        if "ImagePositionPatient" in header:
            headers.append(header)
    if not headers:
        raise FileNotFoundError(f"no DICOM slice in {series}; a DICOM SR refers to a series, so SCAN is its folder")
    for header in headers:
        for name in MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, "")
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            if not header.get(name):
                raise ValueError(f"{header.filename}: no {name}; a DICOM SR refers to slices by it: export them again")
    return sorted(headers, key=lambda header: float(header.ImagePositionPatient[2]))


def _liver_group(liver: Mapping[str, Any]) -> Any:
    """Volumes of the whole liver and of all tumor, and the burden."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    burden = liver["tumor_burden"]
    named = (
        ("Liver volume with tumor", "LP-1", liver["liver_with_tumor_ml"], "ml"),
        ("Liver volume without tumor", "LP-2", liver["liver_without_tumor_ml"], "ml"),
        ("Total tumor volume", "LP-3", liver["tumor_ml"], "ml"),
        ("Number of lesions", "LP-4", liver["lesion_count"], "count"),
        ("Tumor burden", "LP-5", None if burden is None else 100 * burden, "percent"),
    )
    volumes = [_measurement(name, code, value, unit) for name, code, value, unit in named if value is not None]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="Liver"),
        finding_type=codes.SCT.Organ,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Liver)],
        measurements=volumes,
    )


def _lesion_group(row: Mapping[str, Any]) -> Any:
    """Volume, diameters, place and HU of one lesion."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    named = [
        (codes.SCT.Volume, row["volume_ml"], "ml"),
        (codes.SCT.LongAxis, row["diameter_mm"], "mm"),
        (codes.SCT.ShortAxis, row["perpendicular_mm"], "mm"),
    ]
    measurements = [hd.sr.Measurement(name=name, value=_rounded(value), unit=_unit(u)) for name, value, u in named]
    for axis, value in zip(("L", "P", "S"), row["centroid_lps_mm"], strict=True):
        measurements.append(_measurement(f"Centroid {axis} (patient coordinates)", f"LP-C{axis}", value, "mm"))
    for name, code, key, unit in (
        ("Distance to liver surface", "LP-6", "distance_to_surface_mm", "mm"),
        ("Mean attenuation", "LP-7", "mean_hu", "hu"),
        ("Standard deviation of attenuation", "LP-8", "sd_hu", "hu"),
    ):
        if row[key] is not None:
            measurements.append(_measurement(name, code, row[key], unit))
    name = f"Lesion {row['id']} (diameters in slice {row['slice']} from the feet)"
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name),
        finding_type=codes.SCT.Lesion,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Liver)],
        measurements=measurements,
    )


def _measurement(name: str, code: str, value: float, unit: str) -> Any:
    """One measurement under a private code (scheme 99LIVERPIPE)."""
    import highdicom as hd

    concept = hd.sr.CodedConcept(value=code, scheme_designator="99LIVERPIPE", meaning=name)
    return hd.sr.Measurement(name=concept, value=_rounded(value), unit=_unit(unit))


def _unit(name: str) -> Any:
    from pydicom.sr.codedict import codes

    return {
        "ml": codes.UCUM.CubicCentimeter,
        "mm": codes.UCUM.Millimeter,
        "percent": codes.UCUM.Percent,
        "count": codes.UCUM.NoUnits,
        "hu": codes.UCUM.HounsfieldUnit,
    }[name]


def _rounded(value: float) -> float:
    """Six significant digits: a decimal string in DICOM holds 16 characters."""
    return float(f"{value:.6g}")
