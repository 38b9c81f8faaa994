"""Fingerprints of phantoms whose spacing, values and volumes are known, and the cache that they are kept in."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.data.layouts import lits_cases
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import read_label_map, read_scan
from liver_pipeline.planning import survey
from liver_pipeline.planning.fingerprint import measure, read_case
from liver_pipeline.planning.histograms import Histogram, label_histograms

SPACING = (0.8, 0.9, 2.5)


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    built = nib.Nifti1Image(array, affine)
    built.header.set_xyzt_units("mm")
    built.set_sform(affine, code=1)
    built.set_qform(affine, code=1)
    nib.save(built, path)


def box_case(folder: Path, number: int, *, affine: np.ndarray | None = None, hu: int = 100) -> None:
    """A liver of 20x20x8 voxels, two tumors in it of 4x5x2 and 2x2x1 voxels; air, liver and tumor of one HU each."""
    label = np.zeros((40, 36, 24), np.uint8)
    label[8:28, 8:28, 8:16] = 1
    label[10:14, 10:15, 9:11] = 2
    label[20:22, 20:22, 12:13] = 2
    image = np.choose(label, [-1000, hu, 20]).astype(np.int16)
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / f"volume-{number}.nii.gz", image, affine)
    save(folder / f"segmentation-{number}.nii.gz", label, affine)


def rows_of(folder: Path, out: Path) -> list[dict[str, Any]]:
    return survey.survey_cases(lits_cases(folder), ScanReader(), out / "cases.jsonl", root=folder)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that were read."""
    names: list[str] = []

    def noted(case: dict[str, str], reader: ScanReader) -> Any:
        names.append(case["case"])
        return read_case(case, reader)

    monkeypatch.setattr(survey, "read_case", noted)
    return names


def test_a_known_case_has_its_known_fingerprint(tmp_path: Path) -> None:
    box_case(tmp_path, 0)
    (row,) = rows_of(tmp_path, tmp_path / "out")
    assert row["usable"] and row["findings"] == []
    assert (row["orientation"], row["shape"]) == ("RAS", [40, 36, 24])
    np.testing.assert_allclose(row["spacing_mm"], SPACING, atol=1e-6)
    np.testing.assert_allclose(row["fov_mm"], [32.0, 32.4, 60.0], atol=1e-3)
    assert row["voxels"] == {"background": 40 * 36 * 24 - 3200, "liver": 3200 - 44, "tumor": 44}
    assert row["liver_ml"] == pytest.approx(3200 * 1.8 / 1000)  # a voxel is 0.8 x 0.9 x 2.5 = 1.8 mm^3
    assert [lesion["volume_ml"] for lesion in row["lesions"]] == pytest.approx([40 * 0.0018, 4 * 0.0018])
    diagonals = [np.hypot(4 * 0.8, 5 * 0.9), np.hypot(2 * 0.8, 2 * 0.9)]  # axial, from voxel corner to voxel corner
    assert [lesion["diameter_mm"] for lesion in row["lesions"]] == pytest.approx(diagonals)
    same = {"sd": 0.0, "p0.5": 100.0, "p5": 100.0, "p50": 100.0, "p95": 100.0, "p99.5": 100.0}
    assert row["intensity"]["liver"] == {"mean": 100.0, **same}
    assert row["intensity"]["tumor"]["p50"] == 20.0
    mean = (3156 * 100 + 44 * 20) / 3200
    assert row["intensity"]["foreground"]["mean"] == pytest.approx(mean)
    assert row["intensity"]["foreground"]["sd"] == pytest.approx(80 * np.sqrt(44 * 3156) / 3200)  # of two values
    assert row["intensity"]["foreground"]["p0.5"] == 20.0  # 44 of 3200 are 1.4 %


def test_a_sphere_has_its_volume_and_diameter_in_any_axis_order(tmp_path: Path) -> None:
    grid = np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij")
    label = np.where(sum(g**2 for g in grid) < 15**2, 2, 0).astype(np.uint8)
    image = np.where(label == 2, 20, -1000).astype(np.int16)
    turned = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 5], [0, 1.0, 0, 7], [0, 0, 0, 1]])  # file axes run P, S, R
    for name, array in (("volume-0", image), ("segmentation-0", label)):
        save(tmp_path / f"{name}.nii.gz", array, turned)
    (row,) = rows_of(tmp_path, tmp_path / "out")
    assert row["orientation"] == "PSR"
    (lesion,) = row["lesions"]
    assert lesion["volume_ml"] == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.02)  # radius 15 mm, in voxels of 1 mm
    assert lesion["diameter_mm"] == pytest.approx(30, abs=1.5)  # to voxel corners


