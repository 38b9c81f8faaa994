"""An app that runs, and a run whose masks are known: liver from 0 HU, tumor from 150 HU."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest

from tests.small import threshold_run

RUN = "run=threshold"
LIVER_FROM, TUMOR_FROM = 0.0, 150.0  # HU; the window maps -175 to 250 HU to 0 to 1


@dataclass(frozen=True)
class RunningApp:
    """An app: where it is, its token, its work folder, and the file that takes all it prints."""

    address: str
    token: str
    work: Path
    log: Path
    process: subprocess.Popen[bytes]

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
    log = work.with_name(f"{work.name}.log")
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--runs", str(runs), *options], stdout=file, stderr=file)
    try:
        while (found := re.search(r"(http://\S+)/\?token=(\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield RunningApp(found[1], found[2], work, log, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(app: RunningApp, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send one request, with the token unless ``headers`` say otherwise; JSON comes back as values."""
    connection = http.client.HTTPConnection(urlsplit(app.address).netloc, timeout=60)
    try:
        connection.request(method, path, body, {**app.header, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    kind = answer.headers.get_content_type()
    return answer.status, json.loads(content) if kind == "application/json" and content else content


def finished(app: RunningApp, case: str, seconds: float = 60) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _, row = ask(app, "GET", f"/api/cases/{case}")
        if row["state"] not in ("waiting", "running"):
            return dict(row)
        time.sleep(0.2)
    raise AssertionError("the case does not end")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose networks see one voxel: ``threshold``, ``fine`` on a finer grid, the 2D one ``deeper/flat``."""
    folder = tmp_path_factory.mktemp("runs")
    for name, spacing_mm in (("threshold", 8.0), ("fine", 2.5), ("deeper/flat", 8.0)):
        values = {"liver_from": LIVER_FROM, "tumor_from": TUMOR_FROM, "spacing_mm": spacing_mm}
        threshold_run(folder / name, **values, slicewise=name == "deeper/flat")
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
