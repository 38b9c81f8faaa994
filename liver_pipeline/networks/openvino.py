"""Networks on the CPU through OpenVINO: converted once for given weights, kept on disk, checked against PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from liver_pipeline.io.files import remove, write_json
from liver_pipeline.io.paths import is_there
from liver_pipeline.io.tables import read_json
from liver_pipeline.networks.conversion import ConversionError, converted, first_line, import_openvino
from liver_pipeline.networks.shapes import next_side
from liver_pipeline.networks.weights import structure_of, weights_hash

logger = logging.getLogger(__name__)
MIN_AGREEMENT = 0.999  # labels of random noise that must agree with PyTorch's; a wrong conversion is far below


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
        self.digest = self._digest(weights_hash(network))
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
        if kept is None or not is_there(kept / "model.xml"):
            return None
        try:
            model = self.openvino.Core().read_model(kept / "model.xml")
        except RuntimeError:
            remove(kept, strict=False)  # damaged: convert again
            return None
        self.cached = True
        if not self._checked(kept).is_file():  # on another processor
            self._note(self._checked(kept), self._agreement(network, model, self.shape), compared_on=self.shape)
        return model

    def _new_model(self, network: nn.Module, kept: Path | None) -> Any:
        """Convert the network, compare it with PyTorch, keep it.

        It is traced on a small window, which takes a fifth of the time of a whole one. A network that does not take
        small ones, or computes otherwise there, is traced on a larger one: all are compared on the whole window. But
        for those of a structure that was compared there before, on this processor, such as the second network of a
        cascade: to compare them on the window that they are traced on tells of their weights, and takes a tenth.
        """
        tries = [(example, self.shape) for example in _examples(self.shape)]
        proof = None if kept is None else self._proof(kept, network)
        if proof is not None and (known := _traced_on(proof)) is not None:
            tries.insert(0, (known, known))
        for example, compared in tries:
            try:
                model = converted(network, example, self.shape)
                agreement = self._agreement(network, model, compared)
            except ConversionError:
                if (example, compared) == tries[-1]:
                    raise
            else:
                break
        if kept is not None and proof is not None and _keep(self.openvino, model, kept):
            self._note(self._checked(kept), agreement, compared_on=compared)
            if compared == self.shape:
                self._note(proof, agreement, traced_on=example)
        return model

    def _compile(self, model: Any, precision: str, shape: tuple[int, ...] | None = None) -> Any:
        """Compile for the CPU in the given precision, on as many threads as PyTorch uses; for batches of a shape."""
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
        }
        try:
            model.reshape(list(shape or self.shape))
            return self.openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ConversionError(f"OpenVINO cannot compile it in {precision}: {first_line(error)}") from error

    def _has_bf16(self) -> bool:
        """Whether the processor computes in bf16; where it does not, OpenVINO imitates it and is slower than in f32."""
        return "BF16" in self.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def _digest(self, text: str) -> str:
        """Return what stands for a text, the shape of windows and the version of OpenVINO in the name of a folder."""
        text = f"{text} {self.shape} {self.openvino.__version__}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _checked(self, kept: Path) -> Path:
        """Return the file that says that this processor has compared the network in a folder.

        The name of the folder stands for weights, layers, shape and versions; the file for the processor.
        """
        return kept / f"checked-{self._here}.json"

    def _proof(self, kept: Path, network: nn.Module) -> Path:
        """Return the file that says that this processor has compared a network of this structure on whole windows."""
        return kept.with_name(f"structure-{self._digest(structure_of(network))}-{self._here}.json")

    @cached_property
    def _processor(self) -> dict[str, Any]:
        """What a comparison with PyTorch holds for."""
        core = self.openvino.Core()
        return {
            "processor": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            "capabilities": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        }

    @property
    def _here(self) -> str:
        """What stands for this processor in the name of a file."""
        return hashlib.sha256(json.dumps(self._processor).encode()).hexdigest()[:16]

    def _note(self, checked: Path, agreement: float, **more: Any) -> None:
        """Write down a comparison; where the folder is read-only it is made again next time."""
        with contextlib.suppress(OSError):
            write_json(checked, {**self._processor, "label_agreement_with_torch": agreement, **more})

    def _agreement(self, network: nn.Module, model: Any, shape: tuple[int, ...]) -> float:
        """Compare the labels of one batch of noise, windows of a shape, with PyTorch's; return the share that agrees.

        Raises:
            ConversionError: If it is less than ``MIN_AGREEMENT``, and not for want of any difference in the logits.
        """
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = network(noise)
        if not isinstance(expected, torch.Tensor):
            raise ConversionError(f"the network returns {type(expected).__name__}, not one tensor")
        output = self._run(self._compile(model, "f32", shape), noise)
        model.reshape(list(self.shape))  # what is kept
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


def _traced_on(checked: Path) -> tuple[int, ...] | None:
    """Return the shape that a structure was traced on when it was compared on whole windows; None if it was not."""
    try:
        return tuple(int(n) for n in read_json(checked)["traced_on"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(openvino: Any, model: Any, folder: Path) -> bool:
    """Write a converted network so that it is there complete or not at all; another process may do the same.

    Returns:
        Whether it is there.
    """
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".openvino-", dir=folder.parent))
        openvino.save_model(model, part / "model.xml", compress_to_fp16=False)
        part.rename(folder)
    except (OSError, RuntimeError) as error:  # OpenVINO does not say why it could not write
        if not is_there(folder):  # nobody was faster
            _tell_unkept(folder.parent, getattr(error, "strerror", None) or "is the disk full?")
            return False
    finally:
        if part is not None:
            remove(part, strict=False)
    return True


@cache
def _tell_unkept(folder: Path, why: str) -> None:
    """Say, once in a process, that networks are not kept: that only costs time."""
    told = "networks are not kept in %s (%s) and will be converted anew; openvino_dir=FOLDER names another folder"
    logger.warning(told, folder, why)