def test_shape_and_spacing_are_told_along_the_patients_axes(tmp_path: Path) -> None:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -0.8, 0.9, 2.5, 1.0  # file axes run I, R, A
    box_case(tmp_path, 0, affine=affine)
    (row,) = rows_of(tmp_path, tmp_path / "out")
    assert (row["orientation"], row["shape"]) == ("IRA", [36, 24, 40])
    np.testing.assert_allclose(row["spacing_mm"], [0.9, 2.5, 0.8], atol=1e-6)


@given(values=st.lists(st.integers(-1024, 3071), min_size=1, max_size=60), percent=st.floats(0, 100))
def test_percentiles_mean_and_sd_equal_those_of_the_voxels(values: list[int], percent: float) -> None:
    array = np.array(values, np.int16).reshape(-1, 1, 1)
    (histogram,) = label_histograms(array, np.zeros(array.shape, np.uint8), 1)
    assert histogram.percentile(percent) == np.percentile(values, percent, method="inverted_cdf")
    assert histogram.mean() == pytest.approx(np.mean(values), abs=1e-9)
    assert histogram.sd() == pytest.approx(np.std(values), abs=1e-9)


@given(st.lists(st.lists(st.integers(-50, 50), min_size=0, max_size=20), min_size=2, max_size=4))
def test_pooled_histograms_are_those_of_all_voxels_together(parts: list[list[int]]) -> None:
    def histogram(values: list[int]) -> Histogram:
        array = np.array([*values, -60], np.int16).reshape(1, -1, 1)  # the last voxel has another label
        label = np.array([0] * len(values) + [1], np.uint8).reshape(1, -1, 1)
        return label_histograms(array, label, 2)[0]

    pooled = histogram(parts[0])
    for part in parts[1:]:
        pooled += histogram(part)
    together = histogram([value for part in parts for value in part])
    assert pooled.total == together.total
    if together.total:
        assert (pooled.low, pooled.counts.tolist()) == (together.low, together.counts.tolist())


def test_slope_and_intercept_make_the_values_and_fractions_of_mr_keep_their_place() -> None:
    array = np.array([0, 1, 2, 4096], np.uint16).reshape(4, 1, 1)
    label = np.zeros(array.shape, np.uint8)
    (hu,) = label_histograms(array, label, 1, slope=1.0, intercept=-1024.0)
    assert (hu.percentile(0), hu.percentile(100)) == (-1024.0, 3072.0)
    (mr,) = label_histograms(array, label, 1, slope=0.001, whole=False)
    assert mr.percentile(100) == pytest.approx(4.096)
    assert mr.percentile(50) == pytest.approx(0.001, abs=4.096 / 4096)


def test_histograms_of_ordinary_and_of_far_reaching_ct_are_pooled_and_beyond_any_ct_counts_as_the_end() -> None:
    def histogram(*values: float) -> Histogram:
        array = np.array(values, np.float32).reshape(-1, 1, 1)
        return label_histograms(array, np.zeros(array.shape, np.uint8), 1)[0]

    pooled = histogram(-1000, 40, 60) + histogram(-1024, 65_000) + histogram(3e8, -3e8)
    assert pooled.total == 7
    assert [pooled.percentile(100 * k / 7) for k in range(1, 8)] == [-131072, -1024, -1000, 40, 60, 65_000, 131072]


def test_a_case_that_cannot_be_measured_is_coded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(image: Any, label: Any, modality: str) -> Any:
        if "volume-1" in str(image.path):
            raise ZeroDivisionError("odd")
        return measure(image, label, modality)

    monkeypatch.setattr(survey, "measure", failing)
    for number in range(3):
        box_case(tmp_path / "data", number, hu=100 + number)
    rows = rows_of(tmp_path / "data", tmp_path / "out")
    assert [row["usable"] for row in rows] == [True, False, True]
    assert "ZeroDivisionError: odd" in rows[1]["findings"][-1]["detail"]


