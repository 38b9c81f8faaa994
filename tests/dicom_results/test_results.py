"""DICOM results, judged by programs that are not ours: dicom3tools checks what was written, dcmqi reads it back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from liver_pipeline.cli import main
from liver_pipeline.dicom_results.results import DicomResults, result_paths, write_report, write_results
from liver_pipeline.dicom_results.source import read_source
from liver_pipeline.evaluation.description import describe
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import TEMPORARY
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import read_scan, write_label_map
from tests.dicom_files import body, ct, one_slice, series
from tests.orientations import ORIENTATIONS
from tests.waiting import PATIENCE_S

ALL = DicomResults(("seg", "sr", "sc"))
PATIENT: dict[str, Any] = {
    "PatientID": "P1", "PatientName": "Doe^Jane",
    "PatientBirthDate": "19500102", "PatientSex": "F",
    "AccessionNumber": "A7", "StudyID": "S1", "StudyDate": "20260102", "StudyTime": "101500",
    "ReferringPhysicianName": "", "FrameOfReferenceUID": "1.2.3.9", "SliceThickness": 3.0,
}  # fmt: skip

NAMED: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}


def program(name: str, *words: Any) -> str:
    """What a program prints."""
    ended = subprocess.run([name, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return ended.stdout + ended.stderr


def errors(*files: Path) -> list[str]:
    """Errors that dciodvfy finds in files."""
    return [
        f"{file.name}: {line}" for file in files for line in program("dciodvfy", file).splitlines() if "Error" in line
    ]


def labels_of(path: Path) -> npt.NDArray[np.uint8]:
    """A liver of 10 x 8 x 6 voxels with a tumor of 2 x 3 x 2, nowhere symmetric."""
    labels = np.zeros(read_scan(path).array.shape, dtype=np.uint8)
    labels[5:15, 4:12, 3:9] = 1
    labels[8:10, 6:9, 5:7] = 2
    return labels


def masked(folder: Path, labels: npt.NDArray[np.uint8] | None = None, **tags: Any) -> tuple[Path, Path]:
    """A series, and a mask of it."""
    scan = ct(folder / "ct", odd=range(12), **(PATIENT | tags))
    mask = folder / "m.nii.gz"
    write_label_map(mask, labels_of(scan) if labels is None else labels, read_scan(scan))
    return mask, scan


def places(image: Any) -> set[tuple[float, ...]]:
    """Where the voxels of a segment lie, LPS mm."""
    array = sitk.GetArrayFromImage(image)
    return {
        tuple(round(value, 2) + 0.0 for value in image.TransformIndexToPhysicalPoint(tuple(map(int, index[::-1]))))
        for index in np.argwhere(array)
    }


def read_back(seg: Path, folder: Path) -> dict[int, set[tuple[float, ...]]]:
    """Segments as dcmqi reads them."""
    folder.mkdir()
    told = program("segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", folder, "--outputType", "nii")
    found = {}
    for file in folder.glob("*.nii.gz"):  # one a segment; of a label map one for all
        image = sitk.ReadImage(str(file))
        values = [int(value) for value in np.unique(sitk.GetArrayFromImage(image)) if value]
        for value in values:
            found[value if len(values) > 1 else int(file.name.split(".")[0])] = places(image == value)
    assert found, told
    return found


def expected(mask: Path) -> dict[int, set[tuple[float, ...]]]:
    image = sitk.ReadImage(str(mask))
    return {label: places(image == label) for label in (1, 2)}


def in_orientation(folder: Path, permutation: tuple[int, ...], flips: tuple[int, ...]) -> tuple[Path, Path]:
    """A series whose axes run along the patient's as told, and a mask of it."""
    axes = np.zeros((3, 3))
    axes[range(3), permutation] = flips
    hu = np.random.default_rng(1).integers(-100, 200, (20, 16, 12)).astype(np.int16)
    order = range(12) if np.linalg.det(axes) > 0 else range(11, -1, -1)  # files follow the axis, whichever way
    files = (one_slice(k, hu, axes=axes[:2], **PATIENT) for k in order)
    scan = series(folder / "ct", files)
    mask = folder / "m.nii.gz"
    write_label_map(mask, labels_of(scan), read_scan(scan))
    return mask, scan


