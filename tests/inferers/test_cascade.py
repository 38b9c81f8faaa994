"""The cascade's inferer: equal to an unbounded one, on the scan's grid, and never silently without tumors."""

from __future__ import annotations

import logging
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose
from scipy import ndimage

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.inferers.cascade import CascadeInferer
from liver_pipeline.inferers.liver import Limits
from liver_pipeline.inferers.streaming import StreamingInferer
from liver_pipeline.inferers.unbounded import labels_unbounded
from liver_pipeline.transforms.load import LoadScand
from liver_pipeline.transforms.spatial import ToModelGridd
from tests.orientations import every_orientation, every_rotation

COARSE, FINE = (4.0, 4.0, 5.0), (1.5, 1.5, 2.0)
ANY = Limits()


class Above(torch.nn.Module):
    """Label 1 above one value, label 2 below another one that is lower; a blur makes it see its neighbours."""

    def __init__(self, liver: float = 60.0, tumor: float | None = None) -> None:
        super().__init__()
        self.liver, self.tumor = liver, tumor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kernel = [3 if n >= 3 else 1 for n in image.shape[2:]]
        padding = [k // 2 for k in kernel]
        blurred = torch.nn.functional.avg_pool3d(image, kernel, stride=1, padding=padding, count_include_pad=False)
        logits = [torch.zeros_like(image), (blurred - self.liver) / 20.0]
        if self.tumor is not None:
            logits.append((self.tumor - blurred) / 20.0)
        return torch.cat(logits, dim=1)


class Everywhere(torch.nn.Module):
    """A broken network: one label for all."""

    def __init__(self, label: int, labels: int = 2) -> None:
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.tensor(label), labels).float()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits.reshape(1, -1, 1, 1, 1).expand(len(image), -1, *image.shape[2:]).clone()


def inferer(
    liver_network: torch.nn.Module,
    *,
    margin_mm: float = 8.0,
    limits: Limits = ANY,
    roi: tuple[int, int, int] = (8, 8, 8),
    probabilities: bool = False,
) -> CascadeInferer:
    grids = [Compose([LoadScand("image"), ToModelGridd("image", spacing=s, air_hu=None)]) for s in (COARSE, FINE)]
    return CascadeInferer(
        liver_network=liver_network,
        liver_preprocessing=grids[0],
        liver_inferer=StreamingInferer(roi, 2, backend="torch", grid="model"),
        tumor_preprocessing=grids[1],
        tumor_inferer=StreamingInferer(roi, 2, backend="torch", probabilities=probabilities),
        margin_mm=margin_mm,
        limits=limits,
    )


def scan_of(volume: npt.NDArray[Any], affine: Affine) -> MetaTensor:
    """As LoadScand gives it, with a batch axis."""
    meta = {"slope": 1.0, "intercept": 0.0, "filename_or_obj": "scan"}
    return MetaTensor(
        torch.from_numpy(np.array(volume, order="F"))[None, None], affine=torch.as_tensor(affine), meta=meta
    )


def happened(result: MetaTensor) -> dict[str, Any]:
    cascade: dict[str, Any] = result.meta["inference"]["cascade"]
    return cascade


def patient(*centres: tuple[float, float, float], radius: float = 9.0, core_mm: float = 5.0) -> npt.NDArray[np.int16]:
    """Balls of liver (100 HU) with a tumor (0 HU) in the middle of each, in fat (50 HU); 40 x 36 x 20 voxels."""
    grid = np.meshgrid(*[np.arange(n) for n in (40, 36, 20)], indexing="ij")
    volume = np.full(grid[0].shape, 50, dtype=np.int16)
    for centre in centres:
        distance = sum(((g - c) * mm) ** 2 for g, c, mm in zip(grid, centre, (1.5, 1.5, 2.0), strict=True)) ** 0.5
        volume[distance < 1.5 * radius] = 100
        volume[distance < core_mm] = 0
    return volume


PATIENT = np.diag([1.5, 1.5, 2.0, 1.0])
CENTRE = (18.0, 16.0, 9.0)
TUMOR_NET = Above(75.0, tumor=30.0)


