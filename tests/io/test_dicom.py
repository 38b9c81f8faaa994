"""DICOM: nothing is defaulted, what conflicts or does not belong is told, enhanced files equal their single slices."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    EnhancedMRImageStorage,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from liver_pipeline.io.dicom import find_series
from liver_pipeline.io.dicom_checks import PASS_TAGS
from liver_pipeline.io.dicom_series import choose_series
from liver_pipeline.io.findings import IntakeError, Severity
from liver_pipeline.io.volumes import Scan, read_label_map, read_scan
from tests.dicom_files import AXIAL, SHAPE, SPACING, blank, body, ct, enhanced, item, one_slice, place, scout, series
from tests.orientations import OBLIQUE, ORIENTATIONS


def refusal(path: Path, **options: Any) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        read_scan(path, **options)
    return caught.value


def codes(scan: Scan) -> list[str]:
    return [finding.code for finding in scan.findings]


# --- what a slice must say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "bad"),
    [
        ("ImagePositionPatient", None),
        ("ImagePositionPatient", []),
        ("ImageOrientationPatient", None),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
        ("ImageOrientationPatient", [1, 0, 0, 0.5, 0.5, 0]),
        ("PixelSpacing", None),
        ("PixelSpacing", [0, 0]),
        ("PixelSpacing", []),
    ],
)
@pytest.mark.parametrize("odd", [(4, 5), tuple(range(12))])
def test_a_slice_without_its_place_is_refused_by_name(tmp_path: Path, tag: str, bad: Any, odd: tuple[int, ...]) -> None:
    reason = refusal(ct(tmp_path, odd, **{tag: bad}), accept=["GEOMETRY_MISSING"])
    assert reason.code == "GEOMETRY_MISSING"
    assert tag in str(reason) and f"IM{odd[0]:03d}, IM{odd[1]:03d}" in str(reason)


@pytest.mark.parametrize("lacks", [("RescaleSlope",), ("RescaleIntercept",), ("RescaleSlope", "RescaleIntercept")])
def test_slices_without_rescale_among_others_are_refused_by_name(tmp_path: Path, lacks: tuple[str, ...]) -> None:
    reason = refusal(ct(tmp_path, (4, 5), **dict.fromkeys(lacks)), accept=["RESCALE_MISSING"])
    assert reason.code == "RESCALE_MISSING" and "IM004, IM005" in str(reason)


def test_a_ct_without_any_rescale_is_refused_unless_accepted(tmp_path: Path) -> None:
    hu = body() - 1024  # stored values are HU then, as `one_slice` adds 1024
    folder = ct(tmp_path, range(12), hu, RescaleSlope=None, RescaleIntercept=None)
    assert [f.code for f in refusal(folder).findings] == ["RESCALE_MISSING"]
    np.testing.assert_array_equal(read_scan(folder, accept=["RESCALE_MISSING"]).array, body())
    lost = ct(tmp_path / "lost", range(12), None, RescaleSlope=None, RescaleIntercept=None)
    assert [f.code for f in refusal(lost).findings] == ["RESCALE_MISSING", "HU_SCALE"]


def test_a_label_map_needs_no_rescale(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[5:9, 5:9, 4:8] = 1
    folder = ct(tmp_path, range(12), labels - 1024, RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_label_map(folder).array, labels)


def test_a_rescale_of_its_own_in_each_slice_is_applied_to_it(tmp_path: Path) -> None:
    hu = body()
    files = []
    for k in range(12):
        files.append(one_slice(k, hu, RescaleIntercept=-1024 - 5 * k))
        files[-1].PixelData = (hu[:, :, k].T + 1024 + 5 * k).astype(np.int16).tobytes()
    np.testing.assert_array_equal(read_scan(series(tmp_path, files)).array, hu)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_pixels_give_the_same_values(tmp_path: Path, syntax: str) -> None:
    hu = body()
    files = [one_slice(k, hu) for k in range(12)]
    for file in files:
        file.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_scan(series(tmp_path, files)).array, hu)


def test_bits_above_the_stored_ones_are_no_values(tmp_path: Path) -> None:
    hu = body()
    files = [one_slice(k, hu, BitsStored=12, HighBit=11, PixelRepresentation=0) for k in range(12)]
    for k, file in enumerate(files):
        overlay = np.uint16(0x8000) * (np.indices(SHAPE[:2]).sum(axis=0).T % 2).astype(np.uint16)
        file.PixelData = ((hu[:, :, k].T + 1024).astype(np.uint16) | overlay).tobytes()
    np.testing.assert_array_equal(read_scan(series(tmp_path, files)).array, hu)


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    hu = body()
    for k in range(12):
        file = one_slice(k, hu)
        file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        file.save_as(tmp_path / f"IM{k}", implicit_vr=True, little_endian=True)
        data = (tmp_path / f"IM{k}").read_bytes()
        (tmp_path / f"IM{k}").write_bytes(data[data.index(b"\x08\x00\x16\x00") :])
    np.testing.assert_array_equal(read_scan(tmp_path).array, hu)


# --- positions -----------------------------------------------------------------------------------------------------


def moved(folder: Path, offset: Any) -> Path:
    """A series whose slice k lies at its place plus ``offset(k)`` mm (LPS)."""
    hu = body()
    files = [one_slice(k, hu) for k in range(12)]
    for k, file in enumerate(files):
        file.ImagePositionPatient = [float(v) for v in np.add(file.ImagePositionPatient, offset(k))]
    return series(folder, files)


def bow(k: int) -> float:
    return 4 * (k / 11) * (1 - k / 11)  # 0 at both ends, 1 in the middle


@pytest.mark.parametrize(
    ("offset", "named"),
    [
        (lambda k: (30.0 * (3 <= k < 8), 0, 0), "IM003, IM004, IM005, IM006, IM007"),
        (lambda k: (0, 30.0 * (k >= 9), 0), "IM009, IM010, IM011"),
        (lambda k: (0, 30.0 * (k == 5), 0), "IM005"),
        (lambda k: (0.9 * (k == 0), 0, 0), "IM000"),  # 0.6 of a pixel of 1.5 mm
        (lambda k: (0, 12.0 * bow(k), 0), "IM000"),
    ],
)
def test_jumps_and_bows_in_the_plane_are_errors_that_name_slices(tmp_path: Path, offset: Any, named: str) -> None:
    reason = refusal(moved(tmp_path, offset))
    assert reason.code == "SLICE_SHIFT" and named in str(reason) and "mm" in str(reason)


def test_an_uneven_gap_is_a_warning_from_1_and_an_error_from_5_percent(tmp_path: Path) -> None:
    for off_mm, found in ((0.02, []), (0.05, ["UNEVEN_SLICE_GAPS"]), (0.14, ["UNEVEN_SLICE_GAPS"])):  # of 3 mm
        assert codes(read_scan(moved(tmp_path / str(off_mm), lambda k, off=off_mm: (0, 0, off * (k == 5))))) == found
    assert refusal(moved(tmp_path, lambda k: (0, 0, 0.16 * (k == 5)))).code == "UNEVEN_SLICE_GAPS"


def test_gaps_that_grow_add_up_to_an_error(tmp_path: Path) -> None:
    # Gaps from 2.88 to 3.12 mm: each within 5 % of 3 mm (a warning), but over 80 slices the stack is bowed.
    hu = body((*SHAPE[:2], 80))
    gaps = np.linspace(2.88, 3.12, 79)
    files = [one_slice(k, hu) for k in range(80)]
    for file, z in zip(files, np.concatenate([[0], gaps.cumsum()]), strict=True):
        file.ImagePositionPatient = [0.0, 0.0, float(z.round(4))]
    assert "SLICE_SHIFT" in [f.code for f in refusal(series(tmp_path, files)).findings]


def test_a_shift_of_a_fifth_of_a_pixel_is_a_warning_and_rounding_is_none(tmp_path: Path) -> None:
    scan = read_scan(moved(tmp_path / "fifth", lambda k: (0, 0.2 * (k == 5), 0)))
    assert codes(scan) == ["SLICE_SHIFT"]
    rounded = read_scan(moved(tmp_path / "rounded", lambda k: np.random.default_rng(k).uniform(-0.005, 0.005, 3)))
    assert rounded.findings == ()


def test_rounded_positions_of_many_thin_slices_are_no_bow(tmp_path: Path) -> None:
    hu = body((*SHAPE[:2], 200))
    files = [one_slice(k, hu, spacing=(1.5, 1.0, 0.625)) for k in range(200)]
    for k, file in enumerate(files):
        file.ImagePositionPatient = [0.0, 0.0, round(0.625 * k, 2)]
    assert read_scan(series(tmp_path, files)).findings == ()


# --- what conflicts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "values", "code"),
    [
        ("PatientID", ("P-17", "P-18"), "MIXED_PATIENTS"),
        ("PatientName", ("Doe^Jane", "Roe^Ann"), "MIXED_PATIENTS"),
        ("PatientBirthDate", ("19500101", "19510101"), "MIXED_PATIENTS"),
        ("PatientSex", ("MALE", "FEMALE"), "MIXED_PATIENTS"),
        ("FrameOfReferenceUID", ("1.2.3.1", "1.2.3.2"), "MIXED_FRAMES"),
        ("StudyInstanceUID", ("1.2.3.1", "1.2.3.2"), "MIXED_SERIES"),
    ],
)
def test_conflicts_are_errors_that_name_slices_and_no_patient(
    tmp_path: Path, tag: str, values: tuple[str, str], code: str
) -> None:
    hu = body()
    tags: list[dict[str, Any]] = [{tag: values[k >= 9]} for k in range(12)]
    files = [one_slice(k, hu, **tags[k]) for k in range(12)]
    reason = refusal(series(tmp_path, files))
    assert reason.code == code and "IM009, IM010, IM011" in str(reason)
    assert not any(value in str(reason) for value in values if "Patient" in tag)
    assert read_scan(tmp_path, accept=[code]).array.shape == SHAPE


@pytest.mark.parametrize(
    "tag", ["PatientID", "PatientName", "FrameOfReferenceUID", "AcquisitionNumber", "SeriesInstanceUID", "Modality"]
)
def test_tags_that_are_empty_in_some_slices_are_no_conflict(tmp_path: Path, tag: str) -> None:
    value: Any = {"AcquisitionNumber": 1, "PatientID": "A", "PatientName": "A", "Modality": "CT"}.get(tag, "1.2.3.1")
    hu = body()
    tags: list[dict[str, Any]] = [{tag: value if k % 3 else ""} for k in range(12)]
    files = [one_slice(k, hu, **tags[k]) for k in range(12)]
    assert read_scan(series(tmp_path, files)).findings == ()


PASSES = [
    ("AcquisitionNumber", (1, 2)),
    ("ConvolutionKernel", ("B30f", "B70f")),
    ("TriggerTime", (100, 400)),
    ("TemporalPositionIdentifier", (1, 2)),
    ("EchoTime", (2.3, 4.6)),
    ("KVP", (80, 140)),
    ("SliceThickness", (1.0, 5.0)),
    ("SeriesNumber", (3, 4)),
    ("SeriesDescription", ("Abd 1", "Abd 5")),
    ("ProtocolName", ("liver", "chest")),
    ("ImageType", (["DERIVED", "PRIMARY", "AXIAL", "WATER"], ["DERIVED", "PRIMARY", "AXIAL", "FAT"])),
    ("NominalPercentageOfCardiacPhase", (40, 70)),
    ("InversionTime", (200, 900)),
    ("FlipAngle", (10, 25)),
    ("DiffusionBValue", (50.0, 800.0)),
    ("ComplexImageComponent", ("MAGNITUDE", "PHASE")),
    ("StackID", ("1", "2")),
    ("ContrastBolusAgent", ("Iomeprol", "Iohexol")),
    ("FilterType", ("A", "B")),
    ("ReconstructionDiameter", (350, 400)),
    ("PatientPosition", ("HFS", "HFP")),
    ("GantryDetectorTilt", (0, 15)),
]


def test_every_tag_that_tells_passes_apart_is_tried() -> None:
    assert sorted(tag for tag, _ in PASSES) == sorted(PASS_TAGS)


@pytest.mark.parametrize(("tag", "values"), PASSES)
@pytest.mark.parametrize("second", [lambda k: k % 2 == 1, lambda k: 4 <= k < 8])
def test_passes_that_alternate_or_lie_inside_each_other_are_told_apart(
    tmp_path: Path, tag: str, values: tuple[Any, Any], second: Any
) -> None:
    hu = body()
    folder = series(tmp_path, [one_slice(k, hu, **{tag: values[int(second(k))]}) for k in range(12)])
    reason = refusal(folder)
    assert reason.code == "MIXED_PASSES" and tag in str(reason)
    found = find_series(folder)
    assert [len(one.slices) for one in found] in ([6, 6], [4, 8], [8, 4])


def test_acquisition_times_that_alternate_are_two_passes_of_a_ct_and_one_of_an_mr(tmp_path: Path) -> None:
    hu = body()
    times: tuple[tuple[str, Any, str], ...] = (
        ("two passes", lambda k: ("101500", "101730")[k % 2], "MIXED_PASSES"),
        ("one after the other", lambda k: ("101500", "101730")[k // 6], ""),
        ("each its own", lambda k: f"1015{k:02d}", ""),
        ("with their date", lambda k: ("20260101101500", "20260101101730")[k % 2], "MIXED_PASSES"),
        ("rounded", lambda k: ("101500", "101501")[k in (5, 7, 8, 9, 10, 11)], ""),
    )
    for name, time, code in times:
        tag = "AcquisitionDateTime" if "date" in name else "AcquisitionTime"
        folder = series(tmp_path / name, [one_slice(k, hu, **{tag: time(k)}) for k in range(12)])
        assert (refusal(folder).code if code else "") == code, name
        if not code:
            assert read_scan(folder).findings == ()
    mr = [
        one_slice(k, hu, AcquisitionTime=("1015", "1017")[k % 2], Modality="MR", SOPClassUID=MRImageStorage)
        for k in range(12)
    ]
    assert codes(read_scan(series(tmp_path / "mr", mr), modality="any")) == []


def test_one_of_two_alternating_passes_is_read_by_its_name(tmp_path: Path) -> None:
    hu = body()
    folder = series(tmp_path, [one_slice(k, hu, AcquisitionNumber=1 + k % 2) for k in range(12)])
    assert [one.uid for one in find_series(folder)] == ["1.2.3.4/AcquisitionNumber=1", "1.2.3.4/AcquisitionNumber=2"]
    scan = read_scan(folder, series="1.2.3.4/AcquisitionNumber=2")
    np.testing.assert_array_equal(scan.array, hu[:, :, 1::2])  # every second plane, with twice the gap
    assert scan.spacing == pytest.approx((1.5, 1.0, 6.0)) and codes(scan) == ["SERIES_CHOSEN", "FEW_SLICES"]
    assert read_scan(folder, accept=["MIXED_PASSES"]).array.shape == SHAPE


def test_two_passes_at_the_same_places_are_told_apart(tmp_path: Path) -> None:
    hu = body()
    files = [one_slice(k, hu + 10 * echo, EchoTime=2.0 + echo) for echo in (0, 1) for k in range(12)]
    folder = series(tmp_path, files)
    assert refusal(folder).code == "MIXED_PASSES"
    first, second = (read_scan(folder, series=one.uid) for one in find_series(folder))
    np.testing.assert_array_equal(second.array, first.array + 10)


@pytest.mark.parametrize(("tag", "values"), PASSES)
def test_passes_end_to_end_are_one_volume(tmp_path: Path, tag: str, values: tuple[Any, Any]) -> None:
    hu = body()
    folder = series(tmp_path, [one_slice(k, hu, **{tag: values[int(k >= 5)]}) for k in range(12)])
    scan = read_scan(folder)
    assert scan.findings == () and len(find_series(folder)) == 1
    np.testing.assert_array_equal(scan.array, hu)


def test_an_acquisition_of_its_own_for_each_slice_is_one_volume(tmp_path: Path) -> None:
    hu = body()
    assert read_scan(series(tmp_path, [one_slice(k, hu, AcquisitionNumber=k) for k in range(12)])).findings == ()


@pytest.mark.parametrize("tags", [{"Modality": "MR"}, {"PixelSpacing": [1.0, 1.6]}, {"Rows": 8, "Columns": 40}])
def test_slices_of_another_kind_are_refused_by_name(tmp_path: Path, tags: dict[str, Any]) -> None:
    reason = refusal(ct(tmp_path, (4, 5), **tags))
    assert reason.code == "MIXED_SERIES" and "IM004, IM005" in str(reason)


# --- what does not belong ------------------------------------------------------------------------------------------


def capture(sop_class: str, **tags: Any) -> Any:
    made = blank("1.2.3.6", sop_class)
    made.Rows, made.Columns, made.ImageType = 24, 32, ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    made.PixelData = bytes(2 * 24 * 32)
    for tag, value in tags.items():
        setattr(made, tag, value)
    return made


STRANGERS: dict[str, Any] = {
    "scout": scout,
    "secondary capture": lambda: capture(SecondaryCaptureImageStorage),
    "dose report called a CT image": lambda: capture("1.2.840.10008.5.1.4.1.1.2"),
    "capture with a place": lambda: capture(
        SecondaryCaptureImageStorage, ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
    ),
    "structured report": lambda: blank("1.2.3.6", "1.2.840.10008.5.1.4.1.1.88.67"),
    "report of the slices' size": lambda: capture("1.2.840.10008.5.1.4.1.1.2", Modality="SR", Rows=16, Columns=20),
    "colour picture": lambda: capture(
        "1.2.840.10008.5.1.4.1.1.2", SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, BitsStored=8,
        HighBit=7, PlanarConfiguration=0, PixelRepresentation=0, PixelData=bytes(3 * 24 * 32),
    ),
    "colour map of a slice": lambda: one_slice(
        3, body(), SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, BitsStored=8, HighBit=7,
        PlanarConfiguration=0, PixelRepresentation=0, PixelData=bytes(3 * 20 * 16),
    ),
    "dose report called a slice": lambda: one_slice(3, body(), ImageType=["DERIVED", "SECONDARY", "CT_SOM5 PROT"]),
    "turned plane": lambda: one_slice(0, body((20, 16, 1)), axes=((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "of_its_own"),
    [
        (name, own)
        for name in STRANGERS
        for own in (False, True)
        if not (own and name in ("turned plane", "dose report called a slice"))
    ],
)
def test_what_is_no_slice_is_left_out_with_a_note(tmp_path: Path, name: str, of_its_own: bool) -> None:
    stranger = STRANGERS[name]()
    if of_its_own:
        stranger.SeriesInstanceUID = "1.2.3.99"
    folder = ct(tmp_path)
    stranger.save_as(folder / "stranger", enforce_file_format=True)
    scan = read_scan(folder)
    assert codes(scan) == ["IGNORED_FILES"]
    np.testing.assert_array_equal(scan.array, body())
    assert [len(one.slices) for one in find_series(folder)] == [12]


def test_more_than_a_few_slices_unlike_the_others_are_not_left_out(tmp_path: Path) -> None:
    wide, elsewhere = body((24, 16, 12)), [0.0, 0.0, -500.0]
    tags: dict[str, Any] = {"ImageType": ["DERIVED", "SECONDARY", "MPR"], "ImagePositionPatient": elsewhere}

    def with_odd(count: int) -> Path:
        files = [*(one_slice(k, body()) for k in range(12)), *(one_slice(k, wide, **tags) for k in range(count))]
        return series(tmp_path / str(count), files)

    assert codes(read_scan(with_odd(3))) == ["IGNORED_FILES"]
    assert refusal(with_odd(4)).code == "MIXED_SERIES"


def test_a_folder_of_scouts_and_captures_is_no_scan(tmp_path: Path) -> None:
    assert refusal(series(tmp_path, [scout(), scout()])).code == "NOT_A_SCAN"


@pytest.mark.parametrize("kind", [SegmentationStorage, RTStructureSetStorage])
def test_outlines_in_dicom_are_told_to_be_no_label_map(tmp_path: Path, kind: str) -> None:
    (tmp_path / "study").mkdir()
    blank("1.2.3.9", kind).save_as(tmp_path / "study" / "a.dcm")
    for path in (tmp_path / "study", tmp_path / "study" / "a.dcm"):
        with pytest.raises(IntakeError, match=r"NOT_A_SCAN: a DICOM segmentation or structure set; export it"):
            read_label_map(path)


def test_what_is_no_ct_or_mr_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "pet").mkdir()
    blank("1.2.3.9", PositronEmissionTomographyImageStorage).save_as(tmp_path / "pet" / "a.dcm")
    for path in (
        tmp_path / "pet",
        tmp_path / "pet" / "a.dcm",
        zipped(tmp_path / "a.zip", [tmp_path / "pet" / "a.dcm"]),
    ):
        with pytest.raises(IntakeError, match=r"NOT_A_SCAN: DICOM of another kind .*Positron Emission Tomography"):
            read_scan(path)


def test_a_volume_of_secondary_captures_is_read(tmp_path: Path) -> None:
    hu = body()
    files = [one_slice(k, hu, SOPClassUID=SecondaryCaptureImageStorage) for k in range(12)]
    np.testing.assert_array_equal(read_scan(series(tmp_path, files)).array, hu)


def test_a_slice_left_out_by_mistake_leaves_a_gap_that_is_refused(tmp_path: Path) -> None:
    assert refusal(ct(tmp_path, (5,), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])).code == "UNEVEN_SLICE_GAPS"


@pytest.mark.parametrize("odd", [(9, 10, 11), (0, 1, 2), (11,)])
def test_slices_at_the_ends_that_look_otherwise_belong_to_the_volume(tmp_path: Path, odd: tuple[int, ...]) -> None:
    scan = read_scan(ct(tmp_path, odd, ImageType=["DERIVED", "SECONDARY", "AXIAL"]))
    np.testing.assert_array_equal(scan.array, body())
    assert scan.findings == ()


@pytest.mark.parametrize("content", ["empty", "zeros", "cut short"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_slice_at_the_end_that_was_lost_is_told(tmp_path: Path, content: str, zipped: bool) -> None:
    folder = ct(tmp_path / "scan")
    last = folder / "IM011"
    last.write_bytes({"empty": b"", "zeros": bytes(900), "cut short": last.read_bytes()[:330]}[content])
    (folder / "README").write_text("no slice")
    if zipped:
        with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
            for file in sorted(folder.iterdir()):  # README comes last
                archive.write(file, f"study/{file.name}")
        folder = tmp_path / "scan.zip"
    reason = refusal(folder)
    assert reason.code == "DICOM_DAMAGED" and ("member 12" if zipped else "IM011") in str(reason)


@pytest.mark.parametrize("told", [10, 14])
def test_an_enhanced_file_describes_each_of_its_frames(tmp_path: Path, told: int) -> None:
    file = enhanced(body(), range(12))
    groups = list(file.PerFrameFunctionalGroupsSequence)
    file.PerFrameFunctionalGroupsSequence = (groups + groups)[:told]
    reason = refusal(series(tmp_path, [file]))
    assert reason.code == "DICOM_DAMAGED" and f"{told} frames" in str(reason)


def test_values_that_say_they_are_no_hu_are_refused(tmp_path: Path) -> None:
    assert read_scan(ct(tmp_path / "hu", range(12), RescaleType="HU")).findings == ()
    assert read_scan(ct(tmp_path / "us", range(12), RescaleType="US")).findings == ()
    reason = refusal(ct(tmp_path / "map", (3, 4), RescaleType="MGML"))
    assert reason.code == "HU_SCALE" and "IM003, IM004" in str(reason)


@pytest.mark.parametrize("numbers", [lambda k: k // 2, lambda k: k // 2 + 50 * (k % 2), lambda k: k // 3 + 9 * (k % 3)])
def test_passes_without_any_tag_of_their_own_are_told_by_their_numbers(tmp_path: Path, numbers: Any) -> None:
    hu = body()
    folder = series(tmp_path / "ct", [one_slice(k, hu, InstanceNumber=numbers(k)) for k in range(12)])
    assert refusal(folder).code == "MIXED_PASSES"
    assert read_scan(folder, accept=["MIXED_PASSES"]).array.shape == SHAPE
    mr = [one_slice(k, hu, InstanceNumber=numbers(k), Modality="MR", SOPClassUID=MRImageStorage) for k in range(12)]
    assert codes(read_scan(series(tmp_path / "mr", mr), modality="any")) == []


@pytest.mark.parametrize(
    "numbers", [lambda k: k, lambda k: -k, lambda k: 0, lambda k: k % 6, lambda k: k ^ 1, lambda k: (7 * k) % 12]
)
def test_numbers_of_one_pass_may_run_as_they_like(tmp_path: Path, numbers: Any) -> None:
    hu = body()
    folder = series(tmp_path, [one_slice(k, hu, InstanceNumber=numbers(k)) for k in range(12)])
    assert read_scan(folder).findings == ()


@pytest.mark.parametrize(
    "places", [lambda k: "ab"[k // 6], lambda k: "ab"[k % 2], lambda k: (".", "b")[k // 6], lambda k: "abc"[k // 4]]
)
def test_a_series_in_several_folders_is_not_several_scans(tmp_path: Path, places: Any) -> None:
    hu = body()
    for k in range(12):
        series(tmp_path / "s" / places(k), [one_slice(k, hu)], prefix=f"{k:02d}_")
    for folder in {tmp_path / "s" / places(k) for k in range(12)}:
        reason = refusal(folder)
        assert reason.code == "MIXED_SERIES" and "more slices of the series" in str(reason)
        assert read_scan(folder, accept=["MIXED_SERIES", "UNEVEN_SLICE_GAPS"]).array.shape[2] in (4, 6)


def zipped(path: Path, files: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def test_a_series_in_several_zips_or_half_unzipped_is_not_several_scans(tmp_path: Path) -> None:
    files = sorted(ct(tmp_path / "src" / "p").iterdir())
    scans = tmp_path / "scans"
    scans.mkdir()
    halves = [zipped(scans / f"p_{half}.zip", files[6 * half : 6 * half + 6]) for half in (0, 1)]
    for half, other in (halves, reversed(halves)):
        reason = refusal(half)
        assert reason.code == "MIXED_SERIES" and f"6 more slices of the series lie in the zip {other.name}" in str(
            reason
        )
    halves[1].unlink()
    for one in sorted(ct(scans / "q").iterdir())[:6]:
        one.unlink()
    assert refusal(halves[0]).code == refusal(scans / "q").code == "MIXED_SERIES"


def test_a_zip_that_begins_with_another_series_and_ends_with_this_one_holds_slices_of_it(tmp_path: Path) -> None:
    files = sorted(ct(tmp_path / "src" / "p").iterdir())
    other = sorted(ct(tmp_path / "src" / "o", range(12), SeriesInstanceUID="1.2.9").iterdir())
    scans = tmp_path / "scans"
    scans.mkdir()
    zipped(scans / "a.zip", [*[one.rename(one.with_name(f"o{one.name}")) for one in other], *files[:6]])
    assert refusal(zipped(scans / "b.zip", files[6:])).code == "MIXED_SERIES"


def test_a_zip_beside_its_own_folder_is_a_copy(tmp_path: Path) -> None:
    folder = ct(tmp_path / "p")
    for path in (folder, zipped(tmp_path / "p.zip", sorted(folder.iterdir()))):
        assert "MIXED_SERIES" not in codes(read_scan(path))


def test_a_copy_or_another_series_beside_it_is_no_part_of_a_scan(tmp_path: Path) -> None:
    ct(tmp_path / "a"), ct(tmp_path / "copy")
    series(tmp_path / "b", [one_slice(k, body(), SeriesInstanceUID="1.2.9") for k in range(5, 12)])
    assert all(not any(f.code == "MIXED_SERIES" for f in read_scan(tmp_path / name).findings) for name in "ab")


def test_a_series_without_its_uid_in_two_places_is_told_where_both_make_one_even_stack(tmp_path: Path) -> None:
    hu = body()

    def place(name: str, planes: Any, **tags: Any) -> Path:
        return series(tmp_path / name, [one_slice(k, hu, **{"SeriesInstanceUID": None, **tags}) for k in planes])

    for kind, halves in (("end", (range(6), range(6, 12))), ("odd", (range(0, 12, 2), range(1, 12, 2)))):
        for name, planes in zip("ab", halves, strict=True):
            place(f"{kind}/{name}", planes)
        assert [refusal(tmp_path / kind / name).code for name in "ab"] == ["MIXED_SERIES"] * 2
        assert "6 more slices of the series lie in the folder b" in str(refusal(tmp_path / kind / "a"))
    for name, other in (
        ("copy", {"planes": range(12)}),
        ("gap", {"planes": range(14, 20)}),
        ("patient", {"planes": range(12, 18), "PatientID": "2"}),
        ("phase", {"planes": range(12, 18), "StudyInstanceUID": "1.2.9"}),
        ("grid", {"planes": range(9, 14), "spacing": (1.5, 1.0, 4.0)}),
    ):
        place(f"{name}/a", range(12), PatientID="1")
        hu = body((*SHAPE[:2], 20))
        place(f"{name}/b", **{"PatientID": "1", **other})
        assert all(f.code != "MIXED_SERIES" for f in read_scan(tmp_path / name / "a").findings), name


# --- several series ------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Thick without, thick with contrast, thin with contrast, and a scout, in one folder."""
    for number, (gap, agent, slices) in enumerate([(5.0, "", 10), (4.0, "Iomeprol", 12), (2.0, "Iomeprol", 24)]):
        hu = body((*SHAPE[:2], slices)) + np.int16(10 * number)
        tags = {
            "SeriesInstanceUID": f"1.2.3.{number}",
            "SeriesDescription": f"Abd {gap:g}",
            "ContrastBolusAgent": agent,
        }
        files = [one_slice(k, hu, spacing=(1.5, 1.0, gap), **tags) for k in range(slices)]
        series(tmp_path / "study", files, prefix=f"S{number}_")
    scout().save_as(tmp_path / "study" / "scout", enforce_file_format=True)
    return tmp_path / "study"


