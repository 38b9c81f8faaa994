"""Networks as files that other programs run: TorchScript, ONNX, OpenVINO; each is read back and compared."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liver_pipeline.networks.conversion import first_line, import_openvino
from liver_pipeline.networks.instance_norm import spell_out_instance_norms

Windows = Callable[[torch.Tensor], torch.Tensor]
IMAGE, LOGITS = "image", "logits"  # what an ONNX and an OpenVINO file call input and output
CLOSE = 1e-3  # largest difference of logits, as a share of the largest logit; a wrong conversion is far above


@dataclass(frozen=True)
class Exporter:
    """A file format: its suffix, how it is written (returning in a word how), and how it is run."""

    suffix: str
    write: Callable[[nn.Module, torch.Tensor, Path], str]
    read: Callable[[Path], Windows]


def export_network(network: nn.Module, shape: Sequence[int], path: Path, exporter: Exporter) -> tuple[Windows, str]:
    """Write a network to a file and compare what the file gives on windows of noise, one and two at a time.

    Args:
        network: In eval mode, on the CPU; it is not changed.
        shape: Of one window (C, X, Y, Z). The number of windows stays free.
        path: Of the file; its folder is there.
        exporter: One of :data:`EXPORTERS`.

    Returns:
        The file as it is run, float32 (B, C, X, Y, Z) to logits (B, K, X, Y, Z); and how it was converted.

    Raises:
        ModuleNotFoundError: If the format needs the extra ``export``.
        ValueError: If the network cannot be converted, or the file gives something else than the network.
    """
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
    noise = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = {count: contiguous(noise[:count]) for count in (1, 2)}
    try:
        with _quiet(), torch.no_grad():
            how = exporter.write(contiguous, noise, path)
            run = exporter.read(path)
            given = {count: run(noise[:count]) for count in expected}
    except ImportError:
        raise
    except Exception as error:  # whatever a converter raises, the network cannot be had in its format
        raise ValueError(f"{type(network).__name__} cannot be written as {path.name}: {first_line(error)}") from error
    for count, logits in given.items():
        wanted = expected[count]
        if logits.shape != wanted.shape:
            raise ValueError(f"{path.name} gives {tuple(logits.shape)}, the network {tuple(wanted.shape)}")
        off = float((logits - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-6)
        if off > CLOSE:
            raise ValueError(f"{path.name} is no copy of the network: logits differ by {off:.1%} of the largest")
    return run, how


def _write_torchscript(network: nn.Module, windows: torch.Tensor, path: Path) -> str:
    try:
        module, how = torch.jit.script(network), "scripted"
    except Exception:  # what TorchScript's compiler does not know it says in many ways
        module, how = torch.jit.trace(network, windows[:1], check_trace=False), "traced"  # type: ignore[no-untyped-call]
    content = io.BytesIO()  # on a full disk torch.jit.save itself ends the process
    torch.jit.save(module, content)
    path.write_bytes(content.getbuffer())
    return how


def _read_torchscript(path: Path) -> Windows:
    module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def run(windows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = module(windows.contiguous())
        return logits

    return run


def _write_onnx(network: nn.Module, windows: torch.Tensor, path: Path) -> str:
    _needed("onnx", "onnxscript", "onnxruntime")
    free = ({0: torch.export.Dim("batch", min=1)},)
    options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False, "dynamic_shapes": free}
    torch.onnx.export(network, (windows,), path, input_names=[IMAGE], output_names=[LOGITS], **options)
    return "exported by torch.export"


def _read_onnx(path: Path) -> Windows:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(windows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([LOGITS], {IMAGE: windows.contiguous().numpy()})[0])

    return run


def _write_openvino(network: nn.Module, windows: torch.Tensor, path: Path) -> str:
    openvino = import_openvino()
    exact = spell_out_instance_norms(network)
    model = openvino.convert_model(exact, example_input=windows, input=[-1, *windows.shape[1:]])
    model.inputs[0].get_tensor().set_names({IMAGE})
    model.outputs[0].get_tensor().set_names({LOGITS})
    openvino.save_model(model, path, compress_to_fp16=False)
    return "converted by OpenVINO"


def _read_openvino(path: Path) -> Windows:
    model = import_openvino().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(windows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model([windows.contiguous().numpy()])[LOGITS].copy())

    return run


EXPORTERS = {
    "torchscript": Exporter(".ts", _write_torchscript, _read_torchscript),
    "onnx": Exporter(".onnx", _write_onnx, _read_onnx),
    "openvino": Exporter(".xml", _write_openvino, _read_openvino),  # with its weights in a .bin beside it
}


def _needed(*modules: str) -> None:
    import importlib

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ModuleNotFoundError(f"{module} is not installed; pip install 'liver-pipeline[export]'") from error


@contextmanager
def _quiet() -> Any:
    """Keep what converters say to their developers off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
