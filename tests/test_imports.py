"""What a command imports before it begins: most of the time of a short one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("ignite", "matplotlib.pyplot", "monai", "sympy", "torch", "torchvision")
LEAN = """
from liver_pipeline.bundle.lean import import_monai_for
assert import_monai_for("default", {})
import liver_pipeline.commands.predict, liver_pipeline.transforms.postprocessing, liver_pipeline.networks.openvino
"""


def imported(code: str) -> list[str]:
    """Return the modules that are loaded when a fresh Python has run some code."""
    code = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(told.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("module", "most"),
    [
        ("cli", 220),
        ("commands.listing", 330),
        ("commands.status", 330),
        ("commands.app", 220),
        ("commands.check", 750),
        ("commands.view", 1100),
        ("commands.evaluate", 1100),
        ("app.server", 1400),
        ("app.supervisor", 800),
    ],
)
def test_what_runs_no_network_starts_without_pytorch_and_monai(module: str, most: int) -> None:
    loaded = imported(f"import liver_pipeline.{module}")
    assert not {*HEAVY} & {*loaded}
    assert len(loaded) <= most


def test_predict_imports_little_beside_pytorch_and_no_compiler_plots_or_training() -> None:
    loaded = {*imported(LEAN)}
    # Numbers of modules, here and above: a tenth more than with the versions of November 2026
    unwanted = {"ignite", "matplotlib", "skimage", "sympy", "torch._dynamo", "torch._inductor", "torchvision", "pandas"}
    assert not unwanted & loaded and "monai.data" in loaded
    beside = loaded - {*imported("import torch")}
    assert len(beside) <= 960, len(beside)
    assert sum(name.startswith("monai.") for name in beside) <= 250