def unbounded(
    volume: npt.NDArray[Any], own: Any, first: torch.nn.Module, second: torch.nn.Module, margin_mm: float, roi: Any
) -> npt.NDArray[np.uint8]:
    """The cascade written down plainly for a scan along R, A, S: whole volumes, scipy's components, voxel centres."""
    scan = MetaTensor(torch.from_numpy(volume)[None], affine=torch.diag(torch.tensor([*own, 1.0], dtype=torch.float64)))
    coarse = ToModelGridd("image", spacing=COARSE, air_hu=None)({"image": scan})["image"]
    with torch.no_grad():
        logits = sliding_window_inference(coarse.as_tensor()[None], roi, 2, first, 0.5, "gaussian")
    assert isinstance(logits, torch.Tensor)
    components, count = ndimage.label(logits[0].argmax(0).numpy() > 0, structure=np.ones((3, 3, 3)))
    box = [slice(0, n) for n in volume.shape]
    if count:
        where = np.argwhere(components == 1 + int(np.argmax(np.bincount(components.ravel())[1:])))
        for axis, coarse_mm in enumerate(np.diag(coarse.affine.numpy())[:3]):
            centres = np.arange(volume.shape[axis]) * own[axis] / coarse_mm
            low, high = where[:, axis].min() - 0.5, where[:, axis].max() + 0.5
            on_border = 1e-6  # voxels: a centre there is inside, however 2.0999999999999996 mm were rounded
            (inside,) = np.nonzero((centres >= low - on_border) & (centres <= high + on_border))
            margin = int(np.ceil(margin_mm / own[axis]))
            box[axis] = slice(max(0, inside[0] - margin), inside[-1] + 1 + margin)
    corner = np.diag([*own, 1.0])
    corner[:3, 3] = [side.start * mm for side, mm in zip(box, own, strict=True)]
    part = MetaTensor(torch.from_numpy(volume[tuple(box)].copy())[None], affine=torch.as_tensor(corner))
    fine = ToModelGridd("image", spacing=FINE, air_hu=None)({"image": part})["image"][None]
    assert isinstance(fine, MetaTensor)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    labels[tuple(box)] = labels_unbounded(fine, second, roi, 2)
    return labels


