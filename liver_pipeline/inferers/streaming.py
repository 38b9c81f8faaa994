"""Sliding-window inference that leaves labels on the scan's grid and keeps only the planes that are still growing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import ensure_tuple_rep

from liver_pipeline.geometry.affines import spacing_of
from liver_pipeline.geometry.axes import AxisMap
from liver_pipeline.inferers.agreement import PassAgreement
from liver_pipeline.inferers.canvas import LabelCanvas
from liver_pipeline.inferers.device_canvas import DeviceCanvas
from liver_pipeline.inferers.devices import free_cache
from liver_pipeline.inferers.members import Network, device_of, evaluating, members_of
from liver_pipeline.inferers.painting import Painter, empty_canvas
from liver_pipeline.inferers.predictor import Engine, Predictor
from liver_pipeline.inferers.progress import tell_progress
from liver_pipeline.inferers.results import as_result, case_meta, label_grid
from liver_pipeline.inferers.stitching import SlabStitcher, importance_map
from liver_pipeline.inferers.windows import WindowPlan, body_of, plan_windows


class StreamingInferer(Inferer):
    """Run a network over a scan on the model grid and give the label map on the scan's own grid.

    Windows, their order, weights and sums are those of ``monai.inferers.SlidingWindowInferer``; logits are blended,
    softmax gives probabilities, these are interpolated linearly to the scan's grid and the largest wins. Planes are
    finished, upsampled and reduced to labels as soon as no later window touches them, so memory is bounded by a slab.
    The labels are equal to those of :func:`~liver_pipeline.inferers.unbounded.labels_unbounded`.

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
        members = members_of(network)
        if args or kwargs:
            members = [_with_arguments(member, args, kwargs) for member in members]
        meta = case_meta(inputs)
        image = inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0]
        grid = label_grid(meta, tuple(image.shape[1:]), on_scan=self.grid == "scan")
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
        body, note = body_of(meta, image.shape[1:]) if self.skip_air else (None, "off")
        plan = plan_windows(image, self.roi_size, self.overlap, mode=self.padding_mode, value=self.cval, body=body)
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
        painter = Painter(
            empty_canvas(grid, plan.axis, device, keep_probabilities=self.probabilities),  # held by the painter alone
            plan,
            len(members),
            predictor.groups,
            agreement,
        )
        stitcher = SlabStitcher(plan.image.shape[1:], plan.axis, weights, painter, device)

        def relieve() -> bool:
            if painter.move_to_cpu():
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
        predictor.record.fallbacks += painter.fallbacks
        record = self._record(plan, note, predictor, painter)
        if agreement is not None:
            spacing = spacing_of(np.asarray(meta.get("affine", np.eye(4)), dtype=np.float64))
            record["agreement"] = agreement.figures(float(np.prod(spacing)) / 1000.0)  # 1 ml = 1000 mm^3
        return painter.canvas, record

    def _record(self, plan: WindowPlan, skip_air: str, predictor: Predictor, painter: Painter) -> dict[str, Any]:
        """Return what happened as plain values (no None and no lists: MONAI's collate takes neither)."""
        happened = predictor.record
        record: dict[str, Any] = {
            "backend": happened.backend,
            "reason": happened.reason,
            "precision": happened.precision,
            "device": str(predictor.device),
            "fallbacks": "; ".join(happened.fallbacks),
            "members": painter.members,
            "tta": ",".join(str(a) for a in self.engine.tta),
            "windows": len(plan.order),
            "skipped_windows": len(plan.order) - len(plan.kept),
            "skip_air": skip_air,
            "streaming_axis": plan.axis,
            "resampled_on": str(plan.image.device),
            "upsampled_on": str(painter.canvas.device),
            "seconds_conversion": round(happened.seconds_conversion, 4),
            "seconds_network": round(predictor.clock.seconds, 4),
            "seconds_upsampling": round(painter.clock.seconds, 4),
        }
        if happened.compared_voxels:
            record["label_agreement"] = happened.agreeing_voxels / happened.compared_voxels
        return record


def _with_arguments(network: Network, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Network:
    """Return a network that is called with more arguments."""
    return lambda windows: network(windows, *args, **kwargs)
