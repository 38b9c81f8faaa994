"""Networks on the CPU through OpenVINO: converted once for given weights, kept on disk, checked against PyTorch.

OpenVINO sends usage data when it is imported and when it converts, if its telemetry package is there. It is kept from
importing that package, so nothing is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import nn

from liver_pipeline.io.files import remove, write_json
from liver_pipeline.networks.shapes import next_side

MIN_AGREEMENT = 0.999  # labels of random noise that must agree with PyTorch's; a wrong conversion is far below


class ConversionError(RuntimeError):
    """The network cannot be run by OpenVINO; the message says why."""


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    Raises:
        ConversionError: If it is not installed.
    """
    # None in sys.modules makes its import fail; OpenVINO then takes a stub that sends nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ConversionError(f"openvino is not installed ({error})") from error
    return openvino


def weights_hash(network: nn.Module) -> str:
    """Return the sha256 of the network's weights, buffers, layers and of the libraries that give them their meaning."""
    digest = hashlib.sha256(f"{torch.__version__} {monai.__version__} {network}".encode())
    for module in network.modules():
        digest.update(f"{type(module).__module__}.{type(module).__qualname__};".encode())
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class OpenVinoNetwork:
    """A network compiled by OpenVINO for batches of one size; smaller batches are filled up.

    Args:
        network: Module in eval mode, on the CPU.
        shape: Shape of a batch of windows (B, C, X, Y, Z).
        precision: "f32" or "bf16".
        cache_dir: Folder for converted networks; None converts anew in each process.

    Attributes:
        digest: Hash of weights, layers, shape and versions: the name of the converted network.
        cached: Whether it came from ``cache_dir``.
        precision: "f32" also where bf16 was asked for and the processor has none.

    Raises:
        ConversionError: If it does not convert, or gives other labels than PyTorch.
    """

    def __init__(
        self, network: nn.Module, shape: Sequence[int], *, precision: str = "f32", cache_dir: Path | None = None
    ) -> None:
        self.openvino = import_openvino()
        self.shape = tuple(int(n) for n in shape)
        text = f"{weights_hash(network)} {self.shape} {self.openvino.__version__}"
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.cached = False
        kept = cache_dir / f"openvino-{self.digest}" if cache_dir else None
        self._model = self._kept_model(network, kept) or self._new_model(network, kept)
        self.precision = "bf16" if precision == "bf16" and self._has_bf16() else "f32"
        self._compiled = self._compile(self._model, self.precision)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Run at most a batch of windows (N, C, X, Y, Z); the output (N, K, X, Y, Z) is good until the next run."""
        return self._run(self._compiled, windows)

    def run_exact(self, windows: torch.Tensor) -> torch.Tensor:
        """Run the same windows in f32."""
        return self._run(self._exact, windows)

    @cached_property
    def _exact(self) -> Any:
        """What labels of bf16 are compared with; compiled when it is first asked for, which a small scan never does."""
        return self._compiled if self.precision == "f32" else self._compile(self._model, "f32")

    def _run(self, compiled: Any, windows: torch.Tensor) -> torch.Tensor:
        """Run one batch, filled up with zeros where it is short."""
        count = windows.shape[0]
        if count < self.shape[0]:
            windows = torch.cat([windows, windows.new_zeros((self.shape[0] - count, *self.shape[1:]))])
        result = compiled([windows.contiguous().numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(next(iter(result.values())))[:count]

    def _kept_model(self, network: nn.Module, kept: Path | None) -> Any:
        """Return the converted network from the folder ``kept``, None if it is not there; compare if that is due."""
        if kept is None or not (kept / "model.xml").is_file():
            return None
        try:
            model = self.openvino.Core().read_model(kept / "model.xml")
        except RuntimeError:
            remove(kept, strict=False)  # damaged: convert again
            return None
        self.cached = True
        if not self._checked(kept).is_file():  # on another processor
            self._note(kept, self._agreement(network, model))
        return model

    def _new_model(self, network: nn.Module, kept: Path | None) -> Any:
        """Convert the network, compare it with PyTorch, keep it.

        It is traced on a small window, which takes a fifth of the time of a whole one. A network that does not take
        small ones, or computes otherwise there, is traced on a larger one: all are compared on the whole window.
        """
        examples = _examples(self.shape)
        for example in examples:
            try:
                model = self._converted(network, example)
                agreement = self._agreement(network, model)
            except ConversionError:
                if example == examples[-1]:
                    raise
            else:
                break
        if kept is not None:
            _keep(self.openvino, model, kept)
            self._note(kept, agreement)
        return model

    def _converted(self, network: nn.Module, example: tuple[int, ...]) -> Any:
        """Return the network as OpenVINO traces it on an example of a shape."""
        try:
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

            with torch.no_grad(), _own_log_level():
                # PyTorch would trace a second time to compare: what comes of it is compared anyway
                traced = TorchScriptPythonDecoder(
                    network, example_input=torch.zeros(example), trace_kwargs={"check_trace": False}
                )
                model = self.openvino.convert_model(traced)
            model.reshape(list(self.shape))
        except Exception as error:  # whatever the converter raises, PyTorch can still run the network
            raise ConversionError(f"OpenVINO cannot convert it: {_first_line(error)}") from error
        return model

    def _compile(self, model: Any, precision: str) -> Any:
        """Compile for the CPU in the given precision, on as many threads as PyTorch uses."""
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
        }
        try:
            return self.openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ConversionError(f"OpenVINO cannot compile it in {precision}: {_first_line(error)}") from error

    def _has_bf16(self) -> bool:
        """Whether the processor computes in bf16; where it does not, OpenVINO imitates it and is slower than in f32."""
        return "BF16" in self.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def _processor(self) -> dict[str, Any]:
        """Return what a comparison with PyTorch holds for."""
        core = self.openvino.Core()
        return {
            "processor": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            "capabilities": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        }

    def _checked(self, kept: Path) -> Path:
        """Return the file that says that this processor has compared the network in a folder.

        The name of the folder stands for weights, layers, shape and versions; the file for the processor.
        """
        return kept / f"checked-{hashlib.sha256(json.dumps(self._processor()).encode()).hexdigest()[:16]}.json"

    def _note(self, kept: Path, agreement: float) -> None:
        """Write down a comparison; where the folder is read-only it is made again next time."""
        with contextlib.suppress(OSError):
            write_json(self._checked(kept), {**self._processor(), "label_agreement_with_torch": agreement})

    def _agreement(self, network: nn.Module, model: Any) -> float:
        """Compare the labels of one batch of noise with PyTorch's; return the share that agrees.

        Raises:
            ConversionError: If it is less than ``MIN_AGREEMENT``, and not for want of any difference in the logits.
        """
        noise = torch.rand(self.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = network(noise)
        if not isinstance(expected, torch.Tensor):
            raise ConversionError(f"the network returns {type(expected).__name__}, not one tensor")
        output = self._run(self._compile(model, "f32"), noise)
        if output.shape != expected.shape:
            raise ConversionError(f"OpenVINO gives shape {tuple(output.shape)}, PyTorch {tuple(expected.shape)}")
        agreement = float((output.argmax(1) == expected.argmax(1)).float().mean())
        close = np.allclose(output.numpy(), expected.numpy(), rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
        if agreement < MIN_AGREEMENT and not close:
            raise ConversionError(f"OpenVINO agrees with PyTorch on only {agreement:.2%} of labels")
        return agreement


def _examples(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return shapes of windows to trace a network on, the smallest first, the whole one last."""
    parts = [(*shape[:2], *(n if n == 1 else min(n, next_side(n, n // part)) for n in shape[2:])) for part in (4, 2, 1)]
    return list(dict.fromkeys(parts))


@contextlib.contextmanager
def _own_log_level() -> Iterator[None]:
    """Keep the level of the root logger: a conversion that fails leaves it at ERROR, and hides everybody's warnings."""
    root = logging.getLogger()
    level = root.level
    try:
        yield
    finally:
        root.setLevel(level)


def _keep(openvino: Any, model: Any, folder: Path) -> None:
    """Write a converted network so that it is there complete or not at all; another process may do the same."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".openvino-", dir=folder.parent))
    except OSError:
        return  # a read-only run folder: convert again next time
    try:
        openvino.save_model(model, part / "model.xml", compress_to_fp16=False)
        part.rename(folder)
    except OSError:
        remove(part, strict=False)  # somebody was faster, or the disk is full: the cache only saves time


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, short enough for a record."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