def test_series_are_listed_with_what_helps_to_choose(study: Path) -> None:
    found = [
        (one.uid, one.description, one.modality, len(one.slices), one.thickness_mm, one.contrast)
        for one in find_series(study)
    ]
    assert found == [
        ("1.2.3.0", "Abd 5", "CT", 10, 5.0, ""),
        ("1.2.3.1", "Abd 4", "CT", 12, 4.0, "Iomeprol"),
        ("1.2.3.2", "Abd 2", "CT", 24, 2.0, "Iomeprol"),
    ]
    reason = refusal(study)
    assert reason.code == "MIXED_SERIES" and all(uid in str(reason) for uid, *_ in found)


@pytest.mark.parametrize(
    ("which", "uid", "slices"),
    [("thinnest", "1.2.3.2", 24), ("contrast", "1.2.3.2", 24), ("1.2.3.1", "1.2.3.1", 12), ("1.2.3.0", "1.2.3.0", 10)],
)
def test_a_series_is_chosen_by_rule_or_name_and_the_reason_is_recorded(
    study: Path, which: str, uid: str, slices: int
) -> None:
    scan = read_scan(study, series=which)
    assert scan.array.shape == (*SHAPE[:2], slices)
    (chosen,) = (f for f in scan.findings if f.code == "SERIES_CHOSEN")
    assert uid in chosen.detail and ("named" if which == uid else "thinnest") in chosen.detail
    assert chosen.severity is Severity.WARNING
    series_found, reason = choose_series(study, find_series(study), which)
    assert series_found.uid == uid and reason == chosen.detail


