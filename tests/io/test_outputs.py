"""What cannot be written is refused before the work, not behind it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from liver_pipeline.io.outputs import check_outputs


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
