"""What may be left out while MONAI is imported, and that it is there again afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from liver_pipeline.bundle import lean
from liver_pipeline.bundle.shipped import shipped_runs


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"_target_": "Compose", "transforms": [{"_target_": "liver_pipeline.transforms.WindowHud"}]}, True),
        ({"_target_": "Compose", "transforms": [{"_target_": "KeepLargestConnectedComponentd"}]}, False),
        ({"a": [1, {"b": {"_target_": "own.Network"}}]}, False),
        ({"_target_": "$monai.networks.nets.UNet"}, False),
        ({"spatial": "$monai.utils.set_determinism(0)"}, False),
        ({"imports": ["$import torch", "$import monai"], "n": "$1 + 1", "path": "/data/monai.d"}, True),
    ],
)
def test_only_what_needs_no_spared_package_is_plain(value: Any, plain: bool) -> None:
    assert lean._is_plain(value) is plain


@pytest.mark.parametrize("name", sorted(shipped_runs()))
def test_weights_in_the_box_are_plain_whatever_their_version(name: str) -> None:
    assert lean._is_plain(yaml.safe_load((shipped_runs()[name] / "configs" / "inference.yaml").read_text()))


def test_python_that_has_monai_already_and_a_run_that_is_none_are_left_alone(tmp_path: Path) -> None:
    import monai  # noqa: F401

    assert not lean.import_monai_for("default", {}) and not lean.import_monai_for(tmp_path, {})


def test_after_a_lean_start_the_spared_packages_and_the_rest_of_monai_are_there() -> None:
    code = """
import gc, importlib, importlib.util, json, sys
from liver_pipeline.bundle.lean import SPARED, import_monai_for, uncollected
with uncollected():
    before = gc.get_stats()
    assert import_monai_for("default", {})
    import liver_pipeline.commands.predict
    assert gc.get_stats() == before, "collected while modules were imported"
assert gc.isenabled() and gc.get_freeze_count() > 10_000
early = [name for name in (*SPARED, "torch._dynamo", "scipy.stats") if name in sys.modules]
import monai.engines, monai.utils.module, pkgutil
from ignite.engine import Engine
assert issubclass(monai.engines.Trainer, Engine) and monai.utils.module.walk_packages is pkgutil.walk_packages
assert monai.transforms.Compose is importlib.import_module("monai.transforms.compose").Compose
found = [name for name in SPARED if importlib.util.find_spec(name) is not None]
print(json.dumps([early, len(found)]))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    early, found = json.loads(told.stdout)
    assert not early
    assert found >= 5  # the spared are installed: the test would else say nothing
