"""Painted scans go where nobody's files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from liver_pipeline.commands.synthesize import SHEET, synthesize


@pytest.mark.parametrize("name", ["images", "labels", SHEET])
def test_what_is_there_is_not_painted_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=f"{name} exists; choose another folder"):
        synthesize(tmp_path, n=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
