"""A code and one line for whatever goes wrong with a case of a folder run."""

from __future__ import annotations

import errno
import re

from liver_pipeline.io.files import DISK_FULL, causes
from liver_pipeline.io.findings import Finding, IntakeError, Severity, error

# As PyTorch says them; a kernel's fault is told by whatever call comes next, and by every call after it.
DEVICE_ERROR = re.compile(
    r"CUDA (driver )?error|Triton Error|cuDNN error|(CUDNN|CUBLAS|CUSOLVER|CUSPARSE)_STATUS|CUFFT_|HIP error"
    r"|device-side assert|device.lost|NCCL error|No CUDA GPUs",
    re.IGNORECASE,
)
NO_MEMORY = re.compile(r"out of (host )?memory|allocate memory|ALLOC_FAILED|bad.?alloc", re.IGNORECASE)
NO_THREAD = "can't start new thread"  # as Python says it
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
    if any(is_memory_error(link) for link in causes(reason)):
        return False
    return any(isinstance(link, RuntimeError) and DEVICE_ERROR.search(str(link)) for link in causes(reason))


def is_memory_error(reason: BaseException) -> bool:
    """Tell whether there was too little memory, of the machine or of a device; some libraries only say so in words."""
    told = isinstance(reason, RuntimeError) and NO_MEMORY.search(str(reason)) is not None
    # PyTorch's error by its name: whoever asks need not have imported PyTorch
    return told or isinstance(reason, MemoryError) or type(reason).__name__ == "OutOfMemoryError"


def machine_finding(reason: BaseException) -> Finding | None:
    """Return the finding for an exception that says nothing about the scan; its code is PASSING. None for any other."""
    line = _line(reason)
    if is_memory_error(reason):
        return error("OUT_OF_MEMORY", f"{line}; free memory, or choose a coarser grid")
    if is_device_error(reason):
        return error("DEVICE_FAILED", f"{line}; the device needs a new process: run the same command again")
    if isinstance(reason, OSError) and reason.errno in DISK_FULL:
        return error("DISK_FULL", f"{line}; free space and run the same command again")
    if isinstance(reason, OSError) and reason.errno is not None:
        return error("READ_FAILED", f"{reason.strerror or reason}; is the file readable?")
    if isinstance(reason, RuntimeError) and NO_THREAD in line:
        return error("READ_FAILED", f"{line}: too many processes or threads (ulimit -u); run the same command again")
    return None


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
    if writing and isinstance(reason, OSError) and reason.errno not in DISK_FULL:
        return _write_failure(reason, _line(reason))
    return machine_finding(reason) or error("PREDICT_FAILED", _line(reason))


def _line(reason: BaseException) -> str:
    return " ".join(f"{type(reason).__name__}: {reason}".split())[:500]


def _write_failure(reason: OSError, line: str) -> Finding:
    if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return error("OUTPUT_READ_ONLY", f"{line}; choose a folder that can be written to")
    return error("WRITE_FAILED", f"{line}; run the same command again")
