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


@pytest.mark.slow
def test_every_part_trains(tmp_path: Path) -> None:
    small = ("--patch", "16", "--iterations", "3", "--warmup", "1", "--workers", "1", "--threads", "1")
    parts = bench(tmp_path, *small, "--parts", "network", "ours", "stock")["unet3d"]
    assert set(parts) == {"network", "ours", "stock"}
    for figures in parts.values():
        assert figures["iterations_per_second"] > 0
        assert 0 <= figures["data_wait_share"] < 1
    assert parts["network"]["data_wait_share"] == 0


@pytest.mark.slow
def test_preprocessing_takes_a_third_of_the_stock_chains_time_on_a_core(tmp_path: Path) -> None:
    figures = bench(tmp_path, "--preprocessing", "--repeat", "1")
    assert figures["ours"]["shape"] == figures["stock"]["shape"]
    assert 3 * figures["ours"]["core_seconds_per_case"] <= figures["stock"]["core_seconds_per_case"]
