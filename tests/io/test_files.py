"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from liver_pipeline.io.files import (
    TEMPORARY,
    remove,
    remove_abandoned,
    remove_temporary,
    temporary_name,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk"), whole_file(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise RuntimeError("disk")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_an_error_names_what_was_to_be_written(
    tmp_path: Path, whole: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    path = tmp_path / "case.sc"
    with pytest.raises(OSError, match=r"case\.sc") as refused, whole(path) as temporary:
        raise OSError(errno.EACCES, "Permission denied", str(temporary))
    assert refused.value.filename == str(path)
    with pytest.raises(OSError, match=r"scan\.nii\.gz"), whole(path):  # what is read meanwhile keeps its name
        (tmp_path / "scan.nii.gz").read_bytes()


def test_nobody_takes_a_temporary_file_for_a_mask_and_its_name_is_short_and_its_own(tmp_path: Path) -> None:
    longest = "m" * 248 + ".nii.gz"  # 255 bytes, as long as a name may be
    with whole_file(tmp_path / longest) as one, whole_file(tmp_path / longest) as other:
        assert one != other  # two hosts, or two threads, write the same file
        for temporary in (one, other):
            temporary.write_bytes(b"mask")
    with whole_file(tmp_path / "new" / "mask.nii.gz") as temporary:
        assert temporary.parent == tmp_path / "new"
        assert temporary.name.startswith(".") and temporary.suffix == ".part"
        temporary.write_bytes(b"mask")
    assert (tmp_path / "new" / "mask.nii.gz").read_bytes() == b"mask"


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\nb\n".encode()


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"dice": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_only_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    kept = tmp_path / "deep" / ".gitignore"
    kept.write_text("*")
    (tmp_path / "deep" / TEMPORARY.format("17")).write_bytes(b"half")
    remove_temporary(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


@pytest.mark.parametrize("strict", [True, False])
def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path: Path, strict: bool) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "scan.nii.gz").write_bytes(b"scan")
    for name, target in {"folder": scans, "file": scans / "scan.nii.gz", "nothing": tmp_path / "gone"}.items():
        (tmp_path / name).symlink_to(target)
        remove(tmp_path / name, strict=strict)
    made = tmp_path / "made"
    made.mkdir()
    (made / "link").symlink_to(scans)
    remove(made, strict=strict)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["scan.nii.gz", "scans"]


def test_what_cannot_be_removed_is_an_error_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("read only")

    file = tmp_path / "file"
    file.write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(PermissionError):
            remove(file)
        remove(file, strict=False)
    assert file.exists()


def test_what_nobody_wrote_to_for_a_day_goes_from_a_folder_that_others_write_to(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    ages = {temporary_name(): 25, temporary_name(): 1, "mine.part": 25, f"below/{temporary_name()}": 25}  # hours
    for name, hours in ages.items():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    (tmp_path / temporary_name()).symlink_to(tmp_path / "nowhere")
    remove_abandoned(tmp_path)
    assert [(tmp_path / name).exists() for name in ages] == [False, True, True, True]
    remove_abandoned(tmp_path / "none")
