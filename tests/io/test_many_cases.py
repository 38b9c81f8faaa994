"""What a case opens and lists does not grow with the cases beside it; files are opened no more often than told here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from liver_pipeline.io.studies import find_volumes
from liver_pipeline.io.volumes import read_scan
from tests.counting import counted, let_settle
from tests.dicom_files import ct


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
