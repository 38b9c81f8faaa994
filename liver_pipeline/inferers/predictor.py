"""Runs windows through one network or several, on the fastest engine that is there, and says what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from liver_pipeline.inferers.devices import Clock, free_cache
from liver_pipeline.inferers.members import Network, on_cpu
from liver_pipeline.networks.acceleration import AMP_TYPES
from liver_pipeline.networks.conversion import ConversionError
from liver_pipeline.networks.openvino import OpenVinoNetwork

BACKENDS = ("auto", "torch", "openvino")
PRECISIONS = ("f32", "bf16")
COMPARED_BATCHES = (16, 256)  # of a case, on which bf16 labels are compared with f32: each is run again
JUDGED_MIRROR = (1,)  # of one network, where tta mirrors none: front to back, so that organs keep their side and height


@dataclass(frozen=True)
class Engine:
    """How windows are run.

    Attributes:
        backend: "auto" (OpenVINO on a CPU where the network converts, else PyTorch), "torch" or "openvino".
        precision: "f32" or "bf16", of OpenVINO.
        amp: None, "bf16" or "fp16": PyTorch's autocast.
        tta: Spatial axes (0, 1, 2) to mirror; the logits of all combinations are averaged.
        cache_dir: Folder for converted networks, or None.
    """

    backend: str = "auto"
    precision: str = "f32"
    amp: str | None = None
    tta: tuple[int, ...] = ()
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        for name, value, known in (
            ("backend", self.backend, BACKENDS),
            ("precision", self.precision, PRECISIONS),
            ("amp", self.amp, (None, *AMP_TYPES)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(str(k) for k in known)}")
        if not set(self.tta) <= {0, 1, 2}:
            raise ValueError(f"tta names the axes to mirror, of 0, 1, 2; got {self.tta}")


@dataclass
class EngineRecord:
    """What is recorded while a case is run; plain values."""

    backend: str = "torch"
    reason: str = ""
    precision: str = "f32"
    seconds_conversion: float = 0.0
    fallbacks: list[str] = field(default_factory=list)
    compared_voxels: int = 0
    agreeing_voxels: int = 0


class Predictor:
    """Runs batches of windows; members of an ensemble follow each other along the channels of the output.

    Args:
        networks: The network or the members of an ensemble. They are not moved or changed.
        engine: How to run them.
        batch_shape: Shape of a full batch of windows (B, C, X, Y, Z).
        device: Where the windows run; the networks' own device.
        one_shape: Whether all cases have windows of this shape; else converting would not pay.
        judged: Whether the passes are to be compared with each other: a single network then makes a mirrored one as
            well, unless tta makes some, and its passes follow the output along the channels.

    Attributes:
        groups: Groups of K channels in the output: the members, then the passes of a single network that is judged.
        first_judged: The first of the groups that are to be compared.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        engine: Engine,
        batch_shape: Sequence[int],
        device: torch.device,
        *,
        one_shape: bool = True,
        judged: bool = False,
    ) -> None:
        self.networks = list(networks)
        self.engine = engine
        self.device = device
        self.batch = int(batch_shape[0])
        self.one_shape = one_shape
        self.mirrors = [axes for n in range(1, len(engine.tta) + 1) for axes in combinations(engine.tta, n)]
        self.judged = judged and len(self.networks) == 1
        passes = (1 + len(self.mirrors) if self.mirrors else 1) if self.judged else 0
        self.groups, self.first_judged = len(self.networks) + passes, int(bool(self.judged and self.mirrors))
        self.record = EngineRecord()
        self.clock = Clock()
        self.converted: list[OpenVinoNetwork] = []
        self._batches = 0
        self._choose(tuple(int(n) for n in batch_shape))

    def _choose(self, batch_shape: tuple[int, ...]) -> None:
        """Take OpenVINO where it is asked for or pays, and say why not."""
        begin = time.perf_counter()
        reason = self._why_torch()
        if not reason:
            try:
                self.converted = [_converted(network, batch_shape, self.engine) for network in self.networks]
            except ConversionError as error:
                reason = str(error)
        self.record.seconds_conversion = time.perf_counter() - begin
        if reason and self.engine.backend == "openvino":
            raise ConversionError(f"{reason}; take backend: torch, or auto to fall back by itself")
        self.record.backend = "openvino" if self.converted else "torch"
        self.record.precision = self.converted[0].precision if self.converted else (self.engine.amp or "f32")
        if self.converted and self.record.precision != self.engine.precision:
            reason = f"{self.engine.precision} asked for: this processor has none, f32 is faster"
        elif self.converted and self.engine.amp is not None:
            reason = f"amp {self.engine.amp} asked for: it is PyTorch's; take backend: torch, or precision: bf16"
        self.record.reason = reason

    def _why_torch(self) -> str:
        """Return why OpenVINO is not even tried, or nothing."""
        if self.engine.backend == "torch":
            return "asked for"
        if self.engine.backend == "auto" and not self.one_shape:
            return "roi_size follows the volume: each case would be converted anew"
        if self.device.type != "cpu":
            return f"the network is on {self.device.type}"
        if not all(isinstance(network, nn.Module) for network in self.networks):
            return "the network is no torch module"
        return ""

    def __call__(self, windows: torch.Tensor, relieve: Callable[[], bool] = lambda: False) -> torch.Tensor:
        """Run windows (N, C, X, Y, Z).

        Args:
            windows: On any device.
            relieve: Called when memory is out and no smaller batch is left: frees some and returns True, or returns
                False.

        Returns:
            float32 logits (N, groups * K, X, Y, Z), good until the next call.
        """
        with self.clock(self.device):
            logits = self._within_memory(windows, relieve)
        self._compare(windows, logits)
        self._batches += 1
        return logits

    def _within_memory(self, windows: torch.Tensor, relieve: Callable[[], bool]) -> torch.Tensor:
        """Run windows; when memory is out: smaller batches, then whatever ``relieve`` frees, then the CPU."""
        while True:
            try:
                parts = [self._run(part.to(self.device)) for part in torch.split(windows, self.batch)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError:
                free_cache()
            if self.batch > 1:
                self.batch = max(1, min(self.batch, windows.shape[0]) // 2)
                self.record.fallbacks.append(f"out of memory: {self.batch} windows at a time")
            elif not relieve():
                self._move_to_cpu()

    def _move_to_cpu(self) -> None:
        """Go on with copies of the networks on the CPU."""
        if self.device.type == "cpu" and "network on the CPU" in " ".join(self.record.fallbacks):
            raise MemoryError("memory is out on the CPU with one window at a time; take a smaller roi_size")
        self.networks = [on_cpu(network) for network in self.networks]
        self.device = torch.device("cpu")
        self.record.fallbacks.append("out of memory: network on the CPU")
        free_cache()

    def _run(self, windows: torch.Tensor) -> torch.Tensor:
        """Run one batch through all members."""
        runs: Sequence[Network] = self.converted or self.networks
        logits = [part for run in runs for part in self._passes(run, windows, judged=self.judged)]
        return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)

    def _passes(self, run: Network, windows: torch.Tensor, *, judged: bool) -> list[torch.Tensor]:
        """Return the mean of the logits over all mirrorings, or the logits as they are; after it what is compared."""
        total = self._logits(run, windows)
        others = self.mirrors or ([JUDGED_MIRROR] if judged else [])
        if others:
            total = total.clone()  # good until the next call
        passes = [total.clone()] if judged and self.mirrors else []
        for axes in others:
            dims = tuple(axis + 2 for axis in axes)
            mirrored = self._logits(run, windows.flip(dims)).flip(dims)
            if self.mirrors:
                total += mirrored
            if judged:
                passes.append(mirrored)
        return [total / (len(self.mirrors) + 1) if self.mirrors else total, *passes]

    def _logits(self, run: Network, windows: torch.Tensor) -> torch.Tensor:
        """Run one network once; float32 out."""
        with self._autocast():
            logits = run(windows)
        if not isinstance(logits, torch.Tensor):
            raise TypeError(f"the network must return one tensor of logits, got {type(logits).__name__}")
        return logits.float()

    def _autocast(self) -> AbstractContextManager[object]:
        """Return PyTorch's autocast where it is asked for."""
        if self.engine.amp is None or self.converted:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AMP_TYPES[self.engine.amp])

    def _compare(self, windows: torch.Tensor, logits: torch.Tensor) -> None:
        """Measure on a few batches of the case how many bf16 labels agree with f32, mirrored alike."""
        if self.record.precision != "bf16" or not self.converted or self._batches not in COMPARED_BATCHES:
            return
        members = [self._passes(network.run_exact, windows, judged=False)[0].softmax(1) for network in self.converted]
        exact = torch.stack(members).mean(0).argmax(1)
        parts = logits.chunk(self.groups, 1)[: len(members)]
        fast = torch.stack([part.softmax(1) for part in parts]).mean(0).argmax(1)
        self.record.compared_voxels += exact.numel()
        self.record.agreeing_voxels += int((exact == fast).sum())


_CONVERTED: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], OpenVinoNetwork | ConversionError]] = (
    WeakKeyDictionary()
)


def _converted(network: Network, shape: tuple[int, ...], engine: Engine) -> OpenVinoNetwork:
    """Return the network converted for a batch shape; kept in memory as long as network and weights are the same."""
    assert isinstance(network, nn.Module)
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in network.state_dict().values())
    key = (shape, engine.precision, state)
    known = _CONVERTED.setdefault(network, {})
    if key not in known:
        known.clear()
        try:
            known[key] = OpenVinoNetwork(network, shape, precision=engine.precision, cache_dir=engine.cache_dir)
        except ConversionError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, ConversionError):
        raise found
    return found
