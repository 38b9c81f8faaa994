"""Sliding-window inference that leaves labels on the scan's grid and keeps only the planes that are still growing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer, sliding_window_inference
from monai.utils import ensure_tuple_rep
from torch.utils.data import default_collate

from liver_pipeline.geometry.affines import spacing_of
from liver_pipeline.geometry.axes import AxisMap, axis_map
from liver_pipeline.geometry.body import BLOCK_VOXELS, decode_blocks
from liver_pipeline.inferers.agreement import PassAgreement
from liver_pipeline.inferers.predictor import Clock, Engine, Network, Predictor, device_of, evaluating, free_cache
from liver_pipeline.inferers.progress import tell_progress
from liver_pipeline.inferers.stitching import SlabStitcher, blend, importance_map
from liver_pipeline.inferers.upsampling import DeviceCanvas, LabelCanvas, softmax, upsample_whole
from liver_pipeline.inferers.windows import Window, holds_body, padding, streaming_axis, window_shape, windows
from liver_pipeline.labels import LabelMap

CANVAS_BYTES = 1e9  # of a label map (and probabilities) that is kept on a GPU until it is complete
FLUSH_BYTES = 16 * 2**20  # of sums that are turned into labels at a time: temporaries stay in the processor's cache


class StreamingInferer(Inferer):
    """Run a network over a scan on the model grid and give the label map on the scan's own grid.

    Windows, their order, weights and sums are those of ``monai.inferers.SlidingWindowInferer``; logits are blended,
    softmax gives probabilities, these are interpolated linearly to the scan's grid and the largest wins. Planes are
    finished, upsampled and reduced to labels as soon as no later window touches them, so memory is bounded by a slab.
    The labels are equal to those of :func:`labels_unbounded`.

    Args:
        roi_size: Window size in voxels; values <= 0 take the volume's own size. 2D networks (``Slicewise``): one is 1.
        sw_batch_size: Windows that are run at a time.
        overlap: Share of the window that the next one covers again, for all axes or each.
        mode: "gaussian" or "constant" weights.
        sigma_scale: Width of the gaussian, in window sizes.
        padding_mode: How a volume smaller than the window is filled up: as in ``torch.nn.functional.pad``.
        cval: Value for padding_mode "constant".
        device: Where sums are kept; None: where the network is.
        tta: Axes to mirror, of 0, 1, 2; logits of all combinations are averaged.
        amp: None, "bf16" or "fp16": autocast in PyTorch.
        backend: "auto" (OpenVINO on a CPU where the network converts), "torch" or "openvino".
        precision: "f32" or "bf16" in OpenVINO; with bf16 the agreement of labels is measured on batches 17 and 257 of a
            case, where it has so many.
        cache_dir: Folder for networks converted to OpenVINO; None converts once per process.
        skip_air: Leave out windows that hold only air, according to the scan's ``body`` meta; background there.
        grid: "scan", or "model" for labels on the model grid (validation while training).
        probabilities: Keep the probabilities of the foreground classes too: one byte a class and voxel of the scan.
        quality: Also find out how far the passes agree (see :mod:`~liver_pipeline.inferers.agreement`): those of an
            ensemble's members or of tta; a single network makes a second, mirrored pass. The labels stay the same.

    The result's meta holds affine (of its grid), filename_or_obj and ``inference``, a plain dict of what happened; and
    with ``probabilities`` under that name a uint8 tensor (1, X, Y, Z, K - 1): round(255 p), on the same grid.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: float | Sequence[float] = 0.5,
        *,
        mode: str = "gaussian",
        sigma_scale: float | Sequence[float] = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        device: torch.device | str | None = None,
        tta: Sequence[int] = (),
        amp: str | None = None,
        backend: str = "auto",
        precision: str = "f32",
        cache_dir: str | Path | None = None,
        skip_air: bool = True,
        grid: str = "scan",
        probabilities: bool = False,
        quality: bool = False,
    ) -> None:
        super().__init__()
        self.roi_size = tuple(int(n) for n in roi_size)
        self.overlap: tuple[float, ...] = ensure_tuple_rep(overlap, 3)
        if len(self.roi_size) != 3:
            raise ValueError(f"roi_size must be three numbers of voxels, got {self.roi_size}; 2D is [X, Y, 1]")
        if not all(0.0 <= o < 1.0 for o in self.overlap):
            raise ValueError(f"overlap must be at least 0 and below 1, got {self.overlap}")
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be at least 1, got {sw_batch_size}")
        for name, value, known in (
            ("grid", grid, ("scan", "model")),
            ("mode", mode, ("gaussian", "constant")),
            ("padding_mode", padding_mode, ("constant", "reflect", "replicate", "circular")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(known)}")
        self.sw_batch_size = int(sw_batch_size)
        self.mode, self.sigma_scale = mode, sigma_scale
        self.padding_mode, self.cval = padding_mode, cval
        self.device = device
        self.engine = Engine(backend, precision, amp, tuple(tta), Path(cache_dir).expanduser() if cache_dir else None)
        self.skip_air = skip_air
        self.grid = grid
        self.probabilities = probabilities
        self.quality = quality

    def __call__(
        self, inputs: torch.Tensor, network: Network | Sequence[Network], *args: Any, **kwargs: Any
    ) -> MetaTensor:
        """Segment one case.

        Args:
            inputs: Image on the model grid, (1, C, X', Y', Z'); its meta says where the scan's grid is (affine,
                scan_affine, scan_shape, see ``ToModelGridd``). Without it the labels lie on the model grid.
            network: Maps (B, C, *roi) to logits (B, K, *roi), K >= 2. A list of networks is an ensemble: the mean of
                their probabilities.
            args: Passed on to the network.
            kwargs: Passed on to the network.

        Returns:
            Labels, uint8, (1, 1, X, Y, Z), on the CPU.

        Raises:
            ValueError: If there is more than one case, or the two grids are not parallel.
        """
        if inputs.ndim != 5 or inputs.shape[0] != 1:
            raise ValueError(f"expected one case of shape (1, C, X, Y, Z), got {tuple(inputs.shape)}")
        members = _members(network)
        if args or kwargs:
            members = [_with_arguments(member, args, kwargs) for member in members]
        meta = case_meta(inputs)
        image = inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0]
        grid = self._grid(meta, tuple(image.shape[1:]))
        with evaluating(members), torch.inference_mode():
            streamed = None
            with contextlib.suppress(torch.OutOfMemoryError):  # at a step that cannot make room by itself
                streamed = self._stream(image, members, grid, meta)
            if streamed is None:  # what the first attempt held is free by now
                free_cache()
                streamed = self._stream(image.cpu(), members, grid, meta, on_cpu=True)
        canvas, record = streamed
        affine = meta.get("scan_affine" if self.grid == "scan" else "affine", meta.get("affine", np.eye(4)))
        return as_result(canvas.labels, canvas.levels, record, meta, inputs, affine=affine)

    def _grid(self, meta: dict[str, Any], model_shape: Sequence[int]) -> AxisMap:
        """Return the map between the model grid and the grid of the labels."""
        if self.grid == "model" or "scan_affine" not in meta:
            return axis_map(np.eye(4), model_shape, np.eye(4), model_shape)
        scan_shape = [int(n) for n in meta["scan_shape"]]
        return axis_map(np.asarray(meta["scan_affine"]), scan_shape, np.asarray(meta["affine"]), model_shape)

    def _stream(
        self,
        image: torch.Tensor,
        members: Sequence[Network],
        grid: AxisMap,
        meta: dict[str, Any],
        *,
        on_cpu: bool = False,
    ) -> tuple[LabelCanvas | DeviceCanvas, dict[str, Any]]:
        """Visit the windows slab by slab, all but the network on the CPU if asked for; return canvas and record."""
        plan = self._plan(image, meta)
        predictor = Predictor(
            members,
            self.engine,
            (self.sw_batch_size, image.shape[0], *plan.roi),
            device_of(members[0]),
            one_shape=all(n > 0 for n in self.roi_size),
            judged=self.quality,
        )
        weights = importance_map(plan.roi, self.mode, self.sigma_scale)
        device = torch.device("cpu" if on_cpu else self.device or predictor.device)
        if on_cpu:
            predictor.record.fallbacks.append("out of memory: all but the network on the CPU")
        agreement = PassAgreement(predictor.groups, predictor.first_judged) if self.quality else None
        upsampler = _Upsampler(self._canvas(grid, plan.axis, device), plan, len(members), predictor.groups, agreement)
        stitcher = SlabStitcher(plan.image.shape[1:], plan.axis, weights, upsampler, device)

        def relieve() -> bool:
            if upsampler.move_to_cpu():
                return True
            if stitcher.device.type == "cpu":
                return False
            stitcher.move("cpu")
            predictor.record.fallbacks.append("out of memory: stitching on the CPU")
            return True

        for begin in range(0, len(plan.kept), self.sw_batch_size):
            batch = plan.kept[begin : begin + self.sw_batch_size]
            logits = predictor(torch.stack([plan.image[(slice(None), *window)] for window in batch]), relieve)
            for window, output in zip(batch, logits, strict=True):
                stitcher.add(window, output, relieve)
            tell_progress((begin + len(batch)) / len(plan.kept))
        stitcher.finish(relieve)
        predictor.record.fallbacks += upsampler.fallbacks
        record = self._record(plan, predictor, upsampler, len(members))
        if agreement is not None:
            spacing = spacing_of(np.asarray(meta.get("affine", np.eye(4)), dtype=np.float64))
            record["agreement"] = agreement.figures(float(np.prod(spacing)) / 1000.0)  # 1 ml = 1000 mm^3
        return upsampler.canvas, record

    def _canvas(self, grid: AxisMap, axis: int, device: torch.device) -> LabelCanvas | DeviceCanvas:
        """Return what labels are painted on: on a GPU that has the sums, if it has room for the label map as well."""
        kept = 3 if self.probabilities else 1
        if device.type == "cuda" and kept * int(np.prod(grid.scan_shape)) <= CANVAS_BYTES:
            try:
                return DeviceCanvas(grid, axis, device, keep_probabilities=self.probabilities)
            except torch.OutOfMemoryError:
                free_cache()
        return LabelCanvas(grid, axis, keep_probabilities=self.probabilities)

    def _plan(self, image: torch.Tensor, meta: dict[str, Any]) -> _Plan:
        """Pad the image where it is smaller than a window, order the windows, drop those that hold only air."""
        shape = tuple(int(n) for n in image.shape[1:])
        roi = window_shape(self.roi_size, shape)
        pads = padding(roi, shape)
        if any(sum(pad) for pad in pads):
            flat = [n for pad in reversed(pads) for n in pad]
            image = F.pad(image[None], flat, mode=self.padding_mode, value=self.cval)[0]
        axis = streaming_axis(image.shape[1:], roi, self.overlap)
        order = sorted(windows(image.shape[1:], roi, self.overlap), key=lambda window: int(window[axis].start))
        blocks, note = self._body(meta, shape)
        before = [pad[0] for pad in pads]
        kept = order if blocks is None else [window for window in order if holds_body(window, blocks, before)]
        return _Plan(image, shape, roi, pads, axis, order, kept, note)

    def _body(self, meta: dict[str, Any], shape: Sequence[int]) -> tuple[npt.NDArray[np.bool_] | None, str]:
        """Return the body map, if windows of air are to be skipped, and what to record."""
        if not self.skip_air:
            return None, "off"
        if not meta.get("body"):
            return None, "off: no body map"
        blocks = decode_blocks(str(meta["body"]))
        if blocks.shape != tuple(-(-n // BLOCK_VOXELS) for n in shape):
            return None, "off: the body map is of another grid"  # the image was cropped since
        return blocks, "on"

    def _record(self, plan: _Plan, predictor: Predictor, upsampler: _Upsampler, members: int) -> dict[str, Any]:
        """Return what happened as plain values (no None and no lists: MONAI's collate takes neither)."""
        happened = predictor.record
        record: dict[str, Any] = {
            "backend": happened.backend,
            "reason": happened.reason,
            "precision": happened.precision,
            "device": str(predictor.device),
            "fallbacks": "; ".join(happened.fallbacks),
            "members": members,
            "tta": ",".join(str(a) for a in self.engine.tta),
            "windows": len(plan.order),
            "skipped_windows": len(plan.order) - len(plan.kept),
            "skip_air": plan.note,
            "streaming_axis": plan.axis,
            "resampled_on": str(plan.image.device),
            "upsampled_on": str(upsampler.canvas.device),
            "seconds_conversion": round(happened.seconds_conversion, 4),
            "seconds_network": round(predictor.clock.seconds, 4),
            "seconds_upsampling": round(upsampler.clock.seconds, 4),
        }
        if happened.compared_voxels:
            record["label_agreement"] = happened.agreeing_voxels / happened.compared_voxels
        return record


@dataclass(frozen=True)
class _Plan:
    """The windows of one case: padded image (C, X, Y, Z), shape before padding, window size, order, what is kept."""

    image: torch.Tensor
    shape: tuple[int, ...]
    roi: tuple[int, int, int]
    pads: tuple[tuple[int, int], ...]
    axis: int
    order: list[Window]
    kept: list[Window]
    note: str


class _Upsampler:
    """Takes finished sums from the stitcher, crops the padding, and paints labels; ``clock`` has the time it took."""

    def __init__(
        self,
        canvas: LabelCanvas | DeviceCanvas,
        plan: _Plan,
        members: int,
        groups: int,
        agreement: PassAgreement | None,
    ) -> None:
        self.canvas = canvas
        self.fallbacks: list[str] = []
        self.members, self.groups, self.agreement = members, groups, agreement
        planes, rows, columns = (slice(plan.pads[a][0], plan.pads[a][0] + plan.shape[a]) for a in canvas.roles)
        self.planes, self.inside = planes, (slice(None), slice(None), rows, columns)
        self.position = 0
        self.clock = Clock()

    def __call__(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Paint the next planes."""
        with self.clock(sums.device):
            self._flush(sums, counts)

    def _flush(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        first = max(self.planes.start - self.position, 0)
        last = min(self.planes.stop - self.position, sums.shape[0])
        self.position += sums.shape[0]
        some = max(4, FLUSH_BYTES // (4 * sums[0].numel()))
        for begin in range(first, last, some):
            part = slice(begin, min(begin + some, last))
            try:
                self._paint(sums[part], counts[part])
            except torch.OutOfMemoryError:
                self.move_to_cpu()
                self._paint(sums[part].cpu(), counts[part].cpu())
            if self.agreement is not None:
                self._compare(sums[part][self.inside])

    def _compare(self, sums: torch.Tensor) -> None:
        """Count where the passes agree."""
        assert self.agreement is not None
        try:
            self.agreement.add(sums)
        except torch.OutOfMemoryError:
            self.agreement.add(sums.cpu())

    def move_to_cpu(self) -> bool:
        """Go on with a label map on the CPU; False where it is there already."""
        if isinstance(self.canvas, LabelCanvas):
            return False
        self.canvas = self.canvas.on_cpu()
        self.fallbacks.append("out of memory: upsampling on the CPU")
        free_cache()
        return True

    def _paint(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Turn sums into probabilities and these into labels."""
        if isinstance(self.canvas, DeviceCanvas) and self.canvas.device.type != sums.device.type:
            self.move_to_cpu()  # the sums were, before
        kept = sums.shape[1] // self.groups * self.members  # what is only compared comes after it
        self.canvas.add(blend(sums[self.inside][:, :kept], counts[self.inside], self.members))


def _members(network: Network | Sequence[Network]) -> list[Network]:
    """Return the networks of an ensemble; one network is an ensemble of one."""
    if isinstance(network, torch.nn.ModuleList):
        return list(network)
    return list(network) if isinstance(network, list | tuple) else [network]  # type: ignore[list-item]


def _with_arguments(network: Network, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Network:
    """Return a network that is called with more arguments."""
    return lambda windows: network(windows, *args, **kwargs)


def case_meta(image: torch.Tensor) -> dict[str, Any]:
    """Return the meta of a batch of one case, as it was before it was collated; empty for a plain tensor."""
    if not isinstance(image, MetaTensor):
        return {}
    if image.is_batch:
        return dict(decollate_batch(image)[0].meta)
    return dict(image.meta)


def as_result(
    labels: LabelMap,
    levels: LabelMap | None,
    record: dict[str, Any],
    meta: dict[str, Any],
    inputs: torch.Tensor,
    *,
    affine: Any,
) -> MetaTensor:
    """Wrap labels as a batch of one, without copying them; collated meta where the input's was.

    Args:
        labels: uint8 (X, Y, Z) on the grid that ``affine`` describes.
        levels: Probabilities in eight bits, (X, Y, Z, K - 1), if they are kept.
        record: What happened.
        meta: Of the case.
        inputs: What the inferer was given.
        affine: Voxel index to RAS mm, (4, 4).
    """
    kept: dict[str, Any] = {"affine": torch.as_tensor(np.asarray(affine), dtype=torch.float64), "inference": record}
    if "filename_or_obj" in meta:
        kept["filename_or_obj"] = str(meta["filename_or_obj"])
    result = MetaTensor(torch.from_numpy(labels[None, None]))
    batched = isinstance(inputs, MetaTensor) and bool(inputs.is_batch)
    result.meta = default_collate([kept]) if batched else kept
    if levels is not None:
        result.meta["probabilities"] = torch.from_numpy(levels[None])
    result.is_batch = batched
    return result


def labels_unbounded(
    inputs: torch.Tensor,
    network: Network | Sequence[Network],
    roi_size: Sequence[int],
    sw_batch_size: int = 1,
    overlap: float | Sequence[float] = 0.5,
    *,
    mode: str = "gaussian",
    padding_mode: str = "constant",
    cval: float = 0.0,
) -> LabelMap:
    """Return what :class:`StreamingInferer` must equal: whole volumes, MONAI's sliding window, upsampling, argmax.

    For tests and benchmarks: memory grows with the scan, many floats for each of its voxels.

    Args:
        inputs: As for StreamingInferer.
        network: As for StreamingInferer.
        roi_size: As for StreamingInferer.
        sw_batch_size: As for StreamingInferer.
        overlap: As for StreamingInferer.
        mode: As for StreamingInferer.
        padding_mode: As for StreamingInferer.
        cval: As for StreamingInferer.

    Returns:
        uint8 labels (X, Y, Z) on the scan's grid.
    """
    image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
    members = _members(network)
    mean: torch.Tensor | None = None
    with torch.inference_mode():
        for member in members:
            logits = sliding_window_inference(
                image, roi_size, sw_batch_size, member, overlap, mode, padding_mode=padding_mode, cval=cval
            )
            assert isinstance(logits, torch.Tensor)
            probabilities = softmax(logits, dim=1)
            mean = probabilities if mean is None else mean + probabilities
    assert mean is not None
    grid = StreamingInferer(roi_size)._grid(case_meta(inputs), tuple(image.shape[2:]))
    return upsample_whole((mean / len(members) if len(members) > 1 else mean)[0], grid)