def test_a_zip_of_a_study_is_read_by_series_too(study: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in sorted(study.iterdir()):
            archive.write(file, f"study/{file.name}")
    zipped, folder = (read_scan(path, series="thinnest") for path in (tmp_path / "study.zip", study))
    np.testing.assert_array_equal(zipped.array, folder.array)
    assert [one.uid for one in find_series(tmp_path / "study.zip")] == ["1.2.3.0", "1.2.3.1", "1.2.3.2"]


def test_a_series_that_is_not_there_is_an_error_that_lists_those_that_are(study: Path) -> None:
    reason = refusal(study, series="1.2.3.7")
    assert reason.code == "NO_SERIES" and "1.2.3.2 'Abd 2' (24 CT slices, 2 mm, contrast)" in str(reason)


# --- enhanced files ------------------------------------------------------------------------------------------------


def same_grid(a: Scan, b: Scan) -> None:
    np.testing.assert_array_equal(a.array, b.array)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-5)
    assert (a.slope, a.intercept, a.modality) == (b.slope, b.intercept, b.modality)


SHUFFLED = np.random.default_rng(5).permutation(12).tolist()


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS[::5])
def test_an_enhanced_file_equals_its_single_slices(tmp_path: Path, permutation: Any, flips: Any, rotation: Any) -> None:
    hu = body()
    columns = rotation @ (np.eye(3)[:, list(permutation)] * flips)
    axes = (columns[:, 0].round(9), columns[:, 1].round(9))
    single = series(tmp_path / "single", [one_slice(k, hu, axes=axes) for k in range(12)])
    series(tmp_path / "enhanced", [enhanced(hu, SHUFFLED, axes=axes)])
    same_grid(read_scan(tmp_path / "enhanced"), read_scan(single))
    same_grid(read_scan(tmp_path / "enhanced" / "IM000"), read_scan(single))


