"""Zips that say what is not so: one coded error, and no more memory or disk than the limits."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from liver_pipeline.io import zips
from liver_pipeline.io.dicom_files import series_uids
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.volumes import read_scan
from liver_pipeline.io.zips import unzip

CONTENT = b"\0" * (1 << 20)


def archive(path: Path, way: int = zipfile.ZIP_DEFLATED, content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w", way) as file:
        file.writestr("a", content)
    return path


def claiming(path: Path, size: int) -> Path:
    """Write ``size`` for the size of the member, in its own header and in the list."""
    data = bytearray(path.read_bytes())
    data[22:26] = struct.pack("<I", size)
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(IntakeError) as caught:
        read_scan(path)
    assert caught.value.code == "ZIP_DAMAGED"
    return str(caught.value)


def test_a_member_that_holds_more_than_it_claims_is_written_no_further_than_that(tmp_path: Path) -> None:
    path = claiming(archive(tmp_path / "a.zip"), 1000)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(IntakeError, match="ZIP_DAMAGED"):  # its checksum is that of more
        unzip(path, tmp_path / "scratch")
    assert sum(file.stat().st_size for file in (tmp_path / "scratch").iterdir()) <= 1000


def test_members_that_claim_too_much_are_refused_before_any_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "MAX_UNZIPPED", 2 << 30)
    assert "unzips to more than 2 GB; unzip it yourself" in refusal(claiming(archive(tmp_path / "a.zip"), 3 << 30))


@pytest.mark.parametrize("way", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_zipfile_would_unpack_in_one_go_takes_no_memory(tmp_path: Path, way: int) -> None:
    path = archive(tmp_path / "a.zip", way, bytes(64 << 20))
    tracemalloc.start()
    try:
        assert f"packed by method {way}" in refusal(path)
        assert series_uids(path) == set()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_an_encrypted_zip_says_what_to_do(tmp_path: Path) -> None:
    data = bytearray(archive(tmp_path / "a.zip").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "it is encrypted; unzip it yourself" in refusal(tmp_path / "a.zip")


def test_a_list_of_a_million_members_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_LIST", 1 << 17)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for number in range(3000):
            file.writestr(f"{number:06d}", b"")
    assert "list of members" in refusal(tmp_path / "a.zip")


def test_a_zip_is_not_called_missing_where_there_is_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(IntakeError, match="TMPDIR=FOLDER") as caught:
        read_scan(archive(tmp_path / "a.zip"))
    assert caught.value.code == "READ_FAILED"
