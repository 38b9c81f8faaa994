from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from pydicom.uid import MRImageStorage

from liver_pipeline.cli import main
from liver_pipeline.evaluation.description import describe, describe_label_map
from liver_pipeline.evaluation.description_text import as_text, lesions_csv
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.probabilities import write_probabilities
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import read_label_map, read_scan, write_label_map
from liver_pipeline.labels import Scaled
from tests.dicom_files import body, one_slice, series

RAS_1MM = np.diag([1.0, 1.0, 1.0, 1.0])


def block() -> np.ndarray:
    """Liver of 20 x 20 x 10 voxels, clear of the edge, with a lesion of 3 x 4 x 2 deep inside."""
    label_map = np.zeros((30, 30, 16), dtype=np.uint8)
    label_map[5:25, 5:25, 3:13] = 1
    label_map[12:15, 13:17, 7:9] = 2
    return label_map


def test_volumes_and_burden_are_those_of_the_blocks() -> None:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    liver = describe_label_map(block(), affine)["liver"]
    assert liver["liver_with_tumor_ml"] == pytest.approx(20 * 20 * 10 * 5 / 1000)
    assert liver["tumor_ml"] == pytest.approx(3 * 4 * 2 * 5 / 1000)
    assert liver["liver_without_tumor_ml"] == pytest.approx((4000 - 24) * 5 / 1000)
    assert liver["tumor_burden"] == pytest.approx(24 / 4000)
    assert (liver["lesion_count"], liver["truncated"]) == (1, False)


def test_lesion_is_measured_and_placed_in_patient_coordinates() -> None:
    affine = np.array([[1.0, 0, 0, -100], [0, 1, 0, 20], [0, 0, 1, 7], [0, 0, 0, 1]])
    (lesion,) = describe_label_map(block(), affine)["lesions"]
    assert lesion["diameter_mm"] == 5.0
    assert lesion["perpendicular_mm"] == pytest.approx(2 * 12 / 5)
    assert (lesion["slice"], lesion["size_class"]) == (7, "<10mm")
    assert lesion["centroid_ras_mm"] == [13 - 100, 14.5 + 20, 7.5 + 7]
    assert lesion["centroid_lps_mm"] == [87, -34.5, 14.5]
    assert lesion["box"] == [[12, 14], [13, 16], [7, 8]]
    # nearest liver surface: voxel 12 to the top plane 12 is 4 slices up from slice 8
    assert lesion["distance_to_surface_mm"] == 4.0
    assert (lesion["touches_border"], lesion["below_resolution"]) == (False, False)


def test_what_was_not_given_is_none_with_its_reason() -> None:
    table = describe_label_map(block(), RAS_1MM)
    (lesion,) = table["lesions"]
    for key in ("mean_hu", "sd_hu", "mean_confidence", "min_confidence", "match", "segments"):
        assert lesion[key] is None
        assert table["reasons"][key].startswith("no ")
    assert table["missed"] is None


def test_intervals_are_those_of_the_record_of_this_very_mask(tmp_path: Path) -> None:
    interval = {"volume": 4.0, "low": 3.5, "high": 4.26, "cases": 31}
    told = {"level": 0.9, "liver_ml": interval, "tumor_ml": None}
    why = {"tumor_ml": {"code": "NO_TUMORS", "message": "no validation case holds tumor"}}
    mask = tmp_path / "m.nii.gz"
    nib.save(nib.Nifti1Image(block(), RAS_1MM), mask)
    record = {"output": {"sha256": file_sha256(mask)}, "intervals": {**told, "reasons": why}}
    (tmp_path / "m.json").write_text(json.dumps(record))
    table = describe(mask)
    assert table["liver"]["intervals"] == told
    assert table["reasons"]["interval of tumor_ml"] == "no validation case holds tumor"
    assert "4.0 ml   (90 %: 3.5-4.3)" in as_text(table)
    nib.save(nib.Nifti1Image(np.minimum(block(), 1), RAS_1MM), mask)  # corrected by hand
    changed = describe(mask)
    assert changed["liver"]["intervals"] == {"level": None, "liver_ml": None, "tumor_ml": None}
    assert changed["reasons"]["interval of liver_ml"].startswith("no record")


