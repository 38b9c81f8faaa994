"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from liver_pipeline.io.limits import available_bytes, cores

REAL_DATA = "LIVER_PIPELINE_REAL_DATA"
BYTES_A_WORKER = 5 << 30  # the largest networks, trained
ORTHANC_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

# Processes that tests start import their functions from tests/; last, so that the installed package wins.
sys.path.append(str(Path(__file__).resolve().parents[1]))

# Tests side by side (pytest -n) share the cores, as do processes that they start; set before anything loads PyTorch.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // int(workers))))

# A key written twice in a YAML file is an error in tests; MONAI only warns by default.
os.environ["MONAI_FAIL_ON_DUPLICATE_CONFIG"] = "1"

# Examples are the same in each run, and may take their time: scripts/fuzz_*.py look for new ones.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run as many tests side by side (-n auto) as this job has cores and memory for."""
    return max(1, min(cores(), available_bytes() // BYTES_A_WORKER))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests of real scans and of programs where there are none; begin with real scans.

    They take longest: what stands last may be divided among the processes of ``-n``, and each would train its own run.
    """
    items.sort(key=lambda item: item.get_closest_marker("real_data") is None)
    missing = {
        "real_data": "" if os.environ.get(REAL_DATA) else f"{REAL_DATA} does not name a folder of real scans",
        "orthanc": "" if ORTHANC_WEB.exists() else "there is no Orthanc with DICOMweb; .ci/services installs it",
        "browser": "" if shutil.which("chromium") else "there is no chromium; .ci/services installs it",
    }
    for item in items:
        for name, reason in missing.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup() -> None:
    """Let each test, and what it has set up, draw the same random numbers whatever ran before it in its process."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what others draw from)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def leave_no_global_state() -> Iterator[None]:
    """For modules that train with ``deterministic: true``: the ones after them are free again."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; a wrong path fails the test rather than skipping it."""
    folder = Path(os.environ[REAL_DATA]).resolve()
    assert folder.is_dir(), f"{REAL_DATA}={folder} is no folder"
    return folder