# --- what other programs say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS[::9])
def test_dcmqi_reads_each_segment_back_to_the_voxel(
    tmp_path: Path, permutation: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    mask, scan = in_orientation(tmp_path, permutation, flips)
    write_results(DicomResults(("seg",)), mask, scan)
    assert read_back(tmp_path / "m.seg.dcm", tmp_path / "back") == expected(mask)


@pytest.mark.slow  # eight times as many as above
@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
def test_dcmqi_reads_all_orientations(tmp_path: Path, permutation: tuple[int, ...], flips: tuple[int, ...]) -> None:
    mask, scan = in_orientation(tmp_path, permutation, flips)
    write_results(DicomResults(("seg",)), mask, scan)
    assert read_back(tmp_path / "m.seg.dcm", tmp_path / "back") == expected(mask)


@pytest.mark.parametrize("settings", [DicomResults(("seg",), "labelmap"), DicomResults(("seg",), deflate=True)])
def test_packed_segmentations_hold_the_same_voxels(tmp_path: Path, settings: DicomResults) -> None:
    mask, scan = masked(tmp_path)
    write_results(settings, mask, scan)
    assert read_back(tmp_path / "m.seg.dcm", tmp_path / "back") == expected(mask)


def test_the_checkers_find_no_error_in_what_was_written(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path)
    write_results(ALL, mask, scan)
    captures = sorted((tmp_path / "m.sc").iterdir())
    written = [tmp_path / "m.seg.dcm", tmp_path / "m.sr.dcm", *captures]
    assert len(captures) == 6
    assert errors(*written[:4]) == []
    together = program("dcentvfy", *sorted(scan.iterdir()), *written)
    assert "Error" not in together and "SOPInstanceUID" not in together
    report = program("tid1500reader", "--inputDICOM", tmp_path / "m.sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert [group["ReferencedSegment"] for group in groups] == [1, 2], report
    seg = pydicom.dcmread(tmp_path / "m.seg.dcm")
    assert {group["segmentationSOPInstanceUID"] for group in groups} == {seg.SOPInstanceUID}


def test_an_empty_mask_has_both_segments_a_report_without_references_and_one_capture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask, scan = masked(tmp_path, np.zeros((20, 16, 12), dtype=np.uint8))
    write_results(ALL, mask, scan)
    seg = pydicom.dcmread(tmp_path / "m.seg.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Liver", "Tumor"]
    assert not seg.pixel_array.any()
    assert [path.name for path in (tmp_path / "m.sc").iterdir()] == ["0001.dcm"]
    assert errors(tmp_path / "m.seg.dcm", tmp_path / "m.sr.dcm", tmp_path / "m.sc" / "0001.dcm") == []
    assert caplog.messages == []  # highdicom's words for who writes programs


# --- what they say of patient, source and origin -------------------------------------------------------------------


def test_patient_and_study_are_carried_over_and_missing_tags_are_there_empty(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path, AccessionNumber="", PatientSex="", **NAMED)
    for file in scan.iterdir():
        header = pydicom.dcmread(file)
        del header.StudyID
        header.save_as(file)
    write_results(ALL, mask, scan)
    for path in (tmp_path / "m.seg.dcm", tmp_path / "m.sr.dcm", tmp_path / "m.sc" / "0001.dcm"):
        made = pydicom.dcmread(path)
        assert (made.PatientID, str(made.PatientName), made.StudyInstanceUID) == ("P1", "Müller^Jörg", "1.2.3")
        assert not made.StudyID and not made.AccessionNumber and "PatientSex" in made


def test_the_measured_gap_counts_and_a_frame_of_reference_is_derived(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path, SpacingBetweenSlices=7.0, FrameOfReferenceUID="")
    frames = set()
    for settings in (DicomResults(("seg",)), DicomResults(("seg",), "labelmap")):
        write_results(settings, mask, scan)
        seg = pydicom.dcmread(tmp_path / "m.seg.dcm")
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SpacingBetweenSlices == 3.0
        frames.add(seg.FrameOfReferenceUID)
    assert len(frames) == 1 and frames.pop().startswith("2.25.")


def record_of(mask: Path, **more: Any) -> dict[str, Any]:
    return {
        "output": {"sha256": file_sha256(mask)}, "weights": {"sha256": "a" * 64}, "config": {"sha256": "b" * 64},
        "timing": {"started": "2026-11-26T01:02:03+0000"}, "labels": {"1": "liver", "2": "tumor"}, **more,
    }  # fmt: skip


def test_the_same_mask_and_record_give_the_same_bytes_and_other_weights_other_uids(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path)
    first = write_results(ALL, mask, scan, record=record_of(mask))
    made = pydicom.dcmread(tmp_path / "m.seg.dcm")
    assert (made.ContentDate, made.ContentTime) == ("20261126", "010203")
    assert made.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert write_results(ALL, mask, scan, record=record_of(mask)) == first
    write_results(ALL, mask, scan, record=record_of(mask, weights={"sha256": "c" * 64}))
    assert pydicom.dcmread(tmp_path / "m.seg.dcm").SOPInstanceUID != made.SOPInstanceUID


def test_a_mask_that_was_changed_by_hand_is_no_longer_called_automatic(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path)
    record = record_of(mask, output={"sha256": "0" * 64})
    write_results(DicomResults(("seg",)), mask, scan, record=record)
    assert pydicom.dcmread(tmp_path / "m.seg.dcm").SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_a_model_of_liver_alone_lists_no_tumor_segment(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path, np.full((20, 16, 12), 1, dtype=np.uint8))
    write_results(DicomResults(("seg",)), mask, scan, record=record_of(mask, labels={"1": "liver"}))
    assert len(pydicom.dcmread(tmp_path / "m.seg.dcm").SegmentSequence) == 1


def test_the_report_says_why_a_mask_is_doubtful(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path)
    reasons = [{"code": "LIVER_SMALL", "message": "the liver is smaller than livers are"}]
    write_results(ALL, mask, scan, record=record_of(mask, quality={"flagged": True, "reasons": reasons}))
    text = pydicom.dcmread(tmp_path / "m.sr.dcm").to_json()
    assert "LIVER_SMALL: the liver is smaller than livers are" in text and "Doubtful" in text
    assert errors(tmp_path / "m.sr.dcm") == []


def test_the_report_holds_both_ends_of_each_interval(tmp_path: Path) -> None:
    hd = pytest.importorskip("highdicom")
    mask, scan = masked(tmp_path)
    told = {"level": 0.9, "liver_ml": {"volume": 2.16, "low": 2.0, "high": 2.5, "cases": 20}, "tumor_ml": None}
    reasons = {"tumor_ml": {"code": "NO_TUMORS", "message": "no validation case holds tumor"}}
    record = record_of(mask, intervals={**told, "reasons": reasons})
    mask.with_name("m.json").write_text(json.dumps(record))
    write_results(ALL, mask, scan, record=record)
    (liver, _) = hd.sr.srread(tmp_path / "m.sr.dcm").content.get_volumetric_roi_measurement_groups()
    ends = {one.name.meaning: one.value for one in liver.get_measurements() if "interval" in one.name.meaning}
    assert ends == {
        "Liver volume with tumor, low end of the 90 % interval": 2.0,
        "Liver volume with tumor, high end of the 90 % interval": 2.5,
    }
    assert errors(tmp_path / "m.sr.dcm") == []


def test_measurements_in_the_report_are_those_of_the_table(tmp_path: Path) -> None:
    hd = pytest.importorskip("highdicom")
    mask, scan = masked(tmp_path)
    table = describe(mask, scan)
    write_results(ALL, mask, scan, table=table)
    liver, lesion = hd.sr.srread(tmp_path / "m.sr.dcm").content.get_volumetric_roi_measurement_groups()
    volumes = {one.name.meaning: one.value for one in liver.get_measurements()}
    assert volumes["Liver volume with tumor"] == pytest.approx(10 * 8 * 6 * 4.5 / 1000)  # a voxel is 1.5 x 1 x 3 mm
    assert volumes["Tumor burden"] == pytest.approx(100 * 12 / 480, rel=1e-5)
    sizes = {one.name.meaning: one.value for one in lesion.get_measurements()}
    assert sizes["Volume"] == pytest.approx(12 * 4.5 / 1000)
    assert sizes["Mean attenuation"] == pytest.approx(table["lesions"][0]["mean_hu"], rel=1e-5)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_series_without_what_names_it_is_refused_and_nothing_is_written(tmp_path: Path, tag: str) -> None:
    mask, scan = masked(tmp_path, None, **{tag: ""})
    with pytest.raises(IntakeError, match=tag) as caught:
        write_results(ALL, mask, scan)
    assert caught.value.code == "DICOM_REFERENCE"
    assert not any(path.exists() for path in result_paths(mask).values())
    assert not list(tmp_path.glob(TEMPORARY.format("*")))


def test_slices_that_share_a_uid_or_differ_in_patient_are_not_referred_to_though_they_can_be_read(
    tmp_path: Path,
) -> None:
    same = ct(tmp_path / "same", odd=range(12), **PATIENT, SOPInstanceUID="1.2.3.9")
    hu = body()
    two = series(tmp_path / "two", [one_slice(k, hu, **(PATIENT | {"PatientID": f"P{k // 6}"})) for k in range(12)])
    for folder, words in ((same, "11 slices have the SOPInstanceUID of another"), (two, "slices differ in PatientID")):
        with pytest.raises(IntakeError, match=words) as caught:
            read_source(folder, ScanReader(accept=("MIXED_PATIENTS",)))
        assert caught.value.code == "DICOM_REFERENCE"


def test_a_scan_that_is_no_series_is_refused(tmp_path: Path) -> None:
    mask, _ = masked(tmp_path)
    with pytest.raises(IntakeError) as caught:
        write_results(ALL, mask, mask)
    assert caught.value.code == "DICOM_REFERENCE"


def test_a_mask_on_another_grid_is_refused_and_one_with_turned_axes_is_not(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path)
    write_results(DicomResults(("seg",)), mask, scan)
    before = pydicom.dcmread(tmp_path / "m.seg.dcm").PixelData
    turned = nib.load(mask).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, mask)
    write_results(DicomResults(("seg",)), mask, scan)
    assert pydicom.dcmread(tmp_path / "m.seg.dcm").PixelData == before
    moved = nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine + np.eye(4, k=3) * 5)
    nib.save(moved, mask)
    with pytest.raises(IntakeError) as caught:
        write_results(DicomResults(("seg",)), mask, scan)
    assert caught.value.code == "LABEL_GRID_MISMATCH"


