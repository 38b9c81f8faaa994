"""Memory and cores that this process may use: those of its job, not those of the host.

A job's are told by its cgroup (v1 or v2), its affinity, ``ulimit -v``, and by SLURM, which need not enforce what it
has promised: other jobs count on it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import resource

UNKNOWN = 8 << 30  # bytes where the system tells nothing


def total_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may use at most; 8 GB where the system does not tell.

    Args:
        root: Of the file system, for tests.
    """
    limits = [limit for limit, _ in (*_memory_levels(root), *_own_limits(root))]
    return min([*limits, _meminfo(root, "MemTotal") or UNKNOWN])


def available_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may still take; 8 GB where the system does not tell.

    What a job's limit leaves counts the cache of files as free, as the kernel gives it up first.

    Args:
        root: Of the file system, for tests.
    """
    left = [max(limit - used, 0) for limit, used in (*_memory_levels(root), *_own_limits(root))]
    return min([*left, _meminfo(root, "MemAvailable") or UNKNOWN])


def cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: the fewest of its affinity and what its job has; at least 1.

    Args:
        root: Of the file system, for tests.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = _number(os.environ.get("SLURM_CPUS_PER_TASK", "")) or own
    return max(1, int(min([own, asked, *_quotas(root)])))


def limit_threads() -> None:
    """Let PyTorch, and OpenVINO after it, use no more threads than :func:`cores`; fewer, asked for elsewhere, stay."""
    import torch  # here: reading limits needs no torch

    if torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def _meminfo(root: Path, name: str) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _memory_levels(root: Path) -> Iterator[tuple[int, int]]:
    """Give limit and use in bytes of this process's group and of each above it that has a limit."""
    for folder, version in _groups(root, "memory"):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit, used = (_number(_read(folder / name)) for name in names[:2])
        if limit is None or used is None:
            continue
        counts = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
        yield limit, max(used - (_number(counts.get(names[2], "")) or 0), 0)


def _own_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Give limit and use in bytes of this process alone: of its address space, and of what SLURM was asked for."""
    status = dict(line.split(":", 1) for line in _read(root / "proc/self/status").splitlines() if ":" in line)
    used = {name: int(status.get(name, "0").split()[0]) * 1024 for name in ("VmSize", "VmRSS")}
    if sys.platform != "win32":
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit, used["VmSize"]
    megabytes = _number(os.environ.get("SLURM_MEM_PER_NODE", "")) or 0  # 0: all that the node has
    if not megabytes:
        each, count = (_number(os.environ.get(f"SLURM_{name}", "")) for name in ("MEM_PER_CPU", "CPUS_ON_NODE"))
        megabytes = (each or 0) * (count or 0)
    if megabytes:
        yield megabytes << 20, used["VmRSS"]


def _quotas(root: Path) -> Iterator[float]:
    """Give the cores that the quota of this process's group, and of each above it that has one, is worth."""
    for folder, version in _groups(root, "cpu"):
        if version == 2:
            quota, period = (_number(word) for word in (*_read(folder / "cpu.max").split(), "", "")[:2])
        else:
            quota, period = (_number(_read(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota is not None and period and quota > 0:  # without a quota: max, or -1
            yield quota / period


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Give the folder of this process's group for a controller, and of all above it, with the version of cgroup.

    In a container the path may be the host's, whose end alone is mounted: then the mount is the group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [(mount, 2), (mount / "unified", 2)]
        elif controller in controllers.split(","):
            tops = [(mount / controller, 1), (mount / controllers, 1)]
        else:
            continue
        for top, version in tops:
            if top.is_dir():
                inside = top / path.strip("/")
                own = inside if inside.is_dir() else top
                yield from ((folder, version) for folder in (own, *own.parents) if folder.is_relative_to(top))
                break


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _number(text: str) -> int | None:
    with contextlib.suppress(ValueError):
        return int(text)
    return None
