"""The benchmark runs, and the figures about memory hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_inference.py"


def bench(folder: Path, *options: str) -> list[dict[str, Any]]:
    report = folder / "figures.json"
    subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(report), *options], check=True, capture_output=True, text=True
    )
    results: list[dict[str, Any]] = json.loads(report.read_text())["results"]
    return results


@pytest.mark.slow
def test_labels_are_those_of_the_stock_chain_at_a_fraction_of_its_time_and_memory(tmp_path: Path) -> None:
    result = bench(tmp_path, "--slices", "60", "--network", "none", "--chains", "stock", "ours")[0]
    assert result["agreement_with_stock"]["ours"] >= 0.9999
    stock, ours = result["chains"]["stock"], result["chains"]["ours"]
    assert ours["outside_network"] < stock["outside_network"] / 2  # a twelfth at 400 slices; this one is short
    assert ours["peak_gb"] < stock["peak_gb"]


@pytest.mark.slow
def test_memory_is_bounded_and_grows_by_input_and_output_only(tmp_path: Path) -> None:
    short, long = bench(tmp_path, "--slices", "500", "1000", "--network", "none", "--chains", "ours")
    peaks = [result["chains"]["ours"]["peak_gb"] for result in (short, long)]
    assert peaks[1] <= 3.0
    assert peaks[1] - peaks[0] <= 512 * 512 * 500 * (2 + 1) / 1e9
