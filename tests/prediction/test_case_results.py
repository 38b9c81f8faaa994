"""DICOM results of a folder run: beside each mask whole or not at all, and made again without predicting again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from liver_pipeline.cli import main
from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.discovery import find_inputs
from liver_pipeline.io.files import TEMPORARY
from liver_pipeline.io.volumes import read_label_map, write_label_map
from liver_pipeline.prediction.summary import Summary
from tests.dicom_files import ct
from tests.prediction.test_folder_run import CONTEXT, TinyInferer, TinyNetwork, files, folder_run, rows, write_scan
from tests.waiting import PATIENCE_S

ALL = DicomResults(("seg", "sr", "sc"))


class Never(TinyInferer):
    """Fails the case: for runs that must not predict."""

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("predicted again")


Never.__module__, Never.__qualname__ = TinyInferer.__module__, TinyInferer.__qualname__  # settings are the same


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for case, name in enumerate("ab"):
        uids: dict[str, Any] = {"SeriesInstanceUID": f"1.2.3.{case}", "SliceThickness": 3.0}
        ct(tmp_path / "scans" / name, odd=range(12), **uids)
    return tmp_path / "scans"


def results(masks: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(masks).items() if name.endswith(".dcm")}


def test_results_lie_beside_each_mask_and_are_left_alone_while_they_hold(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    assert folder_run(scans, masks, dicom=ALL).run() == Summary(2, 0, 0, 0)
    first = results(masks)
    assert {name.split("/")[0] for name in first} == {"a.seg.dcm", "a.sr.dcm", "a.sc", "b.seg.dcm", "b.sr.dcm", "b.sc"}
    record = json.loads((masks / "a.json").read_text())
    assert record["labels"] == {"1": "liver", "2": "tumor"}
    assert pydicom.dcmread(masks / "a.seg.dcm").DeviceSerialNumber == record["weights"]["sha256"]
    before = len(rows(masks))
    assert folder_run(scans, masks, dicom=ALL, inferer=Never()).run() == Summary(0, 0, 2, 0)
    assert len(rows(masks)) == before and results(masks) == first
    assert [one.case for one in find_inputs(masks, label_maps=True)] == ["a", "b"]  # captures are no scans


def test_what_is_missing_is_made_again_to_the_byte_without_predicting(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks).run()
    assert folder_run(scans, masks, dicom=ALL, inferer=Never()).run() == Summary(0, 0, 2, 0)
    first = results(masks)
    (masks / "a.sr.dcm").unlink()
    shutil.rmtree(masks / "b.sc")
    assert folder_run(scans, masks, dicom=ALL, inferer=Never()).run() == Summary(0, 0, 2, 0)
    assert results(masks) == first


def test_other_settings_weights_or_a_mask_mended_by_hand_have_results_of_their_own(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks, dicom=ALL).run()
    seg = pydicom.dcmread(masks / "a.seg.dcm")
    folder_run(scans, masks, dicom=DicomResults(("seg",), "labelmap"), inferer=Never()).run()
    assert pydicom.dcmread(masks / "a.seg.dcm").SOPClassUID != seg.SOPClassUID
    mask = read_label_map(masks / "a.nii.gz")
    write_label_map(mask.path, np.where(mask.array, np.uint8(2), np.uint8(0)), mask, overwrite=True)
    folder_run(scans, masks, dicom=ALL, inferer=Never()).run()
    assert pydicom.dcmread(masks / "a.seg.dcm").SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    folder_run(scans, masks, network=TinyNetwork(5.0), overwrite=True).run()  # none of an old mask stay
    assert results(masks) == {}


def test_a_scan_without_a_series_gets_its_mask_a_code_and_exit_3(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    write_scan(scans / "c.nii.gz")
    summary = Summary(done=3, failed=0, skipped=0, exit_code=3, refused=1)
    assert folder_run(scans, masks, dicom=ALL).run() == summary
    assert (masks / "c.nii.gz").exists() and not (masks / "c.seg.dcm").exists()
    last = rows(masks)[-1]
    assert (last["case"], last["event"], last["dicom"]["code"]) == ("c", "done", "DICOM_REFERENCE")
    before = len(rows(masks))
    assert folder_run(scans, masks, dicom=ALL, inferer=Never()).run() == Summary(0, 0, 3, 3, 1)
    assert len(rows(masks)) == before  # known, and not tried again
    assert folder_run(scans, masks, inferer=Never()).run() == Summary(0, 0, 3, 0)


def test_a_foreign_result_is_left_alone_unless_overwrite_is_asked_for(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.seg.dcm").write_bytes(b"of another program")
    assert folder_run(scans, masks, dicom=ALL).run() == Summary(2, 0, 0, 3, 1)
    assert (masks / "a.seg.dcm").read_bytes() == b"of another program" and not (masks / "a.sr.dcm").exists()
    (code,) = {row["dicom"]["code"] for row in rows(masks) if "code" in row.get("dicom", {})}
    assert code == "OUTPUT_EXISTS"
    assert folder_run(scans, masks, dicom=ALL, overwrite=True, inferer=Never()).run() == Summary(0, 0, 2, 0)
    assert pydicom.dcmread(masks / "a.seg.dcm").Modality == "SEG"


def test_a_full_disk_costs_the_results_not_the_mask_and_they_are_made_next_time(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = tmp_path / "masks"

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("liver_pipeline.dicom_results.results._write_captures", full)
        assert folder_run(scans, masks, dicom=ALL).run() == Summary(2, 0, 0, 3, 2)
    assert results(masks) == {} and not list(masks.rglob(TEMPORARY.format("*")))
    assert folder_run(scans, masks, dicom=ALL, inferer=Never()).run() == Summary(0, 0, 2, 0)


def run_until_killed(scans: str, masks: str, kill_at: int) -> None:
    """Kill this process before the ``kill_at``-th rename."""
    renames = [0]

    def counted(real: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            renames[0] += 1
            if renames[0] > kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return step

    Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)  # type: ignore[method-assign]
    folder_run(Path(scans), Path(masks), dicom=ALL).run()


@pytest.mark.parametrize("kill_at", [2, 4])  # record, mask; captures, report, segmentation; the same of b
def test_a_kill_between_results_loses_none(scans: Path, tmp_path: Path, kill_at: int) -> None:
    masks, whole = tmp_path / "masks", tmp_path / "whole"
    folder_run(scans, whole, dicom=ALL).run()
    process = CONTEXT.Process(target=run_until_killed, args=(str(scans), str(masks), kill_at))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
    inferer = Never() if {row["case"] for row in rows(masks) if row["event"] == "done"} == {"a", "b"} else TinyInferer()
    assert folder_run(scans, masks, dicom=ALL, inferer=inferer).run().exit_code == 0
    assert set(results(masks)) == set(results(whole))
    assert not list(masks.rglob(TEMPORARY.format("*")))
    segs = [pydicom.dcmread(folder / "a.seg.dcm") for folder in (masks, whole)]
    assert segs[0].SOPInstanceUID == segs[1].SOPInstanceUID
    np.testing.assert_array_equal(segs[0].pixel_array, segs[1].pixel_array)


def test_an_unknown_kind_is_told_on_the_command_line(tmp_path: Path, scans: Path) -> None:
    words = ["predict", "default", str(scans), str(tmp_path / "masks"), "--dicom", "seg,rtstruct"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "rtstruct" in done.output and not (tmp_path / "masks").exists()
