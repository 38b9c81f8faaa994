from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.metrics.surface_distances import (
    area_distances,
    border_distances,
    lits_distances,
    surface_figures,
    voxel_distances,
)
from liver_pipeline.metrics.surfaces import area_surface, border_surface, element_areas

THICK = (0.75, 0.75, 5.0)


def box_mask(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    return mask


def ball(shape: tuple[int, int, int], centre_mm: np.ndarray, radius_mm: float, spacing: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) * spacing for n in shape], indexing="ij"), -1)
    return np.asarray(np.linalg.norm(grid - centre_mm, axis=-1) <= radius_mm)


def box_face_points(low: np.ndarray, high: np.ndarray, per_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points spread over the six faces of a box and the area of each, for numerical integration."""
    points, areas = [], []
    for axis in range(3):
        u, v = (other for other in range(3) if other != axis)
        counts = [max(2, round((high[k] - low[k]) * per_mm)) for k in (u, v)]
        steps = [low[k] + (np.arange(n) + 0.5) * (high[k] - low[k]) / n for k, n in zip((u, v), counts, strict=True)]
        grid = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 2)
        for edge in (low[axis], high[axis]):
            face = np.empty((len(grid), 3))
            face[:, axis], face[:, u], face[:, v] = edge, grid[:, 0], grid[:, 1]
            points.append(face)
            areas.append(np.full(len(grid), (high[u] - low[u]) * (high[v] - low[v]) / len(grid)))
    return np.concatenate(points), np.concatenate(areas)


def distance_to_box_surface(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    outside = np.maximum(np.maximum(low - points, points - high), 0)
    inside = np.minimum(points - low, high - points).min(axis=1)
    return np.asarray(np.where(inside >= 0, inside, np.linalg.norm(outside, axis=1)))


def analytic_box_assd(low_a: np.ndarray, high_a: np.ndarray, low_b: np.ndarray, high_b: np.ndarray) -> float:
    """Mean distance between the surfaces of two boxes, both ways, by integration over their faces."""
    points_a, areas_a = box_face_points(low_a, high_a, 4.0)
    points_b, areas_b = box_face_points(low_b, high_b, 4.0)
    total = (distance_to_box_surface(points_a, low_b, high_b) * areas_a).sum()
    total += (distance_to_box_surface(points_b, low_a, high_a) * areas_b).sum()
    return float(total / (areas_a.sum() + areas_b.sum()))


@pytest.mark.parametrize("shift", [(4, 0, 0), (0, 8, 0), (6, 6, 0), (0, 0, 1), (0, 0, 2), (4, 0, 1)])
def test_area_weighted_assd_of_moved_boxes_is_within_4_percent_at_5_mm_slices(shift: tuple[int, int, int]) -> None:
    low, high = np.array([5, 5, 3]), np.array([69, 61, 15])
    label = box_mask((90, 90, 20), tuple(low), tuple(high))
    pred = box_mask((90, 90, 20), tuple(low + shift), tuple(high + shift))
    spacing = np.array(THICK)
    expected = analytic_box_assd(low * spacing, high * spacing, (low + shift) * spacing, (high + shift) * spacing)
    assert area_distances(pred, label, THICK).assd() == pytest.approx(expected, rel=0.04)


def test_border_voxels_misjudge_what_area_weighting_gets_right() -> None:
    low, high = np.array([5, 5, 3]), np.array([69, 61, 15])
    label = box_mask((90, 90, 20), tuple(low), tuple(high))
    pred = box_mask((90, 90, 20), (5, 5, 4), (69, 61, 16))  # one slice up: only top and bottom faces move
    spacing = np.array(THICK)
    up = np.array([0, 0, 1])
    expected = analytic_box_assd(low * spacing, high * spacing, (low + up) * spacing, (high + up) * spacing)
    figures = surface_figures(pred, label, THICK)
    assert figures["assd_area"] == pytest.approx(expected, rel=0.04)
    assert figures["assd_lits"] is not None
    assert abs(figures["assd_lits"] / expected - 1) > 0.25  # it counts many voxels on top, few at the sides


def test_concentric_spheres_are_as_far_apart_as_their_radii() -> None:
    spacing = (0.5, 0.5, 0.5)
    centre = np.array([20.0, 20.0, 20.0])
    inner, outer = ball((81, 81, 81), centre, 12.0, 0.5), ball((81, 81, 81), centre, 15.0, 0.5)
    figures = surface_figures(inner, outer, spacing)
    assert figures["assd_area"] == pytest.approx(3.0, abs=0.3)  # nearest corners of a staircase: half a voxel low
    assert figures["hd_max"] == pytest.approx(3.0, abs=0.5)
    assert figures["nsd_area@2"] == 0.0
    assert figures["nsd_area@1"] == 0.0
    assert surface_figures(inner, outer, spacing, tolerances_mm=(4.0,))["nsd_area@4"] == 1.0


def test_area_of_a_box_and_a_sphere_is_the_area_of_their_surface() -> None:
    mask = box_mask((40, 40, 12), (4, 4, 2), (36, 34, 10))
    a, b, c = 32 * 0.75, 30 * 0.75, 8 * 5.0
    assert area_surface(mask, THICK).weights.sum() == pytest.approx(2 * (a * b + a * c + b * c), rel=0.04)
    sphere = ball((64, 64, 64), np.array([16.0, 16.0, 16.0]), 12.0, 0.5)
    area = area_surface(sphere, (0.5, 0.5, 0.5)).weights.sum()
    assert area == pytest.approx(4 * np.pi * 12.0**2, rel=0.1)  # mid-edge triangles keep some staircase


def test_single_voxels_three_apart_have_the_distance_of_their_centres() -> None:
    pred, label = np.zeros((8, 3, 3), dtype=bool), np.zeros((8, 3, 3), dtype=bool)
    pred[1, 1, 1] = label[4, 1, 1] = True
    figures = surface_figures(pred, label, (2.0, 1.0, 1.0))
    for name in ("assd_lits", "rmsd_lits", "msd_lits", "hd95_pooled", "hd95_maxdir", "hd_max"):
        assert figures[name] == 6.0
    # Each surface is an octahedron of 8 corners; 4 face the other voxel over 2 gaps, 4 over 3: mean 2.5 x 2 mm.
    assert figures["assd_area"] == 5.0
    assert figures["hd95_area"] == 6.0
    assert figures["nsd_area@3"] == 0.0


def test_pooled_and_directed_percentiles_differ_where_one_side_is_far() -> None:
    label = np.zeros((1, 1, 40), dtype=bool)
    label[0, 0, 0] = True
    pred = label.copy()
    pred[0, 0, 1:20] = True  # distances pred to label are 0..19, label to pred 0
    distances = voxel_distances(pred, label, (1.0, 1.0, 1.0))
    assert distances.percentile_maxdir(95) == pytest.approx(np.percentile(np.arange(20), 95))
    assert distances.percentile_pooled(95) == pytest.approx(np.percentile([0, *range(20)], 95))
    assert distances.maximum() == 19.0


def test_border_of_18_neighbours_holds_concave_edges_that_6_neighbours_leave_out() -> None:
    mask = np.ones((5, 5, 3), dtype=bool)
    mask[3:, 3:] = False  # an L; (2, 2, 1) touches the notch by an edge only
    spacing = (1.0, 1.0, 1.0)
    by_faces = {tuple(point) for point in border_surface(mask, spacing, 6).points}
    by_edges = {tuple(point) for point in border_surface(mask, spacing, 18).points}
    assert by_faces < by_edges
    assert by_edges - by_faces == {(2.0, 2.0, 1.0)}


def test_object_cut_by_the_edge_of_the_volume_has_a_surface_there() -> None:
    full = np.ones((4, 4, 4), dtype=bool)
    assert len(border_surface(full, (1.0, 1.0, 1.0), 6).points) == 4**3 - 2**3
    assert area_surface(full, (1.0, 1.0, 1.0)).weights.sum() > 6 * 3 * 3


@pytest.mark.parametrize("empty", ["pred", "label", "both"])
def test_without_a_surface_distances_are_open_and_surface_dice_is_zero_unless_both_are_empty(empty: str) -> None:
    full, none = np.ones((3, 3, 3), dtype=bool), np.zeros((3, 3, 3), dtype=bool)
    pred, label = (none if empty in ("pred", "both") else full), (none if empty in ("label", "both") else full)
    figures = surface_figures(pred, label, (1.0, 1.0, 1.0))
    for name, value in figures.items():
        if name.startswith("nsd_area"):
            assert value == (None if empty == "both" else 0.0)
        else:
            assert value is None


@pytest.mark.parametrize("fill", [False, True])
def test_masks_of_two_shapes_have_no_distance(fill: bool) -> None:
    with pytest.raises(ValueError, match="shape"):
        surface_figures(np.full((3, 3, 3), fill), np.full((3, 3, 4), fill), (1.0, 1.0, 1.0))


def test_table_of_element_areas_is_the_same_for_all_48_axis_orders_and_flips() -> None:
    bits = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]])
    spacing = (0.7, 0.9, 5.0)
    areas = element_areas(spacing)
    for order in itertools.permutations(range(3)):
        turned_areas = element_areas((spacing[order[0]], spacing[order[1]], spacing[order[2]]))
        for steps in itertools.product((1, -1), repeat=3):
            for code in range(256):
                cube = ((code & bits) > 0).transpose(order)[tuple(slice(None, None, step) for step in steps)]
                assert turned_areas[int((cube * bits).sum())] == pytest.approx(areas[code], abs=1e-12)


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(24, 22, 14)), 2.0) for _ in range(2)]
    pred, label = smooth[0] > 0.03, smooth[0] + 0.3 * smooth[1] > 0.03
    return pred, label, (0.7, 0.8, 2.5)


@pytest.mark.parametrize("seed", range(3))
def test_voxel_distances_equal_medpy_and_monai(seed: int) -> None:
    medpy = pytest.importorskip("medpy.metric.binary")
    import torch
    from monai.metrics import compute_hausdorff_distance

    pred, label, spacing = random_pair(seed)
    figures = surface_figures(pred, label, spacing)
    assert figures["hd95_pooled"] == pytest.approx(medpy.hd95(pred, label, spacing, 1), rel=1e-12)
    assert figures["hd_max"] == pytest.approx(medpy.hd(pred, label, spacing, 1), rel=1e-12)
    assert figures["assd_lits"] == pytest.approx(medpy.assd(pred, label, spacing, 2), rel=1e-12)
    one_hot, reference = (torch.from_numpy(mask[None, None].astype(np.uint8)) for mask in (pred, label))
    options = {"include_background": True, "percentile": 95, "spacing": list(spacing)}
    monai_hd95 = compute_hausdorff_distance(one_hot, reference, **options)  # type: ignore[arg-type]
    assert figures["hd95_maxdir"] == pytest.approx(float(monai_hd95), abs=2e-5)  # MONAI computes in float32


@pytest.mark.parametrize("seed", range(3))
def test_searching_both_borders_at_once_gives_what_searching_each_gives(seed: int) -> None:
    pred, label, spacing = random_pair(seed)
    lits, voxel = border_distances(pred, label, spacing)
    for together, alone in ((lits, lits_distances), (voxel, voxel_distances)):
        expected = alone(pred, label, spacing)
        np.testing.assert_array_equal(together.pred_to_label, expected.pred_to_label)
        np.testing.assert_array_equal(together.label_to_pred, expected.label_to_pred)


@pytest.mark.parametrize("seed", range(3))
def test_area_weighted_figures_equal_the_surface_distance_package(seed: int) -> None:
    package = pytest.importorskip("surface_distance")
    pred, label, spacing = random_pair(seed)
    theirs = package.compute_surface_distances(label, pred, spacing)
    figures = surface_figures(pred, label, spacing)
    assert figures["hd95_area"] == pytest.approx(package.compute_robust_hausdorff(theirs, 95), rel=1e-12)
    for tolerance in (1, 2, 3):
        expected = package.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert figures[f"nsd_area@{tolerance}"] == pytest.approx(expected, rel=1e-9)
    ways = ("distances_gt_to_pred", "surfel_areas_gt"), ("distances_pred_to_gt", "surfel_areas_pred")
    total = sum((theirs[distance] * theirs[area]).sum() for distance, area in ways)
    expected = total / sum(theirs[area].sum() for _, area in ways)
    assert figures["assd_area"] == pytest.approx(expected, rel=1e-9)


SHIPPED = {
    "assd_lits": "brute18_assd_pooled",
    "rmsd_lits": "brute18_rmsd",
    "msd_lits": "brute18_hd",
    "assd_area": "dm_assd_pooled",
    "hd95_area": "dm_hd95",
    "nsd_area@1": "dm_nsd@1",
    "nsd_area@2": "dm_nsd@2",
    "nsd_area@3": "dm_nsd@3",
    "hd95_pooled": "medpy_c1_hd95",
    "hd95_maxdir": "brute6_hd95_maxdir",
    "hd_max": "brute6_hd",
}


@pytest.mark.real_data
def test_worked_cases_are_reached_to_1e_9(real_data: Path) -> None:
    folder = real_data.parent / "lits_scoring"
    expected = json.loads((folder / "expected.json").read_text())["cases"]
    compared = 0
    for case, figures in expected.items():
        images = [nib.load(folder / side / f"{case}.nii.gz") for side in ("pred", "truth")]
        pred, label = (np.asarray(image.dataobj) for image in images)
        spacing = images[1].header.get_zooms()
        for region, theirs in figures["surface"].items():
            liver = region == "liver"
            ours = surface_figures(pred >= 1 if liver else pred == 2, label >= 1 if liver else label == 2, spacing)
            if isinstance(theirs, str):  # "empty: ..."
                assert ours["assd_area"] is None
                continue
            for name, reference in SHIPPED.items():
                assert ours[name] == pytest.approx(theirs[reference], rel=1e-9, abs=1e-12), (case, region, name)
                compared += 1
    assert compared == 8 * 11 + 7 * 11  # every case but the empty prediction has a liver; two have no tumor pair
