"""A code and one line for whatever goes wrong with a case of a folder run."""

from __future__ import annotations

import errno
import re

from liver_pipeline.io.files import DISK_FULL, causes
from liver_pipeline.io.findings import Finding, IntakeError, Severity, error

# As PyTorch says them; a kernel's fault is told by whatever call comes next, and by every call after it.
DEVICE_ERROR = re.compile(r"CUDA error|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|HIP error|device-side assert|NCCL error")
# Failures that say nothing about the scan: the next run tries again without being asked.
PASSING = frozenset(
    (
        "READ_FAILED",
        "NOT_FOUND",
        "OUT_OF_MEMORY",
        "WRITE_FAILED",
        "DISK_FULL",
        "OUTPUT_READ_ONLY",
        "OUTPUT_EXISTS",
        "DEVICE_FAILED",
    )
)


def is_device_error(reason: BaseException) -> bool:
    """Tell whether an accelerator failed, which leaves it useless to this process and says nothing about the scan.

    Too little memory is no such error: the next scan may fit.
    """
    if any(_is_out_of_memory(link) for link in causes(reason)):
        return False
    return any(isinstance(link, RuntimeError) and DEVICE_ERROR.search(str(link)) for link in causes(reason))


def _is_out_of_memory(reason: BaseException) -> bool:
    """Tell PyTorch's error by its name: whoever asks need not have imported PyTorch."""
    return type(reason).__name__ == "OutOfMemoryError"


def finding_of(reason: BaseException, *, writing: bool = False) -> Finding:
    """Return the finding for an exception.

    Args:
        reason: An IntakeError keeps its code; MONAI's wrapping is taken off.
        writing: Whether the mask was being written, so that an OSError is about the output.

    Returns:
        An error with one line of detail.
    """
    while reason.__cause__ is not None and not isinstance(reason, IntakeError):
        reason = reason.__cause__
    if isinstance(reason, IntakeError):
        return next(f for f in reason.findings if f.severity is Severity.ERROR)
    line = " ".join(f"{type(reason).__name__}: {reason}".split())[:500]
    if isinstance(reason, MemoryError) or _is_out_of_memory(reason) or "allocate memory" in line:
        return error("OUT_OF_MEMORY", f"{line}; free memory, or choose a coarser grid")
    if is_device_error(reason):
        return error("DEVICE_FAILED", f"{line}; the device needs a new process: run the same command again")
    if writing and isinstance(reason, OSError):
        return _write_failure(reason, line)
    return error("PREDICT_FAILED", line)


def _write_failure(reason: OSError, line: str) -> Finding:
    if reason.errno in DISK_FULL:
        return error("DISK_FULL", f"{line}; free space and run the same command again")
    if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return error("OUTPUT_READ_ONLY", f"{line}; choose a folder that can be written to")
    return error("WRITE_FAILED", f"{line}; run the same command again")
