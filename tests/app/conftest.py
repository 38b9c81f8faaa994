"""One app for all tests of a session, and a run whose masks are known: liver from 0 HU, tumor from 150 HU."""

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
import torch

from liver_pipeline.bundle.compose import compose
from tests.app.gated import Gated
from tests.dicom_files import ct
from tests.small import threshold_run
from tests.waiting import PATIENCE_S, wait_for

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
        process.wait(timeout=PATIENCE_S)


def ask(app: RunningApp, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send one request, with the token unless ``headers`` say otherwise; JSON comes back as values."""
    connection = http.client.HTTPConnection(urlsplit(app.address).netloc, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, {**app.header, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    kind = answer.headers.get_content_type()
    return answer.status, json.loads(content) if kind == "application/json" and content else content


def finished(app: RunningApp, case: str) -> dict[str, Any]:
    return wait_for(lambda: row if (row := row_of(app, case))["state"] not in ("waiting", "running") else None)


def row_of(app: RunningApp, case: str) -> dict[str, Any]:
    return dict(ask(app, "GET", f"/api/cases/{case}")[1])


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose networks see one voxel: ``threshold``, the 2D one ``deeper/flat``; ``gated`` waits for its gate."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("threshold", "deeper/flat"):
        threshold_run(folder / name, liver_from=LIVER_FROM, tumor_from=TUMOR_FROM, slicewise=name == "deeper/flat")
    gate = folder / "gate"
    layer = folder / "gated.yaml"
    layer.write_text(f"network_def: {{_target_: tests.app.gated.Gated, gate: {gate}}}\nroi_size: [16, 16, 16]\n")
    settings = {"spacing": [8.0] * 3, "sw_batch_size": 1, "crops_per_case": 1, "device": "cpu", "backend": "torch"}
    run = compose(folder / "gated", {"network": str(layer)}, overrides=settings)
    (run / "models").mkdir(exist_ok=True)
    torch.save(Gated(str(gate)).state_dict(), run / "models" / "model.pt")
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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """An archive with a scan, a series, and links that lead out of it and inside it."""
    folder = tmp_path_factory.mktemp("archive")
    data = folder / "data"
    ct(data / "a" / "series")
    (data / "a" / "Doe.nii.gz").write_bytes((scans / "Doe.nii.gz").read_bytes())
    for name in ("notes.txt", "a/header.hdr", "a/header.img", "../secret.nii.gz", ".hidden.nii.gz"):
        (data / name).write_text("x")
    (data / "link.nii.gz").symlink_to(folder / "secret.nii.gz")
    (data / "away").symlink_to(folder)
    (data / "same").symlink_to(data / "a")
    return data


@pytest.fixture(scope="session")
def running_app(tmp_path_factory: pytest.TempPathFactory, runs: Path, data: Path) -> Iterator[RunningApp]:
    with app_at(tmp_path_factory.mktemp("app") / "work", runs, "--data", str(data)) as running:
        yield running


@pytest.fixture
def app(running_app: RunningApp) -> Iterator[RunningApp]:
    """The app, without a case; it takes seconds to start, and more until its worker has its first mask."""
    yield running_app
    for row in ask(running_app, "GET", "/api/cases")[1]:
        assert ask(running_app, "DELETE", f"/api/cases/{row['id']}")[0] == 204
