"""Checkpoint files: whole or absent, verified, the last two kept."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liver_pipeline.io.checkpoints import (
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from liver_pipeline.io.files import TEMPORARY, remove_temporary

CONTENTS = {"model": {"w": torch.arange(1000.0)}, "epoch": 3, "rows": [{"dice": 0.5, "hd": None}]}


def same(contents: dict[str, object]) -> bool:
    return torch.equal(contents["model"]["w"], CONTENTS["model"]["w"]) and contents["rows"] == CONTENTS["rows"]  # type: ignore[index]


@settings(max_examples=60)
@given(data=st.data())
def test_a_changed_byte_is_found_or_changes_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("c") / "last.ckpt"
    save_checkpoint(path, CONTENTS)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with contextlib.suppress(DamagedCheckpointError):
        assert same(load_checkpoint(path))  # padding and time stamps carry no content


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_file_cut_short_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, CONTENTS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(DamagedCheckpointError, match=r"last\.ckpt"):
        load_checkpoint(path)


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    assert load_latest(tmp_path) == (None, [])
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / LAST, {"epoch": epoch}, keep_as=PREVIOUS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert load_latest(tmp_path) == ({"epoch": 3}, [])
    (tmp_path / LAST).write_bytes(b"")
    state, problems = load_latest(tmp_path)
    assert state == {"epoch": 2}
    assert len(problems) == 1
    assert LAST in problems[0]
    (tmp_path / PREVIOUS).write_bytes(b"not a zip")
    with pytest.raises(DamagedCheckpointError, match="--restart"):
        load_latest(tmp_path)


def test_between_the_two_renames_the_previous_one_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path / LAST, {"epoch": epoch}, keep_as=PREVIOUS)
    (tmp_path / LAST).replace(tmp_path / PREVIOUS)  # killed here
    (tmp_path / TEMPORARY.format("123")).write_bytes(b"half")
    assert load_latest(tmp_path) == ({"epoch": 2}, [])
    remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PREVIOUS]


def test_objects_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"epoch": Path("x")}, tmp_path / LAST)
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(tmp_path / LAST)
