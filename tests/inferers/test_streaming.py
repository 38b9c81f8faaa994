"""Streaming inference gives the unbounded path's labels on the scan's grid, whatever the windows and the engine."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd, ScaleIntensityRanged, Spacingd
from scipy import ndimage

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.geometry.axes import AxisMap
from liver_pipeline.inferers.canvas import LabelCanvas
from liver_pipeline.inferers.device_canvas import DeviceCanvas
from liver_pipeline.inferers.predictor import Engine, Predictor
from liver_pipeline.inferers.streaming import StreamingInferer
from liver_pipeline.inferers.unbounded import labels_unbounded
from liver_pipeline.networks.conversion import ConversionError
from liver_pipeline.networks.openvino import OpenVinoNetwork
from liver_pipeline.transforms.intensity import WindowHud
from liver_pipeline.transforms.load import LoadScand
from liver_pipeline.transforms.spatial import ToModelGridd
from tests.no_memory import NoMemory
from tests.orientations import OBLIQUE, every_orientation, every_rotation


def small_net(labels: int = 3, *, flat: bool = False, seed: int = 0) -> torch.nn.Module:
    """A network that sees its neighbourhood: labels differ where windows are placed or weighted differently."""
    torch.manual_seed(seed)
    size: Any = (3, 3, 1) if flat else 3
    pad: Any = (1, 1, 0) if flat else 1
    net = torch.nn.Sequential(
        torch.nn.Conv3d(1, 6, size, padding=pad), torch.nn.Tanh(), torch.nn.Conv3d(6, labels, size, padding=pad)
    )
    for parameter in net.parameters():
        parameter.data *= 3.0
    return net.eval()


def smooth_volume(shape: Sequence[int], seed: int = 0) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=tuple(shape))
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def batched(image: Any) -> MetaTensor:
    batch = image[None]
    assert isinstance(batch, MetaTensor)
    return batch


def on_model_grid(
    volume: npt.NDArray[Any], affine: Affine, spacing: Sequence[float], air_hu: float | None = None
) -> MetaTensor:
    scan = MetaTensor(torch.from_numpy(np.ascontiguousarray(volume)[None]), affine=torch.as_tensor(affine))
    image = ToModelGridd("image", spacing=spacing, air_hu=air_hu)({"image": scan})["image"]
    return batched(image)


@settings(max_examples=20)
@given(
    shape=st.tuples(*[st.integers(5, 34)] * 3),
    own=st.tuples(*[st.floats(0.7, 2.8)] * 3),
    roi=st.sampled_from(
        [(16, 12, 1), (8, 8, 8), (12, 20, 6), (40, 40, 40), (7, 1, 9), (-1, -1, 4), (24, 24, 1), (1, 9, 30)]
    ),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7, (0.3, 0.6, 0.0)]),
    batch=st.integers(1, 5),
    mode=st.sampled_from(["gaussian", "constant"]),
    labels=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_streaming_equals_the_unbounded_path(
    shape: tuple[int, int, int],
    own: tuple[float, float, float],
    roi: tuple[int, int, int],
    overlap: float | tuple[float, ...],
    batch: int,
    mode: str,
    labels: int,
    seed: int,
) -> None:
    image = on_model_grid(smooth_volume(shape, seed), np.diag([*own, 1.0]), (1.5, 1.2, 2.0))
    net = small_net(labels, flat=1 in roi, seed=seed)
    result = StreamingInferer(roi, batch, overlap, mode=mode, backend="torch")(image, net)
    assert result.shape == (1, 1, *shape)
    assert result.dtype == torch.uint8
    np.testing.assert_array_equal(result.numpy()[0, 0], labels_unbounded(image, net, roi, batch, overlap, mode=mode))


def test_noise_is_interpolated_everywhere_and_still_equal() -> None:
    image = on_model_grid(
        np.random.default_rng(3).normal(size=(30, 31, 33)).astype(np.float32), np.eye(4), (1.7, 1.6, 1.5)
    )
    for roi in ((12, 12, 12), (20, 20, 1)):
        result = StreamingInferer(roi, 3, backend="torch")(image, small_net())
        np.testing.assert_array_equal(result.numpy()[0, 0], labels_unbounded(image, small_net(), roi, 3))


@every_rotation
@every_orientation
def test_mask_of_a_reordered_scan_is_the_reordered_mask(
    permutation: tuple[int, ...], flips: tuple[int, ...], rotation: npt.NDArray[np.float64]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag((0.8, 0.9, 2.5))
    affine[:3, 3] = (-80.0, 12.5, 300.0)
    scan = nib.Nifti1Image((300 * smooth_volume((19, 16, 10))).astype(np.int16), affine)
    net = small_net()

    def mask(of: nib.Nifti1Image) -> npt.NDArray[np.uint8]:
        image = on_model_grid(np.asarray(of.dataobj), of.affine, (1.5, 1.5, 2.0))
        result = StreamingInferer((8, 8, 4), 2, backend="torch")(image / 300.0, net)
        np.testing.assert_allclose(result.affine.numpy(), of.affine, atol=1e-9)
        return np.asarray(result.numpy()[0, 0])

    ornt = np.stack([permutation, flips], axis=1).astype(float)
    expected = nib.Nifti1Image(mask(scan), affine).as_reoriented(ornt)
    np.testing.assert_array_equal(mask(scan.as_reoriented(ornt)), np.asarray(expected.dataobj))


def stock_labels(
    volume: npt.NDArray[Any],
    affine: Affine,
    spacing: Sequence[float],
    net: torch.nn.Module,
    roi: Sequence[int] = (12, 12, 12),
    hu_window: tuple[float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """MONAI's own chain: Orientationd, Spacingd, sliding window, softmax, Invertd on probabilities, argmax."""
    steps: list[Any] = [
        EnsureChannelFirstd("image", channel_dim="no_channel"),
        Orientationd("image", "RAS", labels=None),
        Spacingd("image", spacing),
    ]
    if hu_window:
        low, high = hu_window
        steps.append(ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True))
    pre = Compose(steps)
    scan = MetaTensor(torch.from_numpy(volume.astype(np.float32)), affine=torch.as_tensor(affine))
    data: Any = pre({"image": scan})
    with torch.inference_mode():
        logits: Any = sliding_window_inference(data["image"][None], roi, 2, net, 0.5, mode="gaussian")
    data["pred"] = logits.softmax(1)[0]
    inverted: Any = Invertd("pred", pre, orig_keys="image", nearest_interp=False)(data)
    return inverted["pred"].numpy().argmax(0).astype(np.uint8)  # type: ignore[no-any-return]


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
def test_labels_are_those_of_the_stock_chain(rotation: npt.NDArray[np.float64]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag((-0.8, -0.9, 2.5))
    volume = smooth_volume((60, 50, 24))
    net = small_net()
    ours = StreamingInferer((12, 12, 12), 2, backend="torch")(on_model_grid(volume, affine, (1.5, 1.5, 2.0)), net)
    same = ours.numpy()[0, 0] == stock_labels(volume, affine, (1.5, 1.5, 2.0), net)
    assert same.mean() >= 0.9999


class OrganLike(torch.nn.Module):
    """Random convolutions on top of smoothed HU: labels with organ-like borders and some speckle on real scans."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.smooth = torch.nn.AvgPool3d((3, 3, 1) if flat else 3, 1, (1, 1, 0) if flat else 1)
        self.net = small_net(flat=flat)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        value = self.smooth(windows)
        organs = torch.cat([torch.zeros_like(value), 2.0 - 40.0 * (value - 0.68).abs(), 40.0 * (value - 0.78)], dim=1)
        return organs + 0.05 * self.net(windows)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("roi", [(96, 96, 64), (192, 192, 1)], ids=["3d", "2d"])
def test_labels_of_a_real_scan_are_those_of_the_stock_chain(real_data: Path, roi: tuple[int, int, int]) -> None:
    spacing = (1.5, 1.5, 2.0)
    case = next((real_data / "3dircadb1_01").glob("PATIENT_DICOM.zip"))
    data = LoadScand("image")({"image": case})
    volume, affine = data["image"].numpy()[0], data["image"].affine.numpy()
    image = batched(WindowHud("image", (-175.0, 250.0))(ToModelGridd("image", spacing=spacing)(data))["image"])
    net = OrganLike(flat=roi[2] == 1).eval()
    stock = stock_labels(volume, affine, spacing, net, roi=roi, hu_window=(-175.0, 250.0))
    for backend in ("torch", "openvino"):
        result = StreamingInferer(roi, 2, backend=backend, skip_air=False)(image, net)
        assert 0.01 < (stock > 0).mean() < 0.9
        assert (result.numpy()[0, 0] == stock).mean() >= 0.9999
    skipped = StreamingInferer(roi, 2)(image, net).numpy()[0, 0]
    assert (skipped == stock).mean() >= 0.9999


def test_labels_travel_through_collate_and_decollate() -> None:
    image = on_model_grid(smooth_volume((20, 18, 9)), np.diag([1.0, 1.0, 2.0, 1.0]), (1.5, 1.5, 2.0))
    single = StreamingInferer((8, 8, 8), backend="torch")(image, small_net())
    batch = list_data_collate([{"image": image[0]}])
    result = StreamingInferer((8, 8, 8), backend="torch")(batch["image"], small_net())
    pred = decollate_batch(result)[0]
    np.testing.assert_array_equal(pred.numpy()[0], single.numpy()[0, 0])
    np.testing.assert_allclose(pred.affine.numpy(), np.diag([1.0, 1.0, 2.0, 1.0]))
    assert pred.meta["inference"]["windows"] == single.meta["inference"]["windows"]
    assert pred.meta["inference"]["backend"] == "torch"


def test_labels_may_stay_on_the_model_grid() -> None:
    image = on_model_grid(smooth_volume((20, 18, 9)), np.eye(4), (1.5, 1.5, 2.0))
    result = StreamingInferer((8, 8, 8), grid="model", backend="torch")(image, small_net())
    assert result.shape[2:] == image.shape[2:]
    np.testing.assert_allclose(result.affine.numpy(), image.affine.numpy())
    plain = StreamingInferer((8, 8, 8), backend="torch")(image.as_tensor(), small_net())
    np.testing.assert_array_equal(result.numpy(), plain.numpy())


def test_ensemble_is_the_mean_of_probabilities() -> None:
    image = on_model_grid(smooth_volume((24, 20, 12)), np.eye(4), (1.5, 1.5, 2.0))
    members = [small_net(seed=1), small_net(seed=2), small_net(seed=3)]
    for network in (members, torch.nn.ModuleList(members)):
        result = StreamingInferer((8, 8, 8), 3, backend="torch")(image, network)
        np.testing.assert_array_equal(result.numpy()[0, 0], labels_unbounded(image, members, (8, 8, 8), 3))
    assert result.meta["inference"]["members"] == 3


def test_mirroring_averages_logits_over_all_flips() -> None:
    image = on_model_grid(smooth_volume((24, 20, 12)), np.eye(4), (1.5, 1.5, 2.0))
    net = small_net()

    def by_hand(windows: torch.Tensor) -> torch.Tensor:
        flips = ((), (2,), (4,), (2, 4))
        return sum((net(windows.flip(f)).flip(f) for f in flips), torch.zeros(())) / 4

    result = StreamingInferer((8, 8, 8), tta=(0, 2), backend="torch")(image, net)
    expected = labels_unbounded(image, by_hand, (8, 8, 8))
    assert (result.numpy()[0, 0] == expected).mean() > 0.9999  # the order of four additions may differ
    plain = StreamingInferer((8, 8, 8), backend="torch")(image, net)
    assert (result.numpy() != plain.numpy()).any()


def body_in_air() -> MetaTensor:
    volume = np.full((48, 40, 30), -1000.0, dtype=np.float32)
    volume[16:32, 12:28, 10:20] = 100.0 * smooth_volume((16, 16, 10))
    return on_model_grid(volume, np.eye(4), (1.0, 1.0, 1.0), air_hu=-500.0)


def test_windows_of_air_are_left_out_and_the_body_is_unchanged() -> None:
    image, net = body_in_air() / 100.0, small_net()
    inside = (slice(16, 32), slice(12, 28), slice(10, 20))
    expected = labels_unbounded(image, net, (8, 8, 8))
    result = StreamingInferer((8, 8, 8), 2, backend="torch")(image, net)
    record = result.meta["inference"]
    assert record["skip_air"] == "on"
    assert 0 < record["skipped_windows"] < record["windows"]
    np.testing.assert_array_equal(result.numpy()[0, 0][inside], expected[inside])
    assert result.numpy()[0, 0][:8].sum() == 0  # far from the body: background, not run
    everything = StreamingInferer((8, 8, 8), 2, skip_air=False, backend="torch")(image, net)
    assert everything.meta["inference"]["skip_air"] == "off"
    np.testing.assert_array_equal(everything.numpy()[0, 0], expected)


def test_scan_of_air_is_background_and_no_window_is_run() -> None:
    image = on_model_grid(np.full((20, 20, 20), -1000.0, dtype=np.float32), np.eye(4), (1.0, 1.0, 1.0), air_hu=-500.0)
    result = StreamingInferer((8, 8, 8), backend="torch")(image, small_net())
    assert result.shape == (1, 1, 20, 20, 20)
    assert result.numpy().sum() == 0
    assert result.meta["inference"]["skipped_windows"] == result.meta["inference"]["windows"]


def test_body_map_of_another_grid_is_not_used() -> None:
    image = body_in_air()
    cropped = MetaTensor(image.as_tensor()[..., :13], affine=image.affine, meta={"body": image.meta["body"]})
    assert StreamingInferer((8, 8, 8), backend="torch")(cropped, small_net()).meta["inference"]["skipped_windows"] == 0


class Greedy(torch.nn.Module):
    """A network that is out of memory for more than ``limit`` windows, or for its first calls."""

    def __init__(self, limit: int, first_calls: int = 0) -> None:
        super().__init__()
        self.net, self.limit, self.calls_left = small_net(), limit, first_calls

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if windows.shape[0] > self.limit or self.calls_left > 0:
            self.calls_left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(windows)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Greedy(limit=2), "out of memory: 2 windows at a time"),
        (Greedy(limit=1), "out of memory: 2 windows at a time; out of memory: 1 windows at a time"),
        (Greedy(limit=9, first_calls=3), "out of memory: network on the CPU"),
    ],
)
def test_out_of_memory_falls_back_is_recorded_and_gives_the_same_labels(network: Greedy, expected: str) -> None:
    image = on_model_grid(smooth_volume((24, 20, 12)), np.eye(4), (1.5, 1.5, 2.0))
    result = StreamingInferer((8, 8, 8), 4, backend="torch")(image, network)
    assert expected in result.meta["inference"]["fallbacks"]
    np.testing.assert_array_equal(result.numpy()[0, 0], labels_unbounded(image, small_net(), (8, 8, 8)))


def test_network_that_never_fits_is_an_error() -> None:
    image = on_model_grid(smooth_volume((12, 12, 12)), np.eye(4), (1.5, 1.5, 2.0))
    with pytest.raises(MemoryError, match="smaller roi_size"):
        StreamingInferer((8, 8, 8), 4, backend="torch")(image, Greedy(limit=0))


@pytest.mark.parametrize("breaks_at", [None, 0, 1])
def test_labels_painted_as_on_a_gpu_are_the_same_and_go_on_on_the_cpu_without_room(
    breaks_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = on_model_grid(smooth_volume((40, 36, 24)), np.diag([-1.0, 1.0, 1.0, 1.0]), (1.5, 1.5, 2.0))
    paint, painted = DeviceCanvas._paint, [0]

    def breaking(self: DeviceCanvas, block: torch.Tensor, first: int, planes: slice) -> None:
        painted[0] += 1
        if breaks_at is not None and painted[0] > breaks_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        paint(self, block, first, planes)

    monkeypatch.setattr(DeviceCanvas, "_paint", breaking)
    inferer = StreamingInferer((16, 16, 8), 2, backend="torch", probabilities=True)
    on_cpu = inferer(image, small_net())
    monkeypatch.setattr(
        "liver_pipeline.inferers.streaming.empty_canvas",
        lambda grid, axis, _, **kept: DeviceCanvas(grid, axis, "cpu", **kept),
    )
    result = inferer(image, small_net())
    np.testing.assert_array_equal(result.numpy(), on_cpu.numpy())
    np.testing.assert_array_equal(result.meta["probabilities"], on_cpu.meta["probabilities"])
    expected = "" if breaks_at is None else "out of memory: upsampling on the CPU"
    assert result.meta["inference"]["fallbacks"] == expected
    assert painted[0] > 1 or breaks_at == 0


def test_a_canvas_that_has_no_room_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    image = on_model_grid(smooth_volume((40, 36, 24)), np.diag([-1.0, 1.0, 1.0, 1.0]), (1.5, 1.5, 2.0))
    left: list[weakref.ref[DeviceCanvas]] = []
    gone: list[bool] = []
    add = LabelCanvas.add

    def first(grid: AxisMap, axis: int, _: torch.device, **kept: bool) -> DeviceCanvas:
        canvas = DeviceCanvas(grid, axis, "cpu", **kept)
        left.append(weakref.ref(canvas))
        return canvas

    def breaking(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def noting(self: LabelCanvas, probabilities: torch.Tensor) -> None:
        gone.append(left[0]() is None)
        add(self, probabilities)

    monkeypatch.setattr("liver_pipeline.inferers.streaming.empty_canvas", first)
    monkeypatch.setattr(DeviceCanvas, "_paint", breaking)
    monkeypatch.setattr(LabelCanvas, "add", noting)
    StreamingInferer((8, 8, 8), 2, backend="torch")(image, small_net())
    assert gone[-1] and not gone[0]  # while the error is handled its frames hold it


@pytest.mark.parametrize(("members", "tta"), [(1, [0]), (2, [])])
def test_no_memory_at_any_operation_of_a_case_gives_the_same_labels_and_probabilities(
    members: int, tta: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = on_model_grid(smooth_volume((20, 18, 12)), np.diag([-1.0, 1.0, 1.0, 1.0]), (1.5, 1.5, 2.0))
    networks = torch.nn.ModuleList(small_net(seed=seed) for seed in range(members))
    inferer = StreamingInferer((8, 8, 8), 2, backend="torch", probabilities=True, quality=True, tta=tta)
    monkeypatch.setattr(
        "liver_pipeline.inferers.streaming.empty_canvas",
        lambda grid, axis, _, **kept: DeviceCanvas(grid, axis, "cpu", **kept),
    )
    stream = inferer._stream

    def segmented(mode: NoMemory) -> MetaTensor:
        """Run the case on a device that has no memory for one of its operations."""

        def short_of_memory(*args: Any, **options: Any) -> Any:
            with mode:
                return stream(*args, **options)

        monkeypatch.setattr(inferer, "_stream", short_of_memory)
        return inferer(image, networks)

    counting = NoMemory(0)
    expected = segmented(counting)
    assert expected.meta["inference"]["fallbacks"] == ""
    last = counting.count
    for at in [*range(1, 40), *range(40, last - 20, last // 40), *range(last - 20, last + 1)]:
        result = segmented(NoMemory(at))
        np.testing.assert_array_equal(result.numpy(), expected.numpy(), err_msg=f"operation {at}")
        np.testing.assert_array_equal(result.meta["probabilities"], expected.meta["probabilities"])
        assert result.meta["inference"]["agreement"] == expected.meta["inference"]["agreement"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_resamples_to_the_bit_and_labels_a_scan_as_the_cpu_does() -> None:
    volume, affine = smooth_volume((64, 56, 48)), np.diag([-0.8, 0.9, 1.5, 1.0])
    stored = torch.from_numpy((300 * volume).astype(np.int16)[None])
    labels = []
    for device in ("cpu", "cuda"):
        scan = MetaTensor(stored, affine=torch.from_numpy(affine))
        moved = ToModelGridd("image", spacing=(1.5, 1.5, 2.0), device=device)({"image": scan})
        image = WindowHud("image", (-200.0, 300.0))(moved)["image"]
        assert image.device.type == device
        labels.append((image.cpu(), StreamingInferer((16, 16, 8), 2)(image[None], small_net().to(device))))
    assert torch.equal(labels[0][0], labels[1][0])
    assert (labels[0][1].numpy() == labels[1][1].numpy()).mean() > 0.9999
    assert labels[1][1].meta["inference"]["upsampled_on"].startswith("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_the_labels_of_the_cpu() -> None:
    image = on_model_grid(smooth_volume((40, 36, 24)), np.eye(4), (1.5, 1.5, 2.0))
    on_cpu = StreamingInferer((16, 16, 8), 2, backend="torch")(image, small_net())
    on_gpu = StreamingInferer((16, 16, 8), 2)(image, small_net().cuda())
    assert on_gpu.meta["inference"]["reason"] == "the network is on cuda"
    assert (on_cpu.numpy() == on_gpu.numpy()).mean() > 0.9999


def test_openvino_gives_the_same_labels_and_converts_once(tmp_path: Path) -> None:
    image = on_model_grid(smooth_volume((30, 28, 20)), np.eye(4), (1.5, 1.5, 2.0))
    for cached in (0, 1):
        net = small_net()  # a new module each time, as in a new process
        result = StreamingInferer((16, 16, 8), 2, cache_dir=tmp_path)(image, net)
        assert result.meta["inference"]["backend"] == "openvino", result.meta["inference"]["reason"]
        expected = labels_unbounded(image, net, (16, 16, 8), 2)
        assert (result.numpy()[0, 0] == expected).mean() >= 0.9999
        assert len(list(tmp_path.glob("openvino-*"))) == 1, cached
    StreamingInferer((16, 16, 8), 2, cache_dir=tmp_path)(image, small_net(seed=5))
    assert len(list(tmp_path.glob("openvino-*"))) == 2


def test_networks_that_cannot_be_kept_are_used_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")  # as OpenVINO says it of a full disk

    monkeypatch.setattr(pytest.importorskip("openvino"), "save_model", full)
    (tmp_path / "file").write_bytes(b"")
    for cache_dir in (tmp_path / "file", tmp_path / "full"):
        for seed in (0, 1):
            OpenVinoNetwork(small_net(seed=seed), (1, 1, 16, 16, 16), cache_dir=cache_dir)
    told = [record.getMessage() for record in caplog.records]
    assert [f"not kept in {tmp_path / name} " in line for name, line in zip(("file", "full"), told, strict=True)]
    assert not list((tmp_path / "full").iterdir())  # nor is a comparison noted for what is not there


def test_a_converted_network_is_compared_with_pytorch_once_on_each_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, ...]] = []
    check = OpenVinoNetwork._agreement

    def noted(self: OpenVinoNetwork, network: torch.nn.Module, model: object, shape: tuple[int, ...]) -> float:
        compared.append(shape)
        return check(self, network, model, shape)

    monkeypatch.setattr(OpenVinoNetwork, "_agreement", noted)
    whole, small = (1, 1, 128, 64, 64), (1, 1, 32, 32, 32)
    for _ in range(2):
        OpenVinoNetwork(small_net(), whole, cache_dir=tmp_path)
    assert compared == [whole]
    (record,) = tmp_path.glob("openvino-*/checked-*.json")
    assert json.loads(record.read_text())["label_agreement_with_torch"] > 0.999
    record.rename(record.with_name("checked-another-processor.json"))
    OpenVinoNetwork(small_net(), whole, cache_dir=tmp_path)
    assert compared == [whole] * 2
    other = small_net(seed=5)  # its structure was compared on a whole window; its weights were not
    windows = torch.rand(whole)
    with torch.inference_mode():
        expected = other(windows)
    for _ in range(2):
        torch.testing.assert_close(
            OpenVinoNetwork(other, whole, cache_dir=tmp_path)(windows), expected, rtol=1e-3, atol=1e-3
        )
    assert compared == [whole, whole, small]
    OpenVinoNetwork(small_net(), whole)  # nothing is kept
    (structure,) = tmp_path.glob("structure-*.json")
    structure.write_text("damaged")
    OpenVinoNetwork(small_net(seed=7), whole, cache_dir=tmp_path)
    assert compared == [whole, whole, small, whole, whole]


class LargeOnly(torch.nn.Module):
    """Computes otherwise on windows below a size, or takes none of them."""

    def __init__(self, least: int, refuses: bool) -> None:
        super().__init__()
        self.least, self.refuses = least, refuses
        self.layer = torch.nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if windows.shape[2] >= self.least:
            return torch.as_tensor(self.layer(windows))
        if self.refuses:
            raise ValueError("too small")
        return -torch.as_tensor(self.layer(windows))


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("least", [64, 128])
def test_a_network_that_differs_on_small_windows_is_traced_on_one_that_is_large_enough(
    least: int, refuses: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    shape = (1, 1, 128, 32, 1)
    windows = torch.rand(shape)
    for network in (LargeOnly(least, refuses).eval(), LargeOnly(least, refuses).eval()):  # the same structure
        with torch.inference_mode():
            expected = network(windows)
            converted = OpenVinoNetwork(network, shape, cache_dir=tmp_path)
            torch.testing.assert_close(converted(windows), expected, rtol=1e-3, atol=1e-4)


def test_changed_weights_are_converted_again() -> None:
    image = on_model_grid(smooth_volume((20, 18, 12)), np.eye(4), (1.5, 1.5, 2.0))
    net, inferer = small_net(), StreamingInferer((8, 8, 8))
    inferer(image, net)
    net.load_state_dict(small_net(seed=9).state_dict())
    np.testing.assert_array_equal(
        inferer(image, net).numpy(), StreamingInferer((8, 8, 8))(image, small_net(seed=9)).numpy()
    )


def test_damaged_conversion_is_made_again(tmp_path: Path) -> None:
    image = on_model_grid(smooth_volume((20, 18, 12)), np.eye(4), (1.5, 1.5, 2.0))
    first = StreamingInferer((8, 8, 8), cache_dir=tmp_path)(image, small_net())
    next(tmp_path.glob("openvino-*/model.xml")).write_text("<net")
    second = StreamingInferer((8, 8, 8), cache_dir=tmp_path)(image, small_net())
    assert second.meta["inference"]["backend"] == "openvino"
    np.testing.assert_array_equal(first.numpy(), second.numpy())


class Loops(torch.nn.Module):
    """Sorts through numpy on the way: no converter follows that truthfully."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        shift = float(np.median(windows.numpy()))
        signs = torch.tensor([1.0, -1.0, 1.0 + 50.0 * shift]).view(1, 3, 1, 1, 1)
        return self.net(windows - shift) * signs  # type: ignore[no-any-return]


class Refuses(torch.nn.Module):
    """Takes real windows and no example that a tracer could use."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if torch._C._get_tracing_state() is not None:
            raise RuntimeError("not today")
        return torch.cat([windows, -windows], dim=1)


@pytest.mark.parametrize("network", [Refuses(), Loops()], ids=["fails", "differs"])
def test_network_that_does_not_convert_runs_in_torch_with_the_reason(network: torch.nn.Module) -> None:
    image = on_model_grid(smooth_volume((12, 12, 12)), np.eye(4), (1.5, 1.5, 2.0))
    level = logging.getLogger().level
    result = StreamingInferer((8, 8, 8))(image, network)
    assert logging.getLogger().level == level, "warnings of all that follows are lost"
    assert result.meta["inference"]["backend"] == "torch"
    assert "OpenVINO" in result.meta["inference"]["reason"]
    np.testing.assert_array_equal(result.numpy()[0, 0], labels_unbounded(image, network, (8, 8, 8)))
    with pytest.raises(ConversionError, match="backend: torch"):
        StreamingInferer((8, 8, 8), backend="openvino")(image, network)


def test_bf16_is_measured_against_f32_or_said_to_be_missing() -> None:
    image = on_model_grid(smooth_volume((40, 36, 24)), np.eye(4), (1.5, 1.5, 2.0))
    record = StreamingInferer((8, 8, 8), precision="bf16")(image, small_net()).meta["inference"]
    if record["precision"] == "bf16":
        assert 0.9 < record["label_agreement"] <= 1.0
    else:
        assert "bf16" in record["reason"]


@pytest.mark.parametrize("tta", [(), (0,), (0, 1, 2)])
def test_engines_that_are_equal_agree_on_every_label_also_when_mirrored(tta: tuple[int, ...]) -> None:
    class Converted:
        def __call__(self, windows: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(-1, 1, windows.shape[2])[:, None, None]  # mirrored it gives another answer
            return torch.cat([windows * ramp, -windows + 0.3], dim=1)

        run_exact = __call__

    predictor = Predictor([small_net()], Engine(backend="torch", tta=tta), (2, 1, 8, 8, 8), torch.device("cpu"))
    predictor.converted, predictor.record.precision = [Converted()], "bf16"  # type: ignore[list-item]
    for seed in range(17):  # the last batch is the first that is compared
        predictor(torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed)))
    assert predictor.record.agreeing_voxels == predictor.record.compared_voxels == 2 * 8**3


def test_openvino_is_used_without_its_telemetry() -> None:
    code = (
        "import sys; from liver_pipeline.networks.conversion import import_openvino; ov = import_openvino();"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "openvino.tools.ovc.telemetry_stub"


def test_output_that_is_no_number_is_an_error_and_no_mask() -> None:
    image = on_model_grid(smooth_volume((12, 12, 12)), np.eye(4), (1.5, 1.5, 2.0))

    def broken(windows: torch.Tensor) -> torch.Tensor:
        return torch.full((windows.shape[0], 3, *windows.shape[2:]), float("nan"))

    with pytest.raises(ValueError, match="NaN"):
        StreamingInferer((8, 8, 8))(image, broken)


def test_network_in_training_mode_is_run_in_eval_mode_and_put_back() -> None:
    image = on_model_grid(smooth_volume((12, 12, 12)), np.eye(4), (1.5, 1.5, 2.0))
    net = torch.nn.Sequential(small_net(), torch.nn.Dropout(0.9)).train()
    result = StreamingInferer((8, 8, 8), backend="torch")(image, net)
    assert net.training
    np.testing.assert_array_equal(result.numpy()[0, 0], labels_unbounded(image, small_net(), (8, 8, 8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_size": (8, 8)}, "three numbers"),
        ({"overlap": 1.0}, "below 1"),
        ({"sw_batch_size": 0}, "at least 1"),
        ({"backend": "tensorflow"}, "known: auto, torch, openvino"),
        ({"precision": "int4"}, "known: f32, bf16"),
        ({"amp": "f8"}, "known: None, bf16, fp16"),
        ({"tta": (3,)}, "axes to mirror"),
        ({"grid": "patient"}, "known: scan, model"),
    ],
)
def test_wrong_option_names_what_is_known(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingInferer(**{"roi_size": (8, 8, 8), **options})


def test_several_cases_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="one case"):
        StreamingInferer((8, 8, 8))(torch.zeros(2, 1, 8, 8, 8), small_net())
