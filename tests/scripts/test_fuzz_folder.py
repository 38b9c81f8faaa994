"""The fuzzer of whole folders: a few seeds hold every promise, and a broken one is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz_folder.py"


def test_a_few_folders_hold_every_promise(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), str(tmp_path / "found"), "--folders", "6", "--seed", "100"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "6 folders, 0 broke a promise: []"), done.stdout


def test_a_file_that_is_moved_outside_the_output_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuzz = load_script("fuzz_folder")
    whole = fuzz.FolderRun.run

    def careless(self: Any) -> Any:
        (tmp_path / "other" / "mine.nii.gz").rename(tmp_path / "other" / "yours.nii.gz")
        return whole(self)

    monkeypatch.setattr(fuzz.FolderRun, "run", careless)
    with pytest.raises(AssertionError, match=r"changed outside the output folder: .*mine\.nii\.gz"):
        fuzz.promises(tmp_path, 3)
