"""The job's limits, read from made-up file trees of both kinds of cgroup."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from liver_pipeline.io.limits import available_bytes, cores, limit_threads, total_bytes

GIB = 1 << 30
HOST = {"proc/meminfo": f"MemTotal: {256 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {200 * GIB // 1024} kB\n"}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {**HOST, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/job/step\n",
    "sys/fs/cgroup/job/memory.max": f"{32 * GIB}\n",
    "sys/fs/cgroup/job/memory.current": f"{20 * GIB}\n",
    "sys/fs/cgroup/job/memory.stat": f"anon {12 * GIB}\ninactive_file {6 * GIB}\n",
    "sys/fs/cgroup/job/step/memory.max": "max\n",
    "sys/fs/cgroup/job/step/memory.current": f"{19 * GIB}\n",
}
V1 = {
    "proc/self/cgroup": "9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{32 * GIB}\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{20 * GIB}\n",
    "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {6 * GIB}\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",  # what v1 writes for none
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{30 * GIB}\n",
}
DOCKER = {  # the host's path, of which the container sees the end alone
    "proc/self/cgroup": "4:memory:/docker/0123\n",
    **{name.replace("/job", ""): text for name, text in V1.items() if "/job" in name},
}


@pytest.mark.parametrize("files", [V2, V1, DOCKER], ids=["v2", "v1", "docker v1"])
def test_memory_is_what_the_job_s_limit_leaves_with_the_cache_of_files_counted_as_free(
    tmp_path: Path, files: dict[str, str]
) -> None:
    root = tree(tmp_path, files)
    assert total_bytes(root) == 32 * GIB
    assert available_bytes(root) == (32 - (20 - 6)) * GIB


def test_without_a_limit_memory_is_the_host_s(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"})
    assert (total_bytes(root), available_bytes(root)) == (256 * GIB, 200 * GIB)


def test_a_host_that_is_fuller_than_the_job_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path, {**V2, "proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {3 * GIB // 1024} kB\n"}
    )
    assert available_bytes(root) == 3 * GIB


def test_a_system_that_tells_nothing_is_taken_for_a_small_one(tmp_path: Path) -> None:
    assert total_bytes(tmp_path) == available_bytes(tmp_path) == 8 * GIB
    assert cores(tmp_path) >= 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/cpu.max": "200000 100000\n",
          "sys/fs/cgroup/job/step/cpu.max": "max 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),  # half a core is one
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/job\n", "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n",
          "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}, 4),
        ({"proc/self/cgroup": "3:cpu:/job\n", "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)  # fmt: skip
def test_cores_are_the_fewer_of_quota_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cores(tree(tmp_path, files)) == expected


def test_pytorch_is_held_to_the_cores_and_not_to_more_than_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr("liver_pipeline.io.limits.cores", lambda: 1)
        limit_threads()
        assert torch.get_num_threads() == 1
        monkeypatch.setattr("liver_pipeline.io.limits.cores", lambda: 64)
        limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_slurm_was_asked_for_counts_where_no_cgroup_holds_a_job_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path, {"proc/self/status": f"VmSize:\t{90 * GIB // 1024} kB\nVmRSS:\t{2 * GIB // 1024} kB\n"})
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(32 * 1024))
    assert (total_bytes(root), available_bytes(root), cores(root)) == (32 * GIB, 30 * GIB, 1)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all
    assert total_bytes(root) == 256 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "4096")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    assert (total_bytes(root), available_bytes(root)) == (16 * GIB, 14 * GIB)


def test_the_limit_of_the_address_space_counts() -> None:
    code = "from liver_pipeline.io.limits import available_bytes, total_bytes; print(total_bytes(), available_bytes())"
    limited = f"ulimit -v {2 * GIB // 1024}; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    shown = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=True, timeout=60).stdout
    total, left = map(int, shown.split())
    assert total == 2 * GIB
    assert 0 < left < 2 * GIB