def test_settings_with_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expected seg, sr, sc"):
        DicomResults(("rtstruct",))
    with pytest.raises(ValueError, match="binary or labelmap"):
        DicomResults(("seg",), "fractional")


# --- describe --sr -------------------------------------------------------------------------------------------------


def test_describe_writes_the_report_of_predict_and_the_segmentation_it_refers_to(tmp_path: Path) -> None:
    mask, scan = masked(tmp_path)
    (tmp_path / "m.json").write_text(json.dumps(record_of(mask)))
    first = write_results(ALL, mask, scan, record=record_of(mask))
    words = ["describe", str(mask), str(scan), "--sr", str(tmp_path / "again.sr.dcm")]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert file_sha256(tmp_path / "again.sr.dcm") == first["sr"]
    assert file_sha256(tmp_path / "again.seg.dcm") == first["seg"]
    assert CliRunner().invoke(main, words).exit_code == 2  # it is there
    (tmp_path / "again.sr.dcm").unlink()
    (tmp_path / "again.seg.dcm").write_bytes(b"another")
    with pytest.raises(FileExistsError):
        write_report(describe(mask, scan), mask, scan, tmp_path / "again.sr.dcm")
    assert (tmp_path / "again.seg.dcm").read_bytes() == b"another" and not (tmp_path / "again.sr.dcm").exists()