def test_confidence_is_that_of_the_temperature_of_the_record(tmp_path: Path) -> None:
    """With T = 2 odds are rooted: tumor 204 of 255 against liver 51, 4 to 1, become 2 to 1."""
    mask, beside = tmp_path / "m.nii.gz", tmp_path / "m.probabilities.nii.gz"
    nib.save(nib.Nifti1Image(block(), RAS_1MM), mask)
    inside = block() == 2
    levels = np.stack([np.where(inside, 51, 255), np.where(inside, 204, 0)], axis=-1).astype(np.uint8, order="F")
    scan = read_label_map(mask)
    sha256 = write_probabilities(beside, levels, scan)
    record = {"output": {"sha256": scan.sha256}, "probabilities": {"sha256": sha256}}
    for confidence, expected, said in (
        ({"temperature": 2.0, "reason": None}, 2 / 3, ""),
        ({"temperature": None, "reason": {"code": "PAINTED", "message": "painted"}}, 4 / 5, "uncalibrated: painted"),
        ({}, 4 / 5, "is uncalibrated: no record"),
    ):
        (tmp_path / "m.json").write_text(json.dumps({**record, "confidence": confidence}))
        table = describe(mask, confidence=beside)
        # a level of 0, of the background here, stands for a quarter of one
        assert table["lesions"][0]["mean_confidence"] == pytest.approx(expected, abs=0.02)
        assert table["calibration"]["temperature"] == confidence.get("temperature")
        assert said in as_text(table) and (f"{expected:.0%}" in as_text(table) or confidence.get("temperature"))
    (tmp_path / "m.json").write_text(json.dumps({**record, "confidence": {"temperature": 2.0, "reason": None}}))
    write_probabilities(beside, np.asfortranarray(levels // 2), scan)  # no longer the file of the record
    assert describe(mask, confidence=beside)["calibration"]["temperature"] is None


def test_hu_and_confidence_are_taken_inside_the_lesion_only() -> None:
    label_map = block()
    hu = np.where(label_map == 2, 40, 110).astype(np.int16)
    hu[12, 13, 7] = 64
    confidence = np.where(label_map == 2, 0.9, 0.1)
    confidence[14, 16, 8] = 0.3
    (lesion,) = describe_label_map(label_map, RAS_1MM, hu=Scaled(hu), confidence=Scaled(confidence))["lesions"]
    assert lesion["mean_hu"] == pytest.approx(40 + 24 / 24)
    assert lesion["sd_hu"] == pytest.approx(np.sqrt(24.0**2 / 24 - 1))
    assert lesion["mean_confidence"] == pytest.approx((23 * 0.9 + 0.3) / 24)
    assert lesion["min_confidence"] == pytest.approx(0.3)


def test_mask_without_liver_has_no_liver_volume_rather_than_zero() -> None:
    label_map = np.where(block() == 2, 2, 0).astype(np.uint8)
    table = describe_label_map(label_map, RAS_1MM)
    for key in ("liver_with_tumor_ml", "liver_without_tumor_ml", "tumor_burden"):
        assert table["liver"][key] is None
        assert table["reasons"][key] == "the mask holds no liver (label 1)"
    assert table["lesions"][0]["distance_to_surface_mm"] is None
    assert table["liver"]["tumor_ml"] == pytest.approx(0.024)


def test_liver_and_lesion_cut_by_the_scan_say_so() -> None:
    label_map = block()[5:]
    label_map[0, 6:8, 5] = 2
    table = describe_label_map(label_map, RAS_1MM)
    assert table["liver"]["truncated"]
    cut = next(row for row in table["lesions"] if row["touches_border"])
    assert cut["distance_to_surface_mm"] == 0.0
    assert cut["below_resolution"]  # one voxel thick
    assert "cut by the edge" in as_text(table)


def test_reference_gives_each_lesion_its_match_and_lists_the_missed() -> None:
    label_map = block()
    reference = block()
    reference[8, 8, 5] = 2
    label_map[20, 20, 10] = 2
    table = describe_label_map(label_map, RAS_1MM, reference=reference)
    assert {row["id"]: row["match"] for row in table["lesions"]} == {1: "found", 2: "invented"}
    assert [row["centroid_ras_mm"] for row in table["missed"]] == [[8.0, 8.0, 5.0]]


def test_couinaud_map_gives_shares_of_lesions_and_volumes_of_segments() -> None:
    label_map = block()
    segments = np.zeros_like(label_map)
    segments[5:13] = 6  # the first of the lesion's three columns
    segments[13:25] = 7
    segments[label_map == 0] = 0
    table = describe_label_map(label_map, RAS_1MM, segments=segments)
    assert table["lesions"][0]["segments"] == {"6": pytest.approx(1 / 3), "7": pytest.approx(2 / 3)}
    volumes = table["liver"]["segments_ml"]
    assert volumes["6"]["liver_with_tumor_ml"] == pytest.approx(8 * 20 * 10 / 1000)
    assert volumes["7"]["tumor_ml"] == pytest.approx(16 / 1000)
    assert volumes["1"]["liver_with_tumor_ml"] == 0
    assert "outside" not in volumes


def save(path: Path, array: np.ndarray, affine: np.ndarray = RAS_1MM) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def scan_of(label_map: np.ndarray) -> np.ndarray:
    hu = np.full(label_map.shape, -1000, dtype=np.int16)
    hu[label_map == 1], hu[label_map == 2] = 110, 50
    return hu


def test_table_is_the_same_for_a_mask_stored_in_another_orientation(tmp_path: Path) -> None:
    affine = np.array([[0.8, 0, 0, -100], [0, 0.8, 0, 20], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
    straight = save(tmp_path / "a.nii.gz", block(), affine)
    turned = nib.load(straight).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, tmp_path / "b.nii.gz")
    one, other = (describe(path)["lesions"][0] for path in (straight, tmp_path / "b.nii.gz"))
    for key in ("volume_ml", "diameter_mm", "slice", "box", "distance_to_surface_mm", "centroid_lps_mm"):
        assert one[key] == pytest.approx(other[key]) if key != "box" else one[key] == other[key]


def test_scan_may_be_stored_in_another_orientation_than_its_mask(tmp_path: Path) -> None:
    label_map = block()
    hu = scan_of(label_map)
    hu[12, 13, 7] = 74
    mask, scan = save(tmp_path / "mask.nii.gz", label_map), save(tmp_path / "straight.nii.gz", hu)
    turned = nib.load(scan).as_reoriented(np.array([[1, 1], [2, -1], [0, -1]]))
    nib.save(turned, tmp_path / "turned.nii.gz")
    assert describe(mask, tmp_path / "turned.nii.gz")["lesions"][0]["mean_hu"] == pytest.approx(51.0)


def test_command_writes_json_and_csv_and_prints_a_table(tmp_path: Path) -> None:
    mask, scan = save(tmp_path / "mask.nii.gz", block()), save(tmp_path / "scan.nii.gz", scan_of(block()))
    options = ["--json", str(tmp_path / "t.json"), "--csv", str(tmp_path / "t.csv")]
    run = CliRunner().invoke(main, ["describe", str(mask), str(scan), *options])
    assert run.exit_code == 0, run.output
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["lesions"][0]["mean_hu"] == 50.0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
    assert float(row["volume_ml"]) == pytest.approx(0.024)
    assert row["mean_confidence"] == ""
    assert "50 (0)" in run.output
    again = CliRunner().invoke(main, ["describe", str(mask), "--csv", str(tmp_path / "t.csv")])
    assert again.exit_code == 2
    assert "overwrite" in again.output


def test_a_mask_of_others_on_an_mr_series_is_described(tmp_path: Path) -> None:
    values = np.sort(np.random.default_rng(1).integers(0, 900, (20, 16, 12)), axis=0).astype(np.int16) - 1024
    tags = {"Modality": "MR", "SOPClassUID": MRImageStorage, "RescaleSlope": None, "RescaleIntercept": None}
    scan = series(tmp_path / "mr", [one_slice(k, values, **tags) for k in range(12)])
    labels = np.zeros((20, 16, 12), dtype=np.uint8)
    labels[5:15, 4:12, 3:9] = 1
    write_label_map(tmp_path / "mask.nii.gz", labels, like=read_scan(scan, modality="mr"))
    assert describe(tmp_path / "mask.nii.gz", scan)["liver"]
    with pytest.raises(IntakeError, match="MODALITY"):
        describe(tmp_path / "mask.nii.gz", scan, reader=ScanReader())


@pytest.mark.parametrize("number", [0, 1])
def test_of_a_study_the_series_that_is_named_is_measured(tmp_path: Path, number: int) -> None:
    for n, hu in enumerate((100, 150)):
        files = [
            one_slice(k, np.where(body() > 0, np.int16(hu), body()), SeriesInstanceUID=f"1.2.{n}") for k in range(12)
        ]
        series(tmp_path / "study", files, prefix=f"S{n}_")
    labels = np.zeros((20, 16, 12), dtype=np.uint8)
    labels[5:15, 5:11, 3:9], labels[8:10, 6:8, 4:6] = 1, 2
    uid = f"1.2.{number}"
    write_label_map(tmp_path / "mask.nii.gz", labels, like=read_scan(tmp_path / "study", series=uid))
    (lesion,) = describe(tmp_path / "mask.nii.gz", tmp_path / "study", series=uid)["lesions"]
    assert lesion["mean_hu"] == (100, 150)[number]


def test_scan_on_another_grid_is_refused(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.nii.gz", block())
    moved = RAS_1MM.copy()
    moved[2, 3] = 3.0
    scan = save(tmp_path / "scan.nii.gz", scan_of(block()), moved)
    run = CliRunner().invoke(main, ["describe", str(mask), str(scan)])
    assert run.exit_code == 2
    assert "another grid" in run.output


def test_csv_of_a_tumor_free_liver_has_a_head_only() -> None:
    table = describe_label_map(np.minimum(block(), 1), RAS_1MM)
    assert lesions_csv(table).count("\n") == 1
    assert table["liver"]["tumor_ml"] == 0.0
    assert table["liver"]["tumor_burden"] == 0.0


@pytest.mark.real_data
def test_real_lits_reference_and_its_couinaud_map_describe_one_liver(real_data: Path) -> None:
    folder = real_data / "couinaud_label_maps_mit"
    segments = folder / "3Dircadb_label_3Dircadb-1.nii.gz"
    image = nib.load(segments)
    values = np.asarray(image.dataobj)
    label_map = (values > 0).astype(np.uint8)
    turned = nib.orientations.apply_orientation(label_map, nib.io_orientation(image.affine))
    numbers = nib.orientations.apply_orientation(values, nib.io_orientation(image.affine)).astype(np.uint8)
    table = describe_label_map(turned, np.diag([0.57, 0.57, 1.6, 1.0]), segments=numbers)
    volumes = table["liver"]["segments_ml"]
    total = sum(volume["liver_with_tumor_ml"] for volume in volumes.values())
    assert total == pytest.approx(table["liver"]["liver_with_tumor_ml"])
    assert 1200 < total < 1800  # ml; the official mask holds 2.87 M voxels of 0.52 mm^3
    assert all(volumes[str(number)]["liver_with_tumor_ml"] > 0 for number in range(1, 9))
