"""Segments from the liver's shape: the same however a mask is stored, refused where it shows no whole liver."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nibabel import orientations

from liver_pipeline.bundle.shipped import run_folder
from liver_pipeline.cli import main
from liver_pipeline.evaluation.couinaud import (
    CELLS,
    FINE,
    grid_over,
    labels_at,
    liver_voxels,
    no_whole_liver,
    segments_by,
    shipped_network,
    write_segments,
)
from liver_pipeline.evaluation.segments import score_segments
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.synthesis.shapes import invent_shape
from tests.orientations import OBLIQUE, ORIENTATIONS

THREE_MM = np.diag([3.0, 3.0, 3.0, 1.0])


class Octants(torch.nn.Module):
    """Names a cell by the half of the box in which it lies along each axis: 1 + right + 2 * front + 4 * head."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits that are sure."""
        places = (image[:, 1:] > 0).long()
        number = places[:, 0] + 2 * places[:, 1] + 4 * places[:, 2]
        return torch.nn.functional.one_hot(number, 8).movedim(-1, 1).float() * 50


@pytest.fixture(scope="module")
def liver() -> np.ndarray:
    """An invented liver at 3 mm with a lesion, clear of the border."""
    label_map = np.pad(np.minimum(invent_shape(0).labels.numpy(), 1), 3)
    middle = np.argwhere(label_map)[len(np.argwhere(label_map)) // 2]
    label_map[tuple(slice(i - 2, i + 2) for i in middle)] *= 2
    return label_map


def save(path: Path, array: np.ndarray, affine: np.ndarray = THREE_MM) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def test_cells_cover_the_liver_and_lie_where_they_say() -> None:
    block = np.zeros((40, 50, 60), dtype=np.uint8)
    block[10:30, 10:40, 10:50] = 1
    linear = np.diag([2.0, 1.0, 0.5])
    grid = grid_over(liver_voxels(block > 0), linear)
    np.testing.assert_allclose(grid.centre, [39, 24.5, 14.75], atol=0.5)  # middle of the block, mm
    share = labels_at(block, linear, grid.points(FINE)).float().mean().item()
    # a grid a quarter longer than from first to last voxel, each way
    assert share == pytest.approx(20 * 30 * 40 / (19 * 29 * 39 * 1.25**3), rel=0.04)


def test_each_voxel_gets_the_segment_of_its_place() -> None:
    block = np.zeros((44, 30, 26), dtype=bool)
    block[4:40, 5:25, 3:23] = True
    segments, certainty = segments_by(Octants(), block, np.diag([1.0, 2.0, 3.0]))
    right, front, head = (np.indices(block.shape)[axis] >= middle for axis, middle in enumerate((22, 15, 13)))
    np.testing.assert_array_equal(segments, np.where(block, 1 + right + 2 * front + 4 * head, 0))
    assert certainty == pytest.approx(1.0)


def test_an_empty_mask_has_no_segments() -> None:
    segments, certainty = segments_by(Octants(), np.zeros((5, 6, 7), dtype=bool), np.eye(3))
    assert (segments.shape, certainty) == ((5, 6, 7), 0.0)
    assert not segments.any()


@pytest.mark.parametrize(
    ("turn", "ways"),
    [
        (OBLIQUE, ORIENTATIONS[::11]),
        pytest.param(OBLIQUE, ORIENTATIONS, marks=pytest.mark.slow),
        pytest.param(np.eye(3), ORIENTATIONS, marks=pytest.mark.slow),
    ],
    ids=["few", "oblique", "straight"],
)
def test_segments_are_the_same_in_all_orientations(
    tmp_path: Path, liver: np.ndarray, turn: np.ndarray, ways: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    coarse = np.ascontiguousarray(liver[::2, ::2, ::2])  # 6 mm
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([6.0, 6.1, 5.9]), (-31.7, 12.3, 400.1)
    write_segments(save(tmp_path / "mask.nii.gz", coarse, affine), tmp_path / "map.nii.gz")
    expected = read_label_map(tmp_path / "map.nii.gz", allowed=range(9)).array
    assert set(np.unique(expected)) == set(range(9))
    np.testing.assert_array_equal(expected > 0, coarse > 0)
    for permutation, flips in ways:
        way = np.array(list(zip(permutation, flips, strict=True)), dtype=float)
        turned = np.ascontiguousarray(orientations.apply_orientation(coarse, way))
        path = save(tmp_path / "turned.nii.gz", turned, affine @ orientations.inv_ornt_aff(way, coarse.shape))
        write_segments(path, tmp_path / "turned_map.nii.gz", overwrite=True)
        found = read_label_map(tmp_path / "turned_map.nii.gz", allowed=range(9)).array
        np.testing.assert_array_equal(found, orientations.apply_orientation(expected, way))


def test_a_shifted_finer_or_padded_scan_of_one_liver_has_the_same_segments(liver: np.ndarray) -> None:
    network, _ = shipped_network()
    inside = liver > 0
    segments, _ = segments_by(network, inside, np.diag([3.0, 3.0, 3.0]))
    padded, _ = segments_by(network, np.pad(inside, ((7, 0), (0, 5), (4, 9))), np.diag([3.0, 3.0, 3.0]))
    np.testing.assert_array_equal(padded[7:, :-5, 4:-9], segments)
    fine, _ = segments_by(network, inside.repeat(2, 0).repeat(2, 1).repeat(3, 2), np.diag([1.5, 1.5, 1.0]))
    assert (fine[::2, ::2, ::3][inside] == segments[inside]).mean() > 0.97


def test_segments_lie_as_in_a_person(liver: np.ndarray) -> None:
    """Left (2, 3) of right (5 to 8), 6 and 7 behind 5 and 8, 7 and 8 above 6 and 5, 2 above 3."""
    segments, _ = segments_by(shipped_network()[0], liver > 0, np.diag([3.0, 3.0, 3.0]))
    x, y, z = (np.array([np.argwhere(segments == n).mean(0)[axis] if n else 0 for n in range(9)]) for axis in range(3))
    assert max(x[2], x[3]) < x[4] < min(x[5:9])
    assert max(y[6], y[7]) < min(y[5], y[8])
    assert max(z[5], z[6]) < min(z[7], z[8])
    assert z[3] < z[2]


def half(label_map: np.ndarray) -> np.ndarray:
    cut = label_map.copy()
    cut[:, :, : label_map.shape[2] // 2] = 0
    return cut[:, :, label_map.shape[2] // 2 :]


def two_pieces(label_map: np.ndarray) -> np.ndarray:
    apart = label_map.copy()
    apart[apart.shape[0] // 2 - 1 : apart.shape[0] // 2 + 1] = 0
    return apart


WRONG = {
    "no liver": (np.zeros_like, "holds no liver"),
    "cut off": (half, "touches the border"),
    "in pieces": (two_pieces, "in pieces"),
    "mirrored": (lambda label_map: label_map[::-1], "no shape that the network knows"),
    "half turned": (lambda label_map: label_map[::-1, ::-1], "no shape that the network knows"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_whole_liver_gets_no_segments_and_is_told(
    tmp_path: Path, liver: np.ndarray, change: object, says: str
) -> None:
    assert callable(change)
    mask = save(tmp_path / "mask.nii.gz", np.ascontiguousarray(change(liver)).astype(np.uint8))
    run = CliRunner().invoke(main, ["segments", str(mask), str(tmp_path / "map.nii.gz")])
    assert run.exit_code == 2
    assert "SEGMENTS_NOT_ESTIMATED" in run.output
    assert says in run.output
    assert not (tmp_path / "map.nii.gz").exists()
    words = ["describe", str(mask), "--segments", "auto", "--resect", "5,6", "--json", "-"]
    table = json.loads(CliRunner().invoke(main, words).stdout)
    assert table["liver"]["segments_ml"] is table["resection"] is table["segments_source"] is None
    for key in ("segments", "segments_ml", "resection"):
        assert says in table["reasons"][key]


@pytest.mark.parametrize(("edge_mm", "says"), [(1.5, "ml are possible"), (5.0, "ml are possible"), (3.0, None)])
def test_a_liver_of_impossible_size_is_none(liver: np.ndarray, edge_mm: float, says: str | None) -> None:
    why = no_whole_liver(liver > 0, np.diag([edge_mm] * 3 + [1.0]))
    assert why is None if says is None else why is not None and says in why


def test_described_segments_say_that_they_are_estimated(tmp_path: Path, liver: np.ndarray) -> None:
    mask = save(tmp_path / "mask.nii.gz", liver)
    run = CliRunner().invoke(main, ["describe", str(mask), "--segments", "auto", "--csv", str(tmp_path / "l.csv")])
    assert run.exit_code == 0, run.output
    assert "ESTIMATED from the liver's shape by default_segments@1" in run.output
    assert "estimated by default_segments@1" in (tmp_path / "l.csv").read_text()
    table = json.loads(CliRunner().invoke(main, ["describe", str(mask), "--segments", "auto", "--json", "-"]).stdout)
    source = table["segments_source"]
    assert source["weights"] == "default_segments@1"
    assert source["sha256"] == (run_folder("default_segments@1") / "models/model.pt.sha256").read_text().split()[0]
    assert source["kept_back"]["livers"] == 16
    liver_ml = table["liver"]["liver_with_tumor_ml"]
    assert sum(one["liver_with_tumor_ml"] for one in table["liver"]["segments_ml"].values()) == pytest.approx(liver_ml)
    assert sum(table["lesions"][0]["segments"].values()) == pytest.approx(1.0)


def test_the_weights_are_small_whole_and_have_a_card() -> None:
    folder = run_folder("default_segments")
    assert (folder / "models" / "model.pt").stat().st_size <= 5_000_000
    card = (folder / "docs" / "README.md").read_text()
    kept = json.loads((folder / "configs" / "metadata.json").read_text())["kept_back"]
    assert "Not a medical device" in card
    assert f"{kept['mean_dice']:.3f}" in card
    assert "MIT" in (folder / "ATTRIBUTION.md").read_text()
    assert "default_segments@1" in CliRunner().invoke(main, ["list", "weights"]).output
    image = torch.zeros(1, 4, *CELLS)
    assert shipped_network()[0](image).shape == (1, 8, *CELLS)


def test_predict_with_them_says_that_they_take_masks(tmp_path: Path, liver: np.ndarray) -> None:
    scan = save(tmp_path / "scan.nii.gz", liver)
    run = CliRunner().invoke(main, ["predict", "default_segments", str(scan), str(tmp_path / "mask.nii.gz")])
    assert run.exit_code == 2
    assert "liver-pipeline segments" in run.output


@pytest.mark.slow
def test_stock_monai_writes_the_same_map(tmp_path: Path, liver: np.ndarray) -> None:
    mask = save(tmp_path / "mask.nii.gz", liver)
    config = run_folder("default_segments") / "configs" / "segments.yaml"
    words = ["--config_file", str(config), "--mask", str(mask), "--output", str(tmp_path / "stock.nii.gz")]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", *words], check=True, capture_output=True)
    write_segments(mask, tmp_path / "ours.nii.gz")
    ours, stock = (read_label_map(tmp_path / f"{name}.nii.gz", allowed=range(9)).array for name in ("ours", "stock"))
    np.testing.assert_array_equal(stock, ours)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("case", "least"), [("1", 0.7), ("17", 0.8)])
def test_real_livers_that_were_never_learnt_from(real_data: Path, tmp_path: Path, case: str, least: float) -> None:
    path = real_data / "couinaud_label_maps_mit" / f"3Dircadb_label_3Dircadb-{case}.nii.gz"
    reference = read_label_map(path, allowed=range(9))
    mask = save(tmp_path / "mask.nii.gz", (reference.array > 0).astype(np.uint8), reference.affine)
    write_segments(mask, tmp_path / "map.nii.gz")
    found = read_label_map(tmp_path / "map.nii.gz", allowed=range(9)).array
    scores = score_segments(found, reference.array, 1.0)
    assert scores["mean_dice"] > least
    for left, right in itertools.product(("2", "3"), ("6", "7")):
        assert scores["dice"][left] > 0.6
        assert scores["dice"][right] > 0.6
