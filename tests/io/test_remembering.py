"""What is remembered of a folder is forgotten when it changes."""

from __future__ import annotations

from pathlib import Path

from liver_pipeline.io.remembering import remembers
from tests.counting import let_settle


def test_an_answer_holds_until_the_folder_changes_and_never_for_one_that_has_just_changed(tmp_path: Path) -> None:
    asked = []

    @remembers(1)
    def names(folder: Path) -> list[str]:
        asked.append(folder)
        return sorted(path.name for path in folder.iterdir())

    (tmp_path / "a").touch()
    assert [names(tmp_path), names(tmp_path)] == [["a"], ["a"]]
    assert len(asked) == 2, "a file that comes in the same tick of the clock moves no time"
    let_settle(tmp_path)
    assert [names(tmp_path), names(tmp_path)] == [["a"], ["a"]]
    assert len(asked) == 3
    (tmp_path / "b").touch()
    assert names(tmp_path) == ["a", "b"]