@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(10, 34)] * 3),
    own=st.tuples(*[st.floats(0.9, 3.1)] * 3),
    roi=st.sampled_from([(8, 8, 8), (12, 20, 6), (24, 24, 1), (40, 40, 40)]),
    margin_mm=st.sampled_from([0.0, 5.0, 30.0]),
    threshold=st.sampled_from([0.0, 40.0, 90.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_the_cascade_equals_an_unbounded_one(
    shape: tuple[int, int, int],
    own: tuple[float, float, float],
    roi: tuple[int, int, int],
    margin_mm: float,
    threshold: float,
    seed: int,
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    volume = (100 * noise / noise.std()).astype(np.int16)
    first, second = Above(threshold), Above(20.0, tumor=-20.0)
    result = inferer(first, margin_mm=margin_mm, roi=roi)(scan_of(volume, np.diag([*own, 1.0])), second)
    assert (result.shape, result.dtype) == ((1, 1, *shape), torch.uint8)
    np.testing.assert_array_equal(result.numpy()[0, 0], unbounded(volume, own, first, second, margin_mm, roi))


@every_rotation
@every_orientation
def test_mask_of_a_reordered_scan_is_the_reordered_mask(
    permutation: tuple[int, ...], flips: tuple[int, ...], rotation: npt.NDArray[np.float64]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag((1.5, 1.6, 2.1))
    affine[:3, 3] = (-80.0, 12.5, 300.0)
    scan = nib.Nifti1Image(patient(CENTRE, (37.0, 33.0, 3.0)), affine)
    cascade = inferer(Above(75.0), margin_mm=4.0)

    def mask(of: nib.Nifti1Image) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        result = cascade(scan_of(np.asarray(of.dataobj), of.affine), TUMOR_NET)
        np.testing.assert_allclose(result.affine.numpy(), of.affine, atol=1e-9)
        return np.asarray(result.numpy()[0, 0]), happened(result)

    labels, told = mask(scan)
    assert told["fallback"] == "" and {1, 2} <= set(np.unique(labels))
    assert told["box"] != [[0, n] for n in labels.shape]
    ornt = np.stack([permutation, flips], axis=1).astype(float)
    expected = nib.Nifti1Image(labels, affine).as_reoriented(ornt)
    np.testing.assert_array_equal(mask(scan.as_reoriented(ornt))[0], np.asarray(expected.dataobj))


def test_liver_and_tumor_are_found_in_the_box_and_nothing_outside_it() -> None:
    volume = patient(CENTRE)
    volume[:4, 31:, :3] = 100  # looks like liver, but is small and lies apart
    result = inferer(Above(75.0), margin_mm=6.0)(scan_of(volume, PATIENT), TUMOR_NET)
    labels, told = result.numpy()[0, 0], happened(result)
    (a, b), (c, d), (e, f) = told["box"]
    assert told["fallback"] == ""
    assert a <= 18 - 9 and b > 18 + 9 and c <= 16 - 9 and d > 16 + 9 and e <= 9 - 6 and f > 9 + 6  # the ball of 13.5 mm
    assert a >= 4 or d <= 31  # and not the other object
    assert labels[18, 16, 9] == 2 and labels[18, 16, 13] == 1
    outside = np.ones(labels.shape, dtype=bool)
    outside[a:b, c:d, e:f] = False
    assert not labels[outside].any()


def test_a_first_stage_that_finds_nothing_leaves_the_whole_scan_to_the_second(caplog: pytest.LogCaptureFixture) -> None:
    scan = scan_of(patient(CENTRE), PATIENT)
    with caplog.at_level(logging.WARNING):
        result = inferer(Everywhere(0), limits=Limits(min_ml=1.0))(scan, TUMOR_NET)
    assert happened(result)["fallback"] == "no liver found"
    assert happened(result)["box"] == [[0, 40], [0, 36], [0, 20]]
    assert "scan: no liver found; the tumor stage sees the whole scan" in caplog.text
    alone = inferer(Everywhere(1))(scan, TUMOR_NET)  # everything is liver, and that is allowed: the box is the scan
    assert happened(alone)["fallback"] == ""
    np.testing.assert_array_equal(result.numpy(), alone.numpy())
    assert (result.numpy() == 2).any()


def test_a_first_stage_that_finds_liver_everywhere_is_not_believed() -> None:
    result = inferer(Everywhere(1), limits=Limits(max_ml=20.0))(scan_of(patient(CENTRE), PATIENT), TUMOR_NET)
    assert happened(result)["fallback"].startswith("the liver has 1")  # 60 x 54 x 40 mm: about 130 ml
    assert (result.numpy() == 2).any()


def test_a_scan_without_liver_gives_background_and_says_so() -> None:
    result = inferer(Above(75.0))(scan_of(patient(), PATIENT), TUMOR_NET)
    assert not result.numpy().any()
    assert happened(result)["fallback"] == "no liver found"


@pytest.mark.parametrize("centre", [(0.0, 16.0, 9.0), (39.0, 35.0, 19.0), (18.0, 0.0, 0.0)])
def test_a_liver_at_the_border_of_the_scan_keeps_its_tumor(centre: tuple[float, float, float]) -> None:
    result = inferer(Above(75.0))(scan_of(patient(centre), PATIENT), TUMOR_NET)
    told = happened(result)
    assert told["fallback"] == ""
    assert all(0 <= a < b <= n for (a, b), n in zip(told["box"], (40, 36, 20), strict=True))
    assert result.numpy()[0, 0][tuple(int(c) for c in centre)] == 2


def test_a_liver_in_two_pieces_is_not_cut_to_one_of_them_unless_allowed() -> None:
    pieces = ((10.0, 9.0, 9.0), (30.0, 28.0, 9.0))
    scan = scan_of(patient(*pieces, radius=7.5, core_mm=3.5), PATIENT)
    careful = inferer(Above(70.0), margin_mm=2.0, limits=Limits(min_share=0.7))(scan, TUMOR_NET)
    assert happened(careful)["fallback"].startswith("the liver is in pieces")
    at = [tuple(int(c) for c in centre) for centre in pieces]
    assert [int(careful.numpy()[0, 0][place]) for place in at] == [2, 2]
    careless = inferer(Above(70.0), margin_mm=2.0)(scan, TUMOR_NET)
    assert happened(careless)["fallback"] == ""
    assert sorted(int(careless.numpy()[0, 0][place]) for place in at) == [0, 2]  # that is why


def test_the_record_tells_of_both_stages() -> None:
    told = inferer(Above(75.0))(scan_of(patient(CENTRE), PATIENT), TUMOR_NET).meta["inference"]
    assert told["model_grid"]["spacing_mm"] == list(FINE)
    assert told["cascade"]["liver_grid"]["spacing_mm"] == list(COARSE)
    assert told["windows"] > 0 and told["liver_windows"] > 0
    assert told["cascade"]["liver_ml"] == pytest.approx(4 / 3 * np.pi * 1.35**3 - 0.5, rel=0.3)  # ball less its tumor
    assert told["cascade"]["liver_share"] == 1.0


def test_probabilities_are_those_of_the_second_stage_and_0_outside_the_box() -> None:
    cascade = inferer(Above(75.0), margin_mm=4.0, probabilities=True)
    assert cascade.probabilities
    result = cascade(scan_of(patient(CENTRE), PATIENT), TUMOR_NET)
    levels = np.asarray(result.meta["probabilities"][0])
    labels = result.numpy()[0, 0]
    inside = tuple(slice(start, stop) for start, stop in happened(result)["box"])
    assert levels.shape == (*labels.shape, 2)
    shares = np.concatenate([255.0 - levels.sum(-1, keepdims=True, dtype=float), levels], axis=-1)
    of_label = np.take_along_axis(shares, labels[..., None].astype(int), -1)[..., 0]
    assert (of_label >= shares.max(-1) - 1.0)[inside].all()  # two are rounded
    outside = np.ones(labels.shape, dtype=bool)
    outside[inside] = False
    assert outside.any() and not levels[outside].any()


def test_more_than_one_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one scan"):
        inferer(Above())(torch.zeros(2, 1, 4, 4, 4), TUMOR_NET)
