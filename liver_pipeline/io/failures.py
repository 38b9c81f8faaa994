"""A code and one line for whatever goes wrong with a case of a folder run."""

from __future__ import annotations

import errno

import torch

from liver_pipeline.io.files import DISK_FULL
from liver_pipeline.io.findings import Finding, IntakeError, Severity, error

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
    if isinstance(reason, MemoryError | torch.OutOfMemoryError) or "allocate memory" in line:
        return error("OUT_OF_MEMORY", f"{line}; free memory, or choose a coarser grid")
    if is_device_error(reason):
        return error("DEVICE_FAILED", f"{line}; the device needs a new process: run the same command again")
    if writing and isinstance(reason, OSError):
        return _write_failure(reason, line)
    return error("PREDICT_FAILED", line)


def is_device_error(reason: BaseException) -> bool:
    """Tell whether the device, not the case, failed: after such an error a CUDA context answers nothing any more."""
    text = str(reason)
    return isinstance(reason, RuntimeError) and any(
        sign in text for sign in ("CUDA error:", "CUDNN_STATUS_", "HIP error:")
    )


def _write_failure(reason: OSError, line: str) -> Finding:
    if reason.errno in DISK_FULL:
        return error("DISK_FULL", f"{line}; free space and run the same command again")
    if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return error("OUTPUT_READ_ONLY", f"{line}; choose a folder that can be written to")
    return error("WRITE_FAILED", f"{line}; run the same command again")
