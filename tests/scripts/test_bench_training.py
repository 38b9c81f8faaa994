"""The training benchmark runs, and the figures that a CPU can show hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_training.py"


def bench(folder: Path, *options: str) -> dict[str, Any]:
    report = folder / "figures.json"
    command = [sys.executable, str(SCRIPT), "--json", str(report), "--folder", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    results: dict[str, Any] = json.loads(report.read_text())["results"]
    return results


def test_parts_that_fail_are_told_and_are_the_exit_status(tmp_path: Path) -> None:
    small = ("--patch", "16", "--shape", "16", "16", "16", "--parts", "network", "loader", "--folder", str(tmp_path))
    command = [sys.executable, str(SCRIPT), *small, "--limit", "0.01"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout.count("took more than 0.01 s") == 2
    assert "not every part" in ended.stderr


@pytest.mark.slow
def test_every_part_trains(tmp_path: Path) -> None:
    small = ("--patch", "16", "--iterations", "3", "--warmup", "1", "--workers", "1", "--threads", "1")
    inside = ("--shape", "24", "24", "24")  # of the body: no air, which a CT would be refused for
    parts = bench(tmp_path, *small, *inside, "--parts", "network", "loader", "ours", "stock")["unet3d"]
    assert set(parts) == {"network", "loader", "ours", "stock"}
    for figures in parts.values():
        assert figures["iterations_per_second"] > 0
        assert 0 <= figures["data_wait_share"] < 1
    assert parts["network"]["data_wait_share"] == 0


@pytest.mark.slow
def test_preprocessing_takes_a_third_of_the_stock_chains_time_on_a_core(tmp_path: Path) -> None:
    figures = bench(tmp_path, "--preprocessing", "--repeat", "1")
    assert figures["ours"]["shape"] == figures["stock"]["shape"]
    assert 3 * figures["ours"]["core_seconds_per_case"] <= figures["stock"]["core_seconds_per_case"]
