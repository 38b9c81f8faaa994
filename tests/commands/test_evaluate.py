from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from liver_pipeline.cli import main
from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.evaluation.pairing import Pair, find_pairs
from liver_pipeline.evaluation.scoring import pair_picture
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.file_names import case_name, lits_case_name
from liver_pipeline.io.probabilities import write_probabilities
from liver_pipeline.io.volumes import read_label_map, write_label_map
from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.reports.gallery import CONTOURS

AFFINE = np.array([[-0.8, 0, 0, 60], [0, -0.8, 0, 50], [0, 0, 2.5, -300], [0, 0, 0, 1.0]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A liver block with lesions of several sizes: predicted and reference labels, uint8."""
    rng = np.random.default_rng(seed)
    label = np.zeros((26, 24, 18), dtype=np.uint8)
    label[3:22, 4:20, 2:15] = 1
    pred = np.zeros_like(label)
    pred[4:23, 4:20, 2:15] = 1
    for low in rng.integers((4, 5, 3), (17, 15, 11), size=(4, 3)):
        size = rng.integers(1, 5, size=3)
        label[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = 2
        moved = low + rng.integers(-1, 2, size=3)
        pred[tuple(slice(a, a + n) for a, n in zip(moved, size, strict=True))] = 2
    return pred, label


def folders(tmp_path: Path, **cases: tuple[np.ndarray, np.ndarray]) -> tuple[Path, Path, Path]:
    for name, (pred, label) in cases.items():
        save(tmp_path / "pred" / f"{name}.nii.gz", pred)
        save(tmp_path / "label" / f"{name}.nii.gz", label)
    return tmp_path / "pred", tmp_path / "label", tmp_path / "out"


def schema() -> dict[str, Any]:
    path = files("liver_pipeline").joinpath("schemas/metrics.schema.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("protocol", ["lits", "lits-official", "plain"])
def test_tables_and_report_are_written_and_follow_the_schema(tmp_path: Path, protocol: str) -> None:
    pairs = {"a": scene(0), "b": scene(1)}
    pred_dir, label_dir, output = folders(tmp_path, **pairs)
    metrics = evaluate(pred_dir, label_dir, output, protocol=protocol)
    written = json.loads((output / "metrics.json").read_text())
    assert written == metrics
    jsonschema.validate(written, schema())
    assert sorted(path.name for path in output.iterdir()) == ["cases.csv", "lesions.csv", "metrics.json", "report.html"]
    with (output / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    figures, block = (metrics["figures"], "official_") if protocol == "lits-official" else (metrics["cases"], "")
    for row in rows:
        expected = case_figures(*pairs[row["case"]], (0.8, 0.8, 2.5))
        for region, key in itertools.product(("liver", "tumor"), ("dice", "iou", "precision", "recall", "accuracy")):
            assert float(row[f"{region}_{key}"]) == figures[row["case"]][region][key] == expected[region][key]
        for kind in ("reference", "predicted"):
            assert int(row[f"{block}n_{kind}_lesions"]) == expected["lesions"][f"n_{kind}"]


def test_means_carry_n_interval_and_numbers_of_empty_masks(tmp_path: Path) -> None:
    pred, label = scene()
    no_tumor = np.minimum(label, 1)
    pred_dir, label_dir, output = folders(
        tmp_path, both=(no_tumor, no_tumor), invented=(pred, no_tumor), missed=(no_tumor, label), normal=(pred, label)
    )
    metrics = evaluate(pred_dir, label_dir, output)
    tumor = metrics["summary"]["tumor_dice"]
    dice = metrics["cases"]["normal"]["tumor"]["dice"]
    assert (tumor["n"], tumor["n_both_empty"], tumor["n_reference_empty"], tumor["n_prediction_empty"]) == (3, 1, 1, 1)
    assert tumor["mean"] == pytest.approx(dice / 3)
    assert 0 <= tumor["ci_low"] <= tumor["mean"] <= tumor["ci_high"] <= dice
    assert metrics["global"]["lesion_dice_per_case"] == pytest.approx((1 + 0 + 0 + dice) / 4)  # LiTS: both empty is 1
    assert metrics["summary"]["tumor_assd_area"]["n"] == 1
    assert (metrics["tumor_free"]["n_cases"], metrics["tumor_free"]["n_clean"]) == (2, 1)
    assert metrics["agreement"]["tumor"]["n"] == 4


def without_places(case: dict[str, Any]) -> dict[str, Any]:
    """Leave out patient coordinates, whose last digits follow the float32 origin in the header."""
    lesions = [{key: v for key, v in row.items() if not key.endswith("s_mm")} for row in case["lesion_list"]]
    return case | {"lesion_list": lesions}


def assert_close(one: Any, other: Any, path: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{path}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-4), path  # the affine of an oblique file is float32
    else:
        assert one == other, path


def oblique() -> np.ndarray:
    angle = np.radians(12.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    return affine


@pytest.mark.parametrize("affine", [AFFINE, oblique()], ids=["straight", "oblique"])
def test_lits_figures_are_identical_for_all_48_axis_orders_and_flips(tmp_path: Path, affine: np.ndarray) -> None:
    pred, label = scene(5)
    for number, (order, flips) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    ):
        orientation = np.stack([np.argsort(order), np.array(flips)], axis=1)
        suffix = ".nii" if number % 2 else ".nii.gz"
        for side, array in (("pred", pred), ("label", label)):
            dtype = np.float32 if side == "pred" and number % 3 == 0 else np.uint8
            image = nib.Nifti1Image(array.astype(dtype), affine).as_reoriented(orientation)
            image.set_sform(image.affine, 1)
            (tmp_path / side).mkdir(exist_ok=True)
            nib.save(image, tmp_path / side / f"case{number:02d}{suffix}")
    metrics = evaluate(tmp_path / "pred", tmp_path / "label", tmp_path / "out", report=False)
    assert metrics["n_cases"] == 48
    first, *others = metrics["cases"].values()
    for case in others:
        assert_close(case, first)
        if affine is AFFINE:
            assert without_places(case) == without_places(first)  # to the bit


BAD_INPUT = {
    "LABEL_GRID_MISMATCH": "other shape",
    "LABEL_VALUES": "fractions",
    "NOT_3D": "four axes",
    "NON_FINITE": "nan",
    "NO_LIVER": "reference without liver",
    "GZIP_CRC": "a bit of the checksum flipped, so that all voxels can be read",
}


@pytest.mark.parametrize(
    ("code", "protocol"),
    [
        *((code, "lits") for code in BAD_INPUT),
        *((code, "lits-official") for code in BAD_INPUT if code != "LABEL_VALUES"),
    ],
)
def test_bad_case_gets_a_code_and_a_line_and_the_others_go_on(tmp_path: Path, code: str, protocol: str) -> None:
    pred, label = scene()
    pred_dir, label_dir, output = folders(tmp_path, bad=(pred, label), good=(pred, label))
    wrong: dict[str, tuple[str, np.ndarray]] = {
        "LABEL_GRID_MISMATCH": ("pred", pred[:-1]),
        "LABEL_VALUES": ("pred", pred.astype(np.float32) + 0.25),
        "NOT_3D": ("pred", np.stack([pred, pred], axis=-1)),
        "NON_FINITE": ("pred", np.where(pred == 2, np.nan, pred).astype(np.float32)),
        "NO_LIVER": ("label", np.zeros_like(label)),
        "GZIP_CRC": ("pred", pred),
    }
    side, array = wrong[code]
    bad = save(tmp_path / side / "bad.nii.gz", array)
    if code == "GZIP_CRC":
        stored = bytearray(bad.read_bytes())
        stored[-8] ^= 1
        bad.write_bytes(stored)
    run = CliRunner().invoke(main, ["evaluate", str(pred_dir), str(label_dir), str(output), "--protocol", protocol])
    assert run.exit_code == 3, run.output
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["failures"]["bad"]["code"] == code
    assert "\n" not in metrics["failures"]["bad"]["detail"]
    assert "bad.nii.gz" in metrics["failures"]["bad"]["detail"]
    assert list(metrics["cases"]) == ["good"]
    assert f"bad: {code}:" in run.output
    jsonschema.validate(metrics, schema())


def test_a_label_map_that_names_no_value_of_the_references_says_which_there_are(tmp_path: Path) -> None:
    pred, label = scene()
    pred_dir, label_dir, output = folders(tmp_path, a=(pred, label))
    failure = evaluate(pred_dir, label_dir, output, label_map={6: 1, 7: 2})["failures"]["a"]
    assert failure["code"] == "NO_LIVER" and "NO_LIVER" not in failure["detail"]
    assert "does not name 1, 2, which became background" in failure["detail"]
    assert "of the values that label_map names (6, 7) none occurs" in failure["detail"]


def test_unknown_labels_fail_under_lits_and_are_taken_as_the_program_takes_them_officially(tmp_path: Path) -> None:
    pred, label = scene()
    odd = np.where(pred == 2, 5, pred).astype(np.uint8)
    pred_dir, label_dir, output = folders(tmp_path, a=(odd, label))
    metrics = evaluate(pred_dir, label_dir, output)
    assert metrics["failures"]["a"]["code"] == "LABEL_VALUES"
    official = evaluate(pred_dir, label_dir, output, protocol="lits-official", overwrite=True)
    assert official["cases"]["a"]["n_predicted_lesions"] == 0  # 5 is liver (>= 1) and no tumor (== 2)


def test_official_protocol_truncates_floats_and_wraps_at_8_bits(tmp_path: Path) -> None:
    _, label = scene()
    almost = label.astype(np.float32) + 0.999  # truncated back, background too
    wrapped = np.where(label == 1, 257, label).astype(np.int16)  # 257 is 1 in 8 bits
    pred_dir, label_dir, output = folders(tmp_path, almost=(almost, label), wrapped=(wrapped, label))
    metrics = evaluate(pred_dir, label_dir, output, protocol="lits-official")
    for case in metrics["cases"].values():
        assert case["liver"]["dice"] == case["lesion_dice_per_case"] == 1.0


def test_grid_that_is_off_by_more_than_half_a_voxel_fails(tmp_path: Path) -> None:
    pred, label = scene()
    pred_dir, label_dir, output = folders(tmp_path, near=(pred, label), far=(pred, label))
    for name, shift in (("near", 0.2), ("far", 0.5)):  # of voxels of 0.8 mm: a quarter, and more than a half
        moved = AFFINE.copy()
        moved[0, 3] += shift
        save(pred_dir / f"{name}.nii.gz", pred, moved)
    metrics = evaluate(pred_dir, label_dir, output)
    assert metrics["failures"]["far"]["code"] == "LABEL_GRID_MISMATCH"
    assert any("LABEL_GRID_MISMATCH" in warning for warning in metrics["cases"]["near"]["warnings"])


def test_missing_and_extra_cases_are_failures_and_the_others_are_scored(tmp_path: Path) -> None:
    pred, label = scene()
    pred_dir, label_dir, output = folders(tmp_path, a=(pred, label), b=(pred, label))
    (pred_dir / "a.nii.gz").rename(pred_dir / "c.nii.gz")
    run = CliRunner().invoke(main, ["evaluate", str(pred_dir), str(label_dir), str(output)])
    assert run.exit_code == 3
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics["cases"]) == ["b"]
    codes = {case: failure["code"] for case, failure in metrics["failures"].items()}
    assert codes == {"a": "NO_PREDICTION", "c": "NO_REFERENCE"}
    jsonschema.validate(metrics, schema())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_memory_for_workers_is_counted_by_the_size_of_references_of_every_format(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pred_dir, label_dir, out = folders(tmp_path, a=scene())
    (nifti,) = label_dir.iterdir()
    label_map = read_label_map(nifti)
    if suffix != ".nii.gz":
        write_label_map(label_dir / f"a{suffix}", label_map.array, label_map)
        nifti.unlink()
    sizes: list[int] = []

    def counted(voxels: list[int], *_: Any) -> int:
        sizes.extend(voxels)
        return 1

    monkeypatch.setattr("liver_pipeline.evaluation.score_pool._count_workers", counted)
    assert evaluate(pred_dir, label_dir, out)["n_cases"] == 1
    assert sizes == [label_map.array.size]


def test_a_prediction_that_is_a_link_in_a_circle_costs_its_case_alone(tmp_path: Path) -> None:
    pred_dir, label_dir, out = folders(tmp_path, a=scene(), b=scene(1))
    (pred_dir / "b.nii.gz").unlink()
    (pred_dir / "b.nii.gz").symlink_to("b.nii.gz")
    metrics = evaluate(pred_dir, label_dir, out)
    assert (metrics["n_cases"], metrics["n_failed"]) == (1, 1)
    assert "READ_FAILED" in (out / "metrics.json").read_text()


def test_folders_without_a_name_in_common_are_refused(tmp_path: Path) -> None:
    pred_dir, label_dir, output = folders(tmp_path, a=scene())
    (pred_dir / "a.nii.gz").rename(pred_dir / "c.nii.gz")
    with pytest.raises(
        ValueError, match=r"no prediction has a reference: .* has c, .* has a; files are matched by name"
    ):
        evaluate(pred_dir, label_dir, output)
    assert not output.exists()


def test_names_with_accents_in_two_forms_and_names_that_are_no_utf_8_are_scored(tmp_path: Path) -> None:
    pred_dir, label_dir, output = folders(tmp_path, a=scene(0), b=scene(1), c=scene(2))
    for folder, accents in ((pred_dir, "M\u00fcller"), (label_dir, "Mu\u0308ller")):
        (folder / "a.nii.gz").rename(folder / f"{accents}.nii.gz")
        (folder / "b.nii.gz").rename(folder / os.fsdecode(b"M\xfcller.nii.gz"))
    command = [sys.executable, "-m", "liver_pipeline", "evaluate", str(pred_dir), str(label_dir), str(output)]
    (pred_dir / "c.nii.gz").unlink()
    (label_dir / "c.nii.gz").rename(label_dir / os.fsdecode(b"\xe9.nii.gz"))  # its name is printed
    run = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert run.returncode == 3, run.stderr
    with (output / "cases.csv").open(encoding="utf-8", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["M\u00fcller", "M\\xfcller"]
    for name in ("metrics.json", "lesions.csv", "report.html"):
        assert (output / name).read_text(encoding="utf-8")
    assert list(json.loads((output / "metrics.json").read_text())["failures"]) == ["\udce9"]


def test_named_cases_alone_are_scored(tmp_path: Path) -> None:
    pred_dir, label_dir, output = folders(tmp_path, a=scene(0), b=scene(1))
    (pred_dir / "b.nii.gz").unlink()
    assert evaluate(pred_dir, label_dir, output, cases=["a"])["n_cases"] == 1
    with pytest.raises(ValueError, match="no file for cases z"):
        evaluate(pred_dir, label_dir, tmp_path / "other", cases=["a", "z"])
    (tmp_path / "names.txt").write_bytes("\ufeffa \n\n".encode())
    (tmp_path / "names.csv").write_text("fold;case\n0;a\n")
    for number, words in enumerate(["a", tmp_path / "names.txt", tmp_path / "names.csv"]):
        out = tmp_path / f"out{number}"
        run = CliRunner().invoke(main, ["evaluate", str(pred_dir), str(label_dir), str(out), "--cases", str(words)])
        assert run.exit_code == 0, run.output
        assert list(json.loads((out / "metrics.json").read_text())["cases"]) == ["a"]


def test_two_files_of_one_case_fail_that_case_only(tmp_path: Path) -> None:
    pred, label = scene()
    pred_dir, label_dir, output = folders(tmp_path, a=(pred, label), b=(pred, label))
    save(pred_dir / "a.nii", pred)
    metrics = evaluate(pred_dir, label_dir, output)
    assert metrics["failures"]["a"]["code"] == "DUPLICATE_NAME"
    assert list(metrics["cases"]) == ["b"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    pred_dir, label_dir, output = folders(tmp_path, a=scene())
    output.mkdir()
    (output / "cases.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        evaluate(pred_dir, label_dir, output)
    assert (output / "cases.csv").read_text() == "mine"
    evaluate(pred_dir, label_dir, output, overwrite=True)
    assert (output / "cases.csv").read_text() != "mine"


def test_lits_numbers_match_whatever_the_prefix_and_volumes_beside_labels_are_left_out(tmp_path: Path) -> None:
    pred, label = scene()
    save(tmp_path / "pred" / "volume-7.nii.gz", pred)
    save(tmp_path / "label" / "segmentation-007.nii", label)
    save(tmp_path / "label" / "volume-7.nii", label.astype(np.int16))
    save(tmp_path / "label" / "._hidden.nii", label)
    pairs, failures = find_pairs(tmp_path / "pred", tmp_path / "label")
    assert not failures
    assert [(pair.case, pair.label.name) for pair in pairs] == [("volume-7", "segmentation-007.nii")]


def test_sub_folders_are_part_of_the_name(tmp_path: Path) -> None:
    pred, label = scene()
    for site in ("north", "south"):
        save(tmp_path / "pred" / site / "scan.nii.gz", pred)
        save(tmp_path / "label" / site / "scan.nii.gz", label)
    pairs, _ = find_pairs(tmp_path / "pred", tmp_path / "label")
    assert [pair.case for pair in pairs] == ["north/scan", "south/scan"]


@pytest.mark.parametrize(
    ("name", "case"),
    [("liver_3.nii.gz", "liver_3"), ("a.1.nii", "a.1"), ("test-volume-5.nii", "test-volume-5"), ("X.NII.GZ", "X")],
)
def test_case_is_the_file_name_without_its_ending(name: str, case: str) -> None:
    assert lits_case_name(case_name(name)) == case


def test_empty_or_misspelt_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.nii"):
        evaluate(tmp_path / "empty", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no folder"):
        evaluate(tmp_path / "typo", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ValueError, match="protocol"):
        evaluate(tmp_path, tmp_path, tmp_path / "out", protocol="list")
    (tmp_path / "empty" / "a.nii.gz").touch()
    with pytest.raises(ValueError, match="against itself"):
        evaluate(tmp_path / "empty", tmp_path / "empty" / ".", tmp_path / "out")


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    pred_dir, label_dir, output = folders(tmp_path, a=scene(0), b=scene(1), c=scene(2))
    one = evaluate(pred_dir, label_dir, output, workers=1)
    two = evaluate(pred_dir, label_dir, output, workers=2, overwrite=True)
    assert one == two


def test_small_lesions_can_be_left_out_of_detection(tmp_path: Path) -> None:
    label = np.ones((10, 10, 10), dtype=np.uint8)
    label[1, 1, 1] = 2
    label[5:8, 5:8, 5:8] = 2
    pred_dir, label_dir, output = folders(tmp_path, a=(label, label))
    voxel_ml = 0.8 * 0.8 * 2.5 / 1000
    all_of_them = evaluate(pred_dir, label_dir, output)
    large = evaluate(pred_dir, label_dir, output, min_lesion_ml=2 * voxel_ml, overwrite=True)
    assert all_of_them["detection"]["iou>0.5"]["all"]["tp_label"] == 2
    assert large["detection"]["iou>0.5"]["all"]["tp_label"] == 1
    assert large["cases"]["a"]["lits_groups"]["n_reference_lesions"] == 2  # LiTS knows no minimum


def test_probabilities_give_auc_brier_and_calibration(tmp_path: Path) -> None:
    pred, label = scene()
    pred_dir, label_dir, output = folders(tmp_path, a=(pred, label))
    channels = np.stack([label == value for value in range(3)], axis=-1).astype(np.float32)
    save(tmp_path / "prob" / "a.nii.gz", channels)
    metrics = evaluate(pred_dir, label_dir, output, probability_dir=tmp_path / "prob")
    for region in ("liver", "tumor"):
        assert metrics["global"][f"{region}_auc_roc"] == 1.0
        assert metrics["global"][f"{region}_brier"] == metrics["global"][f"{region}_ece"] == 0.0
    assert CONTOURS not in (output / "report.html").read_text()  # not in eight bits: of another tool
    save(tmp_path / "prob" / "a.nii.gz", np.full(label.shape, 3.0, np.float32))
    metrics = evaluate(pred_dir, label_dir, output, probability_dir=tmp_path / "prob", overwrite=True)
    assert metrics["failures"]["a"]["code"] == "PROBABILITY_RANGE"


def test_pictures_show_the_scan_where_there_is_one_on_the_grid(tmp_path: Path) -> None:
    pred, label = scene()
    pair = Pair("a", save(tmp_path / "pred.nii.gz", pred), save(tmp_path / "label.nii.gz", label))
    scan = np.random.default_rng(0).integers(-100, 200, label.shape).astype(np.int16)
    images = [
        save(tmp_path / "scan.nii.gz", scan),
        save(tmp_path / "short.nii.gz", scan[:-1]),
        tmp_path / "none.nii.gz",
    ]
    plain, *shown = (pair_picture(replace(pair, image=image))["case"] for image in (None, *images))
    assert shown[0] != plain == shown[1] == shown[2]


def test_reliability_with_and_without_the_temperature_of_the_run(tmp_path: Path) -> None:
    """Liver is called with 0.8 where half is liver; odds of 4 to 1 become, with a very high temperature, even."""
    _, label = scene()
    checks = np.indices(label.shape).sum(0) % 2 == 0
    label = np.where(checks, np.uint8(1), np.uint8(0))
    pred_dir, label_dir, output = folders(tmp_path, a=(np.ones_like(label), label))
    levels = np.zeros((*label.shape, 2), np.uint8, order="F")
    levels[..., 0] = 204
    sha256 = write_probabilities(pred_dir / "a.probabilities.nii.gz", levels, read_label_map(pred_dir / "a.nii.gz"))
    plain = evaluate(pred_dir, label_dir, output, protocol="plain", probability_dir=pred_dir)["reliability"]["liver"]
    assert list(plain) == ["raw"]
    assert plain["raw"]["ece"] == pytest.approx(0.3)
    assert plain["raw"]["voxels"] == [0] * 8 + [label.size, 0]
    assert plain["raw"]["confidence"][8] == pytest.approx(0.8)
    record: dict[str, Any] = {
        "output": {"sha256": file_sha256(pred_dir / "a.nii.gz")},
        "probabilities": {"sha256": sha256},
    }
    record["confidence"] = {"temperature": 20.0, "reason": None}
    (pred_dir / "a.json").write_text(json.dumps(record))
    metrics = evaluate(pred_dir, label_dir, output, protocol="plain", probability_dir=pred_dir, overwrite=True)
    jsonschema.validate(metrics, schema())
    both = metrics["reliability"]["liver"]
    assert both["raw"] == plain["raw"]
    # shares 51, 204, 1/4 of 255 to the 1/20: 1.000, 1.072, 0.766
    assert both["calibrated"]["confidence"][6] == pytest.approx((1.072 + 0.766) / 2.838, abs=0.01)
    assert metrics["cases"]["a"]["probabilities"]["liver"]["calibrated_ece"] == both["calibrated"]["ece"]
    page = (output / "report.html").read_text()
    assert "reliability" in page and CONTOURS in page


@pytest.mark.real_data
def test_worked_cases_come_out_of_the_whole_program_to_1e_9(real_data: Path, tmp_path: Path) -> None:
    folder = real_data.parent / "lits_scoring"
    expected = json.loads((folder / "expected.json").read_text())["cases"]
    official = evaluate(folder / "pred", folder / "truth", tmp_path / "official", protocol="lits-official")
    meant = evaluate(folder / "pred", folder / "truth", tmp_path / "lits")
    assert official["n_cases"] == meant["n_cases"] == len(expected)

    def compare(one: Any, other: Any) -> None:
        if isinstance(other, dict):
            assert one.keys() == other.keys()
            for key in other:
                compare(one[key], other[key])
        elif isinstance(other, list):
            assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
        else:
            assert one == pytest.approx(other, rel=1e-9, abs=1e-12)

    for name, case in expected.items():
        compare(official["cases"][name], case["official"])
        groups = meant["cases"][name]["lits_groups"]
        detected = groups.pop("detected_lesions")
        reference = dict(case["corrected"])
        by_figure = reference.pop("detected_lesions")
        compare(groups, reference)
        for key, values in by_figure.items():  # RAS numbering may list the same lesions in another order
            assert sorted(detected[key]) == pytest.approx(sorted(values), rel=1e-9, abs=1e-12)
