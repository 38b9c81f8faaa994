"""What a CT series says of itself: maps, projections and subtractions are no scans, ordinary series are not blamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage

from liver_pipeline.io.dicom import find_series
from liver_pipeline.io.dicom_series import choose_series
from liver_pipeline.io.findings import IntakeError, Severity
from liver_pipeline.io.volumes import read_scan
from tests.dicom_files import body, ct, enhanced, item, one_slice, series

SIEMENS_DUAL = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM7 SPI DUAL", "STD", "SNRG", "DET_AB"]


def told(folder: Path) -> list[tuple[str, Severity]]:
    """Codes of a series that is read or refused."""
    try:
        return [(f.code, f.severity) for f in read_scan(folder).findings]
    except IntakeError as reason:
        return [(f.code, f.severity) for f in reason.findings]


def kind(*values: str) -> dict[str, Any]:
    return {"ImageType": list(values)}


def energy(kev: float) -> Any:
    """The sequence in which a file says for which energy it was computed."""
    inner = item(MonoenergeticEnergyEquivalent=kev)
    return [item(MultienergyCTCharacteristicsSequence=[inner])]


def unit(code: str) -> Any:
    """The sequence in which a file says what its values are."""
    return [item(MeasurementUnitsCodeSequence=[item(CodeValue=code)])]


@pytest.mark.parametrize(
    "tags",
    [
        kind("ORIGINAL", "PRIMARY"),
        kind("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"),
        kind(*SIEMENS_DUAL) | {"SeriesDescription": "Abd 1.0 VNC MIP"},  # original: named after what it was made for
        kind("DERIVED", "PRIMARY", "AXIAL"),
        kind("DERIVED", "SECONDARY", "AXIAL"),
        kind("DERIVED", "SECONDARY", "MPR", "CSA MPR", "", "CSAPARALLEL"),
        kind("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"),
        kind("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"),
        kind("DERIVED", "PRIMARY", "AXIAL", "VMI") | {"MultienergyCTProcessingSequence": energy(70)},
        kind("DERIVED", "PRIMARY", "AXIAL") | {"SeriesDescription": "Mono 70 keV portal venous, submandibular"},
        {"RealWorldValueMappingSequence": unit("[hnsf'U]"), "RescaleType": "HU"},
        {"RescaleType": "US"},
        {"SliceThickness": 5, "ConvolutionKernel": "B70f"},
        {"SeriesDescription": "WB CT low dose (PET)"},
    ],
    ids=str,
)
def test_what_scanners_write_of_ordinary_series_is_not_blamed(tmp_path: Path, tags: dict[str, Any]) -> None:
    assert told(ct(tmp_path, range(12), **tags)) == []


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        (kind("DERIVED", "SECONDARY", "PROJECTION IMAGE", "CSA MIP THIN"), "MIP"),
        (kind("DERIVED", "SECONDARY", "REFORMATTED", "MIN_IP"), "MIN_IP"),
        (kind("DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"), "MAXIMUM"),
        (kind("DERIVED", "PRIMARY", "AXIAL", "SUBTRACTION"), "SUBTRACTION"),
        (kind("DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"), "MAT_SPECIFIC"),
        (kind("DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"), "EFF_ATOMIC_NUM"),
        (kind("DERIVED", "SECONDARY", "AXIAL", "CBF"), "CBF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_projections_subtractions_and_maps_are_refused_unless_accepted(
    tmp_path: Path, tags: dict[str, Any], named: str
) -> None:
    folder = ct(tmp_path, range(12), **tags)
    with pytest.raises(IntakeError, match=f"DERIVED_IMAGE: ImageType says {named}.*give the CT itself"):
        read_scan(folder)
    assert [f.code for f in read_scan(folder, accept=["DERIVED_IMAGE"]).findings] == ["DERIVED_IMAGE"]


@pytest.mark.parametrize(
    "tags",
    [
        kind("DERIVED", "PRIMARY", "AXIAL", "MAT_REMOVED"),
        kind("DERIVED", "PRIMARY", "AXIAL", "VMI") | {"MultienergyCTProcessingSequence": energy(40)},
        kind("DERIVED", "PRIMARY", "AXIAL") | {"SeriesDescription": "MonoPlus_140keV"},
        kind("DERIVED", "SECONDARY", "REFORMATTED") | {"SeriesDescription": "Abd MIP 10/2"},
        {"SeriesDescription": "DE iodine map"},
        {"SeriesDescription": "VNC 1.5"},
        kind("ORIGINAL", "PRIMARY", "AXIAL") | {"SeriesDescription": "kV_CBCT_1a"},
    ],
    ids=str,
)
def test_what_may_be_none_of_a_tube_is_a_warning(tmp_path: Path, tags: dict[str, Any]) -> None:
    assert told(ct(tmp_path, range(12), **tags)) == [("DERIVED_IMAGE", Severity.WARNING)]


@pytest.mark.parametrize(
    "tags", [{"RescaleType": "100UG/CM3"}, {"RescaleType": "mg/ml"}, {"RealWorldValueMappingSequence": unit("mg/mL")}]
)
def test_values_of_any_other_unit_than_hu_are_refused(tmp_path: Path, tags: dict[str, Any]) -> None:
    assert told(ct(tmp_path, range(12), **tags)) == [("HU_SCALE", Severity.ERROR)]


@pytest.mark.parametrize(("millimetres", "codes"), [(5, []), (6, []), (10, [("THICK_SLICE", Severity.WARNING)])])
def test_slabs_that_overlap_are_as_thick_as_they_say(tmp_path: Path, millimetres: float, codes: list[Any]) -> None:
    assert told(ct(tmp_path, range(12), SliceThickness=millimetres)) == codes


def test_thick_slices_that_lie_as_far_apart_are_told_once(tmp_path: Path) -> None:
    hu = body()
    thick = [one_slice(k, hu, spacing=(1.5, 1.0, 8.0), SliceThickness=8) for k in range(12)]
    assert told(series(tmp_path, thick)) == [("THICK_SLICE", Severity.WARNING)]


def test_frames_say_it_as_files_do(tmp_path: Path) -> None:
    projected = enhanced(body(), range(12))
    projected.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = [item(VolumetricProperties="SAMPLED")]
    assert told(series(tmp_path / "a", [projected])) == [("DERIVED_IMAGE", Severity.ERROR)]
    of_one_energy = enhanced(body(), range(12))
    of_one_energy.SharedFunctionalGroupsSequence[0].MultienergyCTProcessingSequence = energy(40)
    assert told(series(tmp_path / "b", [of_one_energy])) == [("DERIVED_IMAGE", Severity.WARNING)]


def test_a_subtraction_of_mr_is_an_image_like_any_other(tmp_path: Path) -> None:
    hu, tags = body(), kind("DERIVED", "PRIMARY", "SUBTRACTION")
    files = [one_slice(k, hu, Modality="MR", SOPClassUID=MRImageStorage, **tags) for k in range(12)]
    assert all(f.code != "DERIVED_IMAGE" for f in read_scan(series(tmp_path, files), modality="mr").findings)


def test_the_thinnest_series_is_no_map_where_there_is_a_ct(tmp_path: Path) -> None:
    for number, (gap, kinds) in enumerate([(3.0, {}), (1.0, kind("DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"))]):
        tags: dict[str, Any] = {"SeriesInstanceUID": f"1.2.3.{number}", "ContrastBolusAgent": "Iomeprol", **kinds}
        files = [one_slice(k, body(), spacing=(1.5, 1.0, gap), **tags) for k in range(12)]
        series(tmp_path, files, prefix=f"S{number}_")
    for which in ("thinnest", "contrast"):
        assert choose_series(tmp_path, find_series(tmp_path), which)[0].uid == "1.2.3.0"
    assert choose_series(tmp_path, find_series(tmp_path)[1:], "thinnest")[0].uid == "1.2.3.1"  # there is nothing else


@pytest.mark.parametrize("times", [0.5, 1.0, 1.1, 1.5])
def test_pixels_of_another_size_than_was_reconstructed_are_told(tmp_path: Path, times: float) -> None:
    hu = body((20, 20, 12))
    tags = kind("ORIGINAL", "PRIMARY", "AXIAL") | {"ReconstructionDiameter": 30.0}
    files = [one_slice(k, hu, spacing=(1.5 * times, 1.5 * times, 3.0), **tags) for k in range(12)]
    expected = [("SPACING_RANGE", Severity.WARNING)] if times in (0.5, 1.5) else []
    assert told(series(tmp_path / "original", files)) == expected
    for file in files:
        file.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]  # cropped, maybe
    assert told(series(tmp_path / "derived", files)) == []