def test_a_second_run_reads_only_what_is_new_or_changed(tmp_path: Path, reads: list[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for number in range(3):
        box_case(data, number, hu=100 + number)
    first = rows_of(data, out)
    assert reads == ["volume-0", "volume-1", "volume-2"]
    reads.clear()
    assert rows_of(data, out) == first
    assert reads == []
    os.utime(data / "volume-1.nii.gz")  # touched, not changed: known by its hash
    box_case(data, 2, hu=150)
    box_case(data, 3, hu=170)
    again = rows_of(data, out)
    assert reads == ["volume-2", "volume-3"]
    assert again[1] == first[1]
    assert again[2]["intensity"]["liver"]["mean"] == 150.0


def test_a_renamed_case_is_known_by_its_content_and_other_reading_is_not(tmp_path: Path, reads: list[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    box_case(data, 0)
    rows_of(data, out)
    for name in ("volume", "segmentation"):
        (data / f"{name}-0.nii.gz").rename(data / f"{name}-7.nii.gz")
    reads.clear()
    assert rows_of(data, out)[0]["case"] == "volume-7"
    assert reads == []
    survey.survey_cases(lits_cases(data), ScanReader(modality="mr"), out / "cases.jsonl", root=data)
    assert reads == ["volume-7"]


def test_one_bad_case_is_listed_and_stops_nothing(tmp_path: Path, reads: list[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for number in range(4):
        box_case(data, number)
    packed = data / "volume-1.nii.gz"
    packed.write_bytes(packed.read_bytes()[:-100])
    shifted = np.diag([*SPACING, 1.0])
    shifted[2, 3] = 50.0
    save(data / "segmentation-2.nii.gz", np.ones((40, 36, 24), np.uint8), shifted)
    rows = rows_of(data, out)
    codes = [[(f["file"], f["code"], f["severity"]) for f in row["findings"]] for row in rows]
    assert codes[1] == [("image", "TRUNCATED", "error")]
    assert codes[2] == [("label", "LABEL_GRID_MISMATCH", "error")]
    assert [row["usable"] for row in rows] == [True, False, False, True]
    summary = survey.summarize_dataset(rows, "ct")
    assert (summary["n_cases"], summary["n_usable"]) == (4, 2)
    assert summary["codes"] == {"TRUNCATED": 1, "LABEL_GRID_MISMATCH": 1}
    reads.clear()
    assert rows_of(data, out) == rows
    assert reads == []  # bad files are known as well


def test_a_file_that_was_away_is_tried_again(tmp_path: Path) -> None:
    box_case(tmp_path / "data", 0)
    cases = lits_cases(tmp_path / "data")
    label = tmp_path / "data" / "segmentation-0.nii.gz"
    label.rename(tmp_path / "away.nii.gz")
    ledger = tmp_path / "cases.jsonl"
    (row,) = survey.survey_cases(cases, ScanReader(), ledger, root=tmp_path)
    assert [f["code"] for f in row["findings"]] == ["NOT_FOUND"]
    (tmp_path / "away.nii.gz").rename(label)
    assert survey.survey_cases(cases, ScanReader(), ledger, root=tmp_path)[0]["usable"]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, reads: list[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for number in range(4):
        box_case(data, number, hu=100 + number)
    child = os.fork()  # as it is: importing everything once more would take longer than the test
    if child == 0:

        def read_or_die(case: dict[str, str], reader: ScanReader) -> Any:
            if case["case"] == "volume-2":
                os.kill(os.getpid(), signal.SIGKILL)
            return read_case(case, reader)

        vars(survey)["read_case"] = read_or_die
        rows_of(data, out)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    rows = rows_of(data, out)
    assert reads == ["volume-2", "volume-3"]
    fresh = rows_of(data, tmp_path / "fresh")
    assert rows == fresh


def test_the_summary_has_medians_ranges_and_pooled_values(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number, hu in enumerate((90, 100, 140)):
        affine = np.diag([0.7 + 0.1 * number, 0.9, 2.5, 1.0])
        box_case(data, number, hu=hu, affine=affine)
    rows = rows_of(data, tmp_path / "out")
    rows[1]["patient"] = rows[0]["patient"]
    summary = survey.summarize_dataset(rows, "ct")
    assert (summary["n_patients"], summary["n_patients_with_several_cases"]) == (2, 1)
    assert summary["spacing_mm"]["median"] == pytest.approx([0.8, 0.9, 2.5], abs=1e-5)
    assert summary["spacing_mm"]["max"] == pytest.approx([0.9, 0.9, 2.5], abs=1e-5)
    assert (summary["n_lesions"], summary["n_cases_with_tumor"]) == (6, 3)
    assert summary["intensity"]["liver"]["mean"] == pytest.approx(110)
    assert summary["intensity"]["liver"]["p50"] == 100.0
    assert survey.summarize_dataset(rows, "mr")["intensity"] is None


def test_measuring_an_empty_label_gives_no_figures_for_what_is_not_there(tmp_path: Path) -> None:
    box_case(tmp_path, 0)
    save(tmp_path / "segmentation-0.nii.gz", np.zeros((40, 36, 24), np.uint8), np.diag([*SPACING, 1.0]))
    image, label = (read(tmp_path / name) for read, name in
                    ((read_scan, "volume-0.nii.gz"), (read_label_map, "segmentation-0.nii.gz")))  # fmt: skip
    row = measure(image, label, "ct")
    assert row["lesions"] == [] and row["liver_ml"] == 0
    assert row["intensity"]["liver"] is None and row["intensity"]["foreground"] is None
