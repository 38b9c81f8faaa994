"""An app that runs, and a run whose masks are known: liver from 0 HU, tumor from 150 HU."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.small import threshold_run

LIVER_FROM, TUMOR_FROM = 0.0, 150.0  # HU; the window maps -175 to 250 HU to 0 to 1


@dataclass(frozen=True)
class RunningApp:
    """An app: where it is, its token, and its work folder."""

    address: str
    token: str
    work: Path
    process: subprocess.Popen[str]

    @property
    def link(self) -> str:
        return f"{self.address}/?token={self.token}"

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def app_at(work: Path, runs: Path, *options: str) -> Iterator[RunningApp]:
    """Start ``liver-pipeline app`` on a free port; end it as Ctrl-C does."""
    command = [sys.executable, "-m", "liver_pipeline", "app", "--port", "0", "--no-browser", "--work", str(work)]
    process = subprocess.Popen([*command, "--runs", str(runs), *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"(http://\S+)/\?token=(\S+)", process.stdout.readline())
        assert found is not None
        yield RunningApp(found[1], found[2], work, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``threshold``: a network of one voxel."""
    folder = tmp_path_factory.mktemp("runs")
    threshold_run(folder / "threshold", liver_from=LIVER_FROM, tumor_from=TUMOR_FROM)
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bodies whose liver lies right, with a tumor in front; the reference of the first is exact."""
    folder = tmp_path_factory.mktemp("scans")
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = (-160, -120, -96)
    for name, tumors in (("Doe", 1), ("Roe", 2)):
        image = np.full((40, 30, 24), -1000, dtype=np.int16)
        image[2:38, 2:28, :] = -100 - np.arange(24) % 5  # slices differ
        image[26:36, 6:24, 4:20] = 80
        label = np.zeros(image.shape, dtype=np.uint8)
        label[26:36, 6:24, 4:20] = 1
        for place in range(tumors):
            spot = np.s_[30:34, 18 - 9 * place : 22 - 9 * place, 12:16]
            image[spot], label[spot] = 220, 2
        nib.save(nib.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / f"{name}-reference.nii.gz")
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> Iterator[RunningApp]:
    with app_at(tmp_path_factory.mktemp("app") / "work", runs) as running:
        yield running
