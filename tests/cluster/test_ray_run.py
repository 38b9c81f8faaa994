"""`predict --ray`: whatever dies, each case has one end, and the masks are those of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.prediction.provenance import VOLATILE
from tests.small import BRIEF, make_phantoms

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = {"_target_": "tests.cluster.stand_in.StandIn"}


def make_run(folder: Path, data: Path) -> Path:
    """Compose a run whose network is the stand-in, with its weights."""
    overrides = {**BRIEF, "dataset_dir": str(data), "spacing": [12.0, 12.0, 19.0], "roi_size": [16, 16, 16]}
    run = lp.compose(folder / "run", {"network": "unet3d"}, overrides={**overrides, "network_def": STAND_IN})
    network = ConfigParser(load_config(run, "inference")).get_parsed_content("network_def")
    (run / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), run / "models" / "model.pt")
    return run


def make_scans(folder: Path, count: int, *, killers: int = 0) -> Path:
    """Write small scans, of which the first ``killers`` kill their process, and one that is damaged."""
    affine = np.diag([-12.0, 12.0, 19.0, 1.0])
    for number in range(count):
        chance = np.random.default_rng(number)
        volume = np.full((16 + number % 3, 14, 12), -1000, np.int16)
        volume[3:12, 3:11, 2:10] = chance.integers(-150, 250, (9, 8, 8))
        if number < killers:
            volume[:] = chance.integers(150, 240, volume.shape)
        path = folder / f"site_{number % 2}" / f"case_{number:03d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(volume, affine).to_filename(path)
    (folder / "damaged.nii.gz").write_bytes(b"")
    return folder


def outcome(masks: Path) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """Return masks, provenance and last rows, without what may differ from run to run."""
    bytes_of = {path.relative_to(masks).as_posix(): path.read_bytes() for path in sorted(masks.rglob("*.nii.gz"))}
    records = {
        path.relative_to(masks).as_posix(): {k: v for k, v in json.loads(path.read_text()).items() if k not in VOLATILE}
        for path in sorted(masks.rglob("*.json"))
    }
    last = {row["case"]: {k: v for k, v in row.items() if k not in ("time", "host")} for row in rows(masks)}
    return bytes_of, records, last


def rows(masks: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (masks / LEDGER).read_text().splitlines()]


def predict(run: Path, scans: Path, masks: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "liver_pipeline", "predict", str(run), str(scans), str(masks), "backend=torch"]
    around = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **env}
    return subprocess.Popen(
        [*command, "device=cpu", *options], env=around, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str], code: int) -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == code, text
    return text


def test_ray_makes_what_one_machine_makes_and_either_goes_on_with_the_other(tmp_path: Path) -> None:
    scans = make_scans(tmp_path / "scans", 6)
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    assert "6 done, 1 failed, 0 skipped" in said(predict(run, scans, tmp_path / "whole"), 3)
    text = said(predict(run, scans, tmp_path / "masks", "--worker-cores=1", "--ray"), 3)
    assert "6 done, 1 failed, 0 skipped" in text and "damaged.nii.gz: EMPTY_FILE" in text
    assert outcome(tmp_path / "masks") == outcome(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [LEDGER, "site_0", "site_1"]
    assert "0 done, 1 failed, 6 skipped" in said(predict(run, scans, tmp_path / "masks"), 3)
