from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from liver_pipeline.synthesis import ScanGenerator
from liver_pipeline.synthesis.acquisition import seen
from liver_pipeline.synthesis.anatomy import KINDS
from liver_pipeline.synthesis.draw import Grid, RandomDraw, blur, sample
from liver_pipeline.synthesis.tissues import CAVITY_BIT, Tissue

SIZE = (48, 40, 32)  # voxels; at 6 mm a whole trunk


def ball(size: tuple[int, int, int], spacing: float, radius: float) -> np.ndarray:
    return (Grid(size, spacing).points.square().sum(0).sqrt() < radius).numpy()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shape and one scan: a ball of liver in a ball of fat."""
    folder = tmp_path_factory.mktemp("material")
    size = (40, 40, 40)
    liver, body = ball(size, 6.0, 70), ball(size, 6.0, 110)
    np.savez(folder / "shapes_3mm_0.npz", ball=ball((48, 48, 48), 3.0, 65).astype(np.uint8))
    codes = np.where(body, np.uint8(Tissue.FAT + CAVITY_BIT), np.uint8(Tissue.AIR))
    codes = np.where(liver, np.uint8(Tissue.LIVER + CAVITY_BIT), codes)
    image = np.where(liver, 100, np.where(body, -100, -1000)).astype(np.int16)
    scan = {"a.img": image, "a.lab": liver.astype(np.uint8), "a.codes": codes, "a.spacing": np.float32(6.0)}
    np.savez(folder / "scans.npz", **scan)  # type: ignore[arg-type]  # numpy's stubs
    return folder


def make(material: Path | None = None, **options: object) -> ScanGenerator:
    given = {} if material is None else {"shapes": material, "scans": material / "scans.npz", "shares": (1, 1, 1, 1)}
    return ScanGenerator(SIZE, 6.0, **(given | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ct", [True, False])
def test_a_sample_is_what_a_network_takes(material: Path, kind: str, ct: bool) -> None:
    generator = make(material, tumor_share=1.0)
    for index in range(3):
        made = generator.sample(index, kind=kind, ct=ct)
        assert made.image.shape == made.label.shape == SIZE
        assert (made.image.dtype, made.label.dtype) == (torch.float32, torch.uint8)
        assert torch.isfinite(made.image).all()
        assert set(np.unique(made.label.numpy()).tolist()) <= {0, 1, 2}
        assert made.ct == ct


def test_windows_lie_between_0_and_1_and_hold_liver(material: Path) -> None:
    generator = make(material)
    images, labels = zip(*(generator.window(i) for i in range(8)), strict=True)
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)
    assert sum(bool((label > 0).any()) for label in labels) >= 6


def test_the_same_seed_gives_the_same_sample_and_another_seed_another() -> None:
    first, again, other = make(seed=3), make(seed=3), make(seed=4)
    image, label = first.window(5)
    image_again, label_again = again.window(5)
    assert torch.equal(image, image_again) and torch.equal(label, label_again)
    assert not torch.equal(image, other.window(5)[0])
    assert not torch.equal(image, first.window(6)[0])


def test_a_generator_with_another_seed_makes_the_samples_of_that_seed() -> None:
    image, _ = make(seed=3).with_seed(4).window(0)
    assert torch.equal(image, make(seed=4).window(0)[0])


def test_tumors_lie_in_the_liver_and_are_absent_where_none_are_asked_for(material: Path) -> None:
    with_tumors, without = make(material, tumor_share=1.0), make(material, tumor_share=0.0)
    tumors = [with_tumors.sample(i).label == 2 for i in range(8)]
    assert sum(bool(tumor.any()) for tumor in tumors) >= 5
    assert not any((without.sample(i).label == 2).any() for i in range(8))


@pytest.mark.parametrize("spacing", [6.0, 3.0])
def test_a_real_scans_liver_keeps_its_volume_in_ml_at_any_spacing(material: Path, spacing: float) -> None:
    size = tuple(round(n * 6.0 / spacing) for n in SIZE)
    generator = ScanGenerator(
        size, spacing, shapes=material, scans=material / "scans.npz", shares=(0, 0, 0, 1), tumor_share=0.0
    )
    volumes = []
    for i in range(12):
        made = generator.sample(i, ct=True)
        whole = made.mask is None and not any(
            bool((made.label.select(d, j) > 0).any()) for d in range(3) for j in (0, -1)
        )
        volumes += [float((made.label > 0).sum()) * spacing**3 / 1000] * (whole and bool(made.label.any()))
    expected = 4 / 3 * math.pi * 70**3 / 1000  # the ball's, ml; a pose scales it by 0.86 to 1.16 and more each way
    assert volumes and all(expected * 0.4 < volume < expected * 2.5 for volume in volumes)


def test_outside_the_field_of_view_is_neither_image_nor_label() -> None:
    generator = make()
    cut = [made for made in (generator.sample(i, ct=True) for i in range(10)) if made.mask is not None]
    assert cut
    for made in cut:
        assert made.mask is not None
        assert (made.label[~made.mask] == 0).all()
        assert (made.image[~made.mask] == -1024).all()


def test_windows_of_a_box_end_where_the_box_ends(material: Path) -> None:
    generator = make(material, shares=(0, 0, 0, 1), box_margin_mm=25.0, box_jitter_mm=0.0)
    made = generator.sample(0)
    assert made.mask is not None
    assert not made.mask.all()
    assert (made.label[~made.mask] == 0).all()


def test_a_field_of_view_holds_the_voxels_between_its_faces() -> None:
    grid = Grid((16, 16, 16), 2.0)
    for seed in range(20):  # now and then it is round as well
        mask = seen(RandomDraw(grid, seed), [[-10.0, 10.0], [-100.0, 100.0], [0.0, 4.0]])
        assert mask is not None
        assert not mask[grid.points[0] > 10].any() and not mask[grid.points[2] < 0].any()
        assert int(mask.sum()) in range(1, 10 * 16 * 2 + 1)


def test_the_mean_hu_of_a_painted_ct_is_that_of_its_tissues() -> None:
    made = make(tumor_share=0.0, noise_hu=(0.0, 0.0)).sample(0, ct=True)
    liver = made.image[made.label == 1]
    assert 0 < float(liver.median()) < 160  # HU of a liver in any phase, fatty or not
    assert made.image.min() >= -1100


def test_blur_keeps_a_constant_and_the_sum_of_a_point() -> None:
    point = torch.zeros(17, 17, 17)
    point[8, 8, 8] = 1
    assert torch.allclose(blur(torch.full((8, 8, 8), 5.0), (1.0, 2.0, 0.5)), torch.tensor(5.0))
    assert float(blur(point, (1.2, 1.2, 1.2)).sum()) == pytest.approx(1.0, abs=1e-5)


def test_sampling_at_the_voxels_themselves_gives_the_volume_back() -> None:
    grid = Grid((9, 11, 8), 1.5)
    volume = torch.rand(2, *grid.size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sample(volume, grid.points, 1.5), volume, atol=1e-4)


def test_an_ellipsoid_has_its_size_in_mm_at_any_spacing() -> None:
    for spacing in (1.5, 3.0):
        size = round(66 / spacing)
        inside = RandomDraw(Grid((size,) * 3, spacing), 0).ellipsoid((0, 0, 0), (20, 15, 10), rough=0.0) < 1
        volume = float(inside.sum()) * spacing**3 / 1000
        assert volume == pytest.approx(4 / 3 * math.pi * 20 * 15 * 10 / 1000, rel=0.05)  # ml


def test_shares_of_real_scans_need_scans() -> None:
    with pytest.raises(ValueError, match="scans is null"):
        ScanGenerator(SIZE, 6.0, shares=(0.5, 0, 0, 0.5))
    with pytest.raises(ValueError, match="four numbers"):
        ScanGenerator(SIZE, 6.0, shares=(1.0,))


def test_a_folder_without_shapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no shapes\*\.npz"):
        ScanGenerator(SIZE, 6.0, shapes=tmp_path)
