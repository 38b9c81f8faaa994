"""What cannot be written is refused before the work, not behind it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import liver_pipeline as lp
from liver_pipeline.io.files import free_bytes
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.outputs import check_outputs, refuse_full_disk
from tests.small import make_phantoms


def test_folders_that_can_be_made_are_fine_and_are_not_made(tmp_path: Path) -> None:
    check_outputs([tmp_path / "new" / "deep" / "mask.nii.gz", tmp_path / "mask.json"], overwrite=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_nothing_can_be_written_to_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PermissionError, match=r"name another folder.*file"):
        check_outputs([tmp_path / "file" / "mask.nii.gz"], overwrite=True)
    (tmp_path / "read_only").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: "read_only" not in str(path))  # to root nothing is
    check_outputs([tmp_path / "mask.nii.gz"], overwrite=True)
    with pytest.raises(PermissionError, match=r"name another folder.*read_only"):
        check_outputs([tmp_path / "read_only" / "new" / "mask.nii.gz"], overwrite=True)


@pytest.mark.parametrize(
    ("name", "free", "fits"),
    [("a.nii.gz", 240_000, True), ("a.nii.gz", 60_000, False), ("a.nii", 240_000, False), ("a.nii", 4e7, True)],
)
def test_a_mask_of_129_slices_takes_180_kb_and_33_mb_without_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, free: float, fits: bool
) -> None:
    monkeypatch.setattr("liver_pipeline.io.outputs.free_bytes", lambda folder: free)
    try:
        refuse_full_disk(tmp_path / name, 512 * 512 * 129)
    except IntakeError as reason:
        assert reason.code == "DISK_FULL" and not fits
    else:
        assert fits


def test_blocks_kept_for_root_are_roots_and_a_disk_that_tells_nothing_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < free_bytes(tmp_path / "not" / "made") < math.inf
    disk = SimpleNamespace(f_blocks=10, f_bfree=3, f_bavail=2, f_frsize=512)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    for user, free in ((0, 1536.0), (1000, 1024.0)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert free_bytes(tmp_path) == free
    disk.f_blocks = disk.f_bfree = disk.f_bavail = 0
    assert free_bytes(tmp_path) == math.inf


def test_one_mask_without_room_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_phantoms(tmp_path / "scans", 1)
    scan = next((tmp_path / "scans").rglob("volume-0.nii*"))
    monkeypatch.setattr("liver_pipeline.io.outputs.free_bytes", lambda folder: 0.0)
    monkeypatch.setattr("liver_pipeline.commands.predict.load_runner", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(IntakeError, match="DISK_FULL: 0 MB are free there, and the mask takes about"):
        lp.predict("default", scan, tmp_path / "mask.nii.gz")
