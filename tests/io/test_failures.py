"""What kind of failure an exception is."""

from __future__ import annotations

import errno
from itertools import islice

import pytest
import torch

from liver_pipeline.causes import as_raised
from liver_pipeline.io.failures import PASSING, finding_of, is_device_error
from liver_pipeline.io.files import causes


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("CUDA driver error: device lost"), True),
        (RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), True),
        (RuntimeError("CUDA error: out of memory"), False),  # of pinned memory, or of a library's own
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
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


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (MemoryError(), "OUT_OF_MEMORY"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            "OUT_OF_MEMORY",
        ),
        (RuntimeError("CUDA error: out of memory"), "OUT_OF_MEMORY"),
        (RuntimeError("std::bad_alloc"), "OUT_OF_MEMORY"),
        (RuntimeError("can't start new thread"), "READ_FAILED"),
        (OSError(errno.ESTALE, "Stale file handle"), "READ_FAILED"),
        (OSError(errno.EMFILE, "Too many open files"), "READ_FAILED"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
    ],
)
def test_what_the_machine_lacked_is_tried_again_and_what_a_scan_does_is_not(reason: Exception, code: str) -> None:
    assert finding_of(reason).code == code
    assert code in PASSING
    assert finding_of(ValueError("CUDA is no word of this scan's")).code == "PREDICT_FAILED" not in PASSING


def test_a_cause_that_was_raised_again_by_itself_is_told() -> None:
    """It stands behind what wrapped it, and that behind it: a walk along causes would go round and round."""
    with pytest.raises(ValueError, match="overlap") as caught, as_raised():
        try:
            raise ValueError("overlap is 2")
        except ValueError as cause:
            raise RuntimeError("Failed to instantiate component 'liver_pipeline.inferers.X'") from cause
    assert len(list(islice(causes(caught.value), 9))) == 2
    assert finding_of(caught.value).detail == "ValueError: overlap is 2"
