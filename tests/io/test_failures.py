"""What kind of failure an exception is."""

from __future__ import annotations

import pytest
import torch

from liver_pipeline.io.failures import is_device_error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("CUDA error is no RuntimeError here"), False),
    ],
)
def test_a_device_that_failed_is_told_from_a_scan_that_did(error: Exception, expected: bool) -> None:
    assert is_device_error(error) is expected
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("applying transform") from inner  # as MONAI wraps it
    except RuntimeError as outer:
        assert is_device_error(outer) is expected