def test_an_enhanced_mr_is_read_with_a_rescale_in_each_frame(tmp_path: Path) -> None:
    stored = np.sort(np.random.default_rng(1).integers(0, 1500, SHAPE), axis=0).astype(np.int16)

    def scaled(k: int) -> dict[str, Any]:
        return {"PixelValueTransformationSequence": [item(RescaleSlope=2, RescaleIntercept=k, RescaleType="US")]}

    file = enhanced(stored - 1024, SHUFFLED, sop_class=EnhancedMRImageStorage, Modality="MR", per_frame=scaled)
    scan = read_scan(series(tmp_path, [file]), modality="mr")
    np.testing.assert_array_equal(scan.array, 2 * stored + np.arange(12))
    assert scan.modality == "MR" and scan.findings == ()


def test_compressed_frames_give_the_same_values(tmp_path: Path) -> None:
    hu = body()
    file = enhanced(hu, SHUFFLED)
    file.compress(JPEGLSLossless, generate_instance_uid=False)
    same_grid(read_scan(series(tmp_path / "e", [file])), read_scan(ct(tmp_path / "s")))


def test_frames_are_checked_as_slices_are(tmp_path: Path) -> None:
    hu = body()

    def without(k: int) -> dict[str, Any]:
        return {"PlanePositionSequence": []} if k == 5 else {}

    reason = refusal(series(tmp_path / "a", [enhanced(hu, range(12), per_frame=without)]))
    assert reason.code == "GEOMETRY_MISSING" and "IM000 frame 6" in str(reason)

    def jumped(k: int) -> dict[str, Any]:
        there = np.add(place(k, AXIAL, SPACING), [30.0 * (k == 3), 0, 0]).tolist()
        return {"PlanePositionSequence": [item(ImagePositionPatient=there)]}

    reason = refusal(series(tmp_path / "b", [enhanced(hu, range(12), per_frame=jumped)]))
    assert reason.code == "SLICE_SHIFT" and "IM000 frame 4" in str(reason)
    reason = refusal(series(tmp_path / "apart" / "c", [enhanced(hu, [0, 1, 2, 3, 5, 6, 7, 8, 9])]))
    assert reason.code == "UNEVEN_SLICE_GAPS"


