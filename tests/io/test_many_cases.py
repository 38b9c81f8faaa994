"""What a case opens and lists does not grow with the cases beside it; files are opened no more often than told here."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import FileDataset

from liver_pipeline.io import discovery
from liver_pipeline.io.formats import stored_sha256, voxel_count
from liver_pipeline.io.studies import find_volumes
from liver_pipeline.io.volumes import read_scan
from tests.counting import counted, let_settle
from tests.dicom_files import body, ct, one_slice, series


def slices_of(number: int) -> Iterator[FileDataset]:
    hu = body()
    return (one_slice(k, hu, SeriesInstanceUID=f"1.2.{number}") for k in range(hu.shape[2]))


@pytest.mark.parametrize("zipped", [False, True])
def test_series_side_by_side_list_the_folder_above_together_not_each(tmp_path: Path, zipped: bool) -> None:
    opens = {}
    for count in (6, 12):
        above = tmp_path / str(count)
        for number in range(count):
            folder = ct(above / f"s{number:02d}", range(12), SeriesInstanceUID=f"1.2.{number}")
            if zipped:
                shutil.make_archive(str(folder), "zip", folder)
                shutil.rmtree(folder)
        let_settle(above)
        inputs = find_volumes(above)
        with counted(above) as counts:
            for one in inputs:
                assert read_scan(one.path).array.shape[2] == 12
        assert counts[str(above)] <= 3
        opens[count] = counts.total()
    assert opens[12] <= 2 * opens[6] + 3


def test_a_folder_of_many_series_is_looked_through_once_not_for_each_of_them(tmp_path: Path) -> None:
    folder, numbers = tmp_path / "dump", range(8)
    for number in numbers:
        series(folder, slices_of(number), prefix=f"S{number}_")
    let_settle(folder)
    inputs = find_volumes(folder)
    hashes = {}
    with counted(folder) as counts:
        for one in inputs:
            scan = read_scan(one.path, series=one.series)
            hashes[one.series] = scan.sha256
            assert scan.sha256 == stored_sha256(one.path, one.series)
            assert voxel_count(one.path, one.series)[0] >= scan.array.size
    assert len(inputs) == len(numbers) == len(set(hashes.values()))
    assert counts[str(folder)] <= 2
    assert max(counts[name] for name in counts if name != str(folder)) <= 3  # header, voxels with hash, hash again

    series(folder, slices_of(8), prefix="S8_")  # a scan that comes later is no reason to segment the others again
    assert stored_sha256(folder, "1.2.0") == hashes["1.2.0"]


def test_a_slice_is_opened_twice_to_read_it_and_once_for_its_hash_alone(tmp_path: Path) -> None:
    folder = ct(tmp_path / "ct", range(12))
    (folder / "README").write_text("of the scanner")
    let_settle(folder)
    slices = [str(path) for path in folder.iterdir() if path.name != "README"]
    with counted(folder) as counts:
        scan = read_scan(folder)
    assert {counts[name] for name in slices} == {2}  # headers of all, then voxels with their hash
    with counted(folder) as counts:
        assert stored_sha256(folder) == scan.sha256
    assert {counts[name] for name in slices} == {1}


def test_a_slice_that_was_rewritten_is_looked_into_again(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    for number in range(2):
        series(folder, slices_of(number), prefix=f"S{number}_")
    let_settle(folder)
    before = read_scan(folder, series="1.2.0")
    for k, file in enumerate(slices_of(0)):
        file.PixelSpacing = [2.0, 2.0]
        file.save_as(folder / f"S0_{k:03d}", enforce_file_format=True)
    assert np.allclose(np.abs(np.diag(read_scan(folder, series="1.2.0").affine))[:2], 2.0)
    assert not np.allclose(np.abs(np.diag(before.affine))[:2], 2.0)


def test_other_files_move_the_bar_while_scans_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = 40
    for number in range(others):
        (tmp_path / f"{number:02d}.csv").write_text("no scan")
    nib.Nifti1Image(body(), np.diag([9.0, 9.0, 9.0, 1.0])).to_filename(tmp_path / "z.nii.gz")
    moved: dict[str, int] = Counter()

    def bar(items: Iterable[Any], what: str, unit: str) -> Iterator[Any]:
        for one in items:
            moved[what] += 1
            yield one

    monkeypatch.setattr(discovery, "with_bar", bar)
    assert [one.path.name for one in find_volumes(tmp_path)] == ["z.nii.gz"]
    assert moved["Looking for scans"] == others + 1


def test_a_volume_is_opened_three_times_until_it_is_read_and_twice_for_that(tmp_path: Path) -> None:
    for number in range(3):
        nib.Nifti1Image(body(), np.diag([9.0, 9.0, 9.0, 1.0])).to_filename(tmp_path / f"{number}.nii.gz")
    with counted(tmp_path) as counts:
        inputs = find_volumes(tmp_path)
    assert counts.pop(str(tmp_path)) == 1
    assert {counts[str(one.path)] for one in inputs} == {3}  # a label map? a zip? DICOM under another name?
    with counted(tmp_path) as counts:
        for one in inputs:
            read_scan(one.path)
    assert set(counts.values()) == {2}  # which format, and the one pass over it
