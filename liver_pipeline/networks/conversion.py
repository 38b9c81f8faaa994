"""A network of PyTorch as OpenVINO's, by tracing.

OpenVINO sends usage data when it is imported and when it converts, if its telemetry package is there. It is kept from
importing that package, so nothing is sent.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.jit._trace import TracerWarning


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


def converted(network: nn.Module, example: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Return a network as OpenVINO traces it on an example of one shape, for batches of another.

    Raises:
        ConversionError: If OpenVINO or the network fails.
    """
    openvino = import_openvino()
    try:
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        with torch.no_grad(), _own_log_level(), warnings.catch_warnings():
            # said to whoever writes networks, of other shapes than this one
            warnings.simplefilter("ignore", TracerWarning)
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # OpenVINO's decoder takes what it gives
            # PyTorch would trace a second time to compare: what comes of it is compared anyway
            traced = TorchScriptPythonDecoder(
                network, example_input=torch.zeros(example), trace_kwargs={"check_trace": False}
            )
            model = openvino.convert_model(traced)
        model.reshape(list(shape))
    except Exception as error:  # whatever the converter raises, PyTorch can still run the network
        raise ConversionError(f"OpenVINO cannot convert it: {first_line(error)}") from error
    return model


@contextlib.contextmanager
def _own_log_level() -> Iterator[None]:
    """Keep the level of the root logger: a conversion that fails leaves it at ERROR, and hides everybody's warnings."""
    root = logging.getLogger()
    level = root.level
    try:
        yield
    finally:
        root.setLevel(level)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, short enough for a record."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