@pytest.mark.parametrize(
    "group",
    [
        lambda n: {"FrameContentSequence": [item(TemporalPositionIndex=n + 1)]},
        lambda n: {"MREchoSequence": [item(EffectiveEchoTime=2.3 + n)]},
        lambda n: {"MRDiffusionSequence": [item(DiffusionBValue=400.0 * n)]},
        lambda n: {"CTReconstructionSequence": [item(ConvolutionKernel=f"B{n}")]},
        lambda n: {"FrameContentSequence": [item(FrameAcquisitionNumber=n + 1)]},
    ],
)
def test_phases_in_one_file_are_told_apart(tmp_path: Path, group: Any) -> None:
    hu = np.concatenate([body(), body() + 10], axis=2)  # frames 0 to 11, then the same places again

    def phase(k: int) -> dict[str, Any]:
        return {"PlanePositionSequence": [item(ImagePositionPatient=place(k % 12, AXIAL, SPACING))], **group(k // 12)}

    folder = series(tmp_path, [enhanced(hu, range(24), per_frame=phase)])
    assert refusal(folder).code == "MIXED_PASSES"
    first, second = (read_scan(folder, series=one.uid) for one in find_series(folder))
    np.testing.assert_array_equal(second.array, first.array + 10)


def test_frames_without_places_are_refused(tmp_path: Path) -> None:
    file = enhanced(body(), range(12), PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None)
    assert refusal(series(tmp_path, [file])).code == "GEOMETRY_MISSING"


# --- modality ------------------------------------------------------------------------------------------------------


def test_the_file_says_its_modality_and_is_not_read_as_another_in_silence(tmp_path: Path) -> None:
    folder = ct(tmp_path / "ct")
    assert read_scan(folder).modality == "CT" and read_scan(folder).findings == ()
    assert codes(read_scan(folder, modality="mr")) == ["MODALITY"]
    stored = np.sort(np.random.default_rng(1).integers(0, 900, SHAPE), axis=0).astype(np.int16)
    tags = {"Modality": "MR", "SOPClassUID": MRImageStorage, "RescaleSlope": None, "RescaleIntercept": None}
    mr = series(tmp_path / "mr", [one_slice(k, stored - 1024, **tags) for k in range(12)])
    assert read_scan(mr, modality="mr").findings == () and read_scan(mr, modality="mr").modality == "MR"
    np.testing.assert_array_equal(read_scan(mr, modality="mr").array, stored)
    assert (reason := refusal(mr)).code == "MODALITY" and "is read as CT; set modality=mr" in str(reason)
    as_ct = read_scan(mr, accept=["MODALITY"])
    assert codes(as_ct) == ["MODALITY", "HU_SCALE"] and {f.severity for f in as_ct.findings} == {Severity.WARNING}


def test_no_value_of_a_damaged_header_is_quoted(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = ct(tmp_path)
    file = folder / "IM003"
    file.write_bytes(file.read_bytes().replace(b"1.2.3.4", b"Jane^Do"))
    refusal(folder)
    assert not [warning for warning in recwarn if "Jane" in str(warning.message)]


@pytest.mark.parametrize("kind", ["nowhere", "circle", "pipe"])
def test_a_last_slice_that_is_a_link_to_nowhere_or_a_pipe_is_told(tmp_path: Path, kind: str) -> None:
    folder = ct(tmp_path / "ct")
    (folder / "notes.txt").symlink_to(tmp_path / "gone")
    assert read_scan(folder).array.shape[2] == SHAPE[2]
    last = max(folder.glob("IM*"))
    last.unlink()
    if kind == "pipe":
        os.mkfifo(last)
    else:
        last.symlink_to(last if kind == "circle" else tmp_path / "gone")
    with pytest.raises(IntakeError, match=last.name) as caught:
        read_scan(folder)
    assert caught.value.code == "DICOM_DAMAGED"


def test_too_little_memory_for_a_series_is_no_fault_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ct(tmp_path / "ct")

    def no_memory(*args: Any, **options: Any) -> Any:
        raise MemoryError

    for place_of_it in ("pydicom.dcmread", "pydicom.pixels.iter_pixels"):  # headers, pixels
        with monkeypatch.context() as patch, pytest.raises(IntakeError) as caught:
            patch.setattr(place_of_it, no_memory)
            read_scan(folder)
        assert caught.value.code == "OUT_OF_MEMORY"
