"""Folder runs: every input ends in one state, a kill at any point loses nothing, nothing foreign is overwritten."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor

from liver_pipeline.evaluation.description import describe
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.discovery import ScanInput, find_inputs, same_names
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import temporary_name
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER, Ledger
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.networks.weights import load_weights
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.folder_run import FolderRun
from liver_pipeline.prediction.pipeline import MemoryBudget, Turns, ahead
from liver_pipeline.prediction.plan import find_scans, plan_cases, plan_lines
from liver_pipeline.prediction.provenance import VOLATILE, settings_of
from liver_pipeline.prediction.summary import Summary
from liver_pipeline.transforms.load import LoadScand
from tests.dicom_files import body, one_slice, series
from tests.waiting import PATIENCE_S

AFFINE = np.diag([-0.8, 0.8, 2.5, 1.0])


class TinyNetwork(torch.nn.Module):
    """Liver where HU + shift is above 0."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor([shift]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.shift


class TinyInferer:
    """Thresholds; fails where the scan holds 31000 HU."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        time.sleep(self._seconds)
        if bool((inputs == 31000).any()):
            raise RuntimeError("this scan cannot be segmented")
        assert isinstance(inputs, MetaTensor)
        labels = (network(inputs.float()) > 0).to(torch.uint8)
        return MetaTensor(labels.as_tensor(), meta={"inference": {"windows": 1, "seconds_in_network": 0.1}})


def clean(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "effects": {"nothing": 0}}


def write_scan(path: Path, seed: int = 0, voxel: float | None = None) -> None:
    volume = np.full((12, 10, 9), -1000, dtype=np.int16)
    volume[3:9, 3:8, 3:7] = np.random.default_rng(seed).integers(-50, 100, (6, 5, 4))
    if voxel is not None:
        volume[0, 0, 0] = voxel
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(nib.Nifti1Image(volume, AFFINE).to_bytes(), mtime=0))


def folder_run(scans: Path, masks: Path, **options: Any) -> FolderRun:
    reader = options.pop("reader", ScanReader())
    runner = CaseRunner(
        preprocessing=options.pop("preprocessing", LoadScand("image", reader=reader)),
        inferer=options.pop("inferer", TinyInferer()),
        network=options.pop("network", TinyNetwork()),
        postprocessing=options.pop("postprocessing", clean),
        reader=reader,
        bundle_root=options.pop("bundle_root", None),
    )
    found = find_scans(scans, series=options.pop("series", None))
    return FolderRun(dataset=Dataset(found), output_dir=masks, runner=runner, progress=False, **options)


def rows(masks: Path) -> list[dict[str, Any]]:
    lines = (masks / LEDGER).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def masks_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.endswith(".nii.gz")}


def provenances_of(folder: Path) -> dict[str, Any]:
    found = {name: json.loads(data) for name, data in files(folder).items() if name.endswith(".json")}
    return {name: {k: v for k, v in one.items() if k not in VOLATILE} for name, one in found.items()}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("a.1.nii.gz", "a.2.nii.gz", "site_b/c.nii.gz"):
        write_scan(tmp_path / "scans" / name, seed=len(name))
    return tmp_path / "scans"


# --- the main job --------------------------------------------------------------------------------------------------


def test_masks_mirror_the_input_tree_and_carry_their_provenance(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    summary = folder_run(scans, masks).run()
    assert summary == Summary(done=3, failed=0, skipped=0, exit_code=0)
    assert set(files(masks)) == {
        "a.1.nii.gz", "a.1.json", "a.2.nii.gz", "a.2.json", "site_b/c.nii.gz", "site_b/c.json", LEDGER
    }  # fmt: skip
    scan, mask = nib.load(scans / "site_b" / "c.nii.gz"), nib.load(masks / "site_b" / "c.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(scan.dataobj) > 0)
    np.testing.assert_array_equal(mask.affine, scan.affine)

    record = json.loads((masks / "site_b" / "c.json").read_text())
    liver = int((np.asarray(scan.dataobj) > 0).sum())
    assert record["output"]["voxels"] == {"0": 12 * 10 * 9 - liver, "1": liver, "2": 0}
    assert record["output"]["volume_ml"]["1"] == pytest.approx(liver * 0.8 * 0.8 * 2.5 / 1000, abs=1e-3)
    assert record["input"]["path"] == "site_b/c.nii.gz" and record["effects"] == {"nothing": 0}
    assert record["inference"] == {"windows": 1} and record["timing"]["seconds_in_network"] == 0.1
    assert record["geometry"]["scan"]["shape"] == record["geometry"]["mask"]["shape"] == [12, 10, 9]
    assert {"read", "preprocess", "network", "postprocess", "write"} == set(record["timing"]["stages"])
    assert str(tmp_path) not in json.dumps(record)


def poison(folder: Path) -> dict[str, str]:
    """Add eight bad inputs; return case and code of each."""
    good = (folder / "case_00.nii.gz").read_bytes()
    image = nib.Nifti1Image.from_bytes(gzip.decompress(good))
    volume = np.asarray(image.dataobj)
    (folder / "truncated.nii.gz").write_bytes(good[: len(good) // 2])
    flipped = bytearray(good)
    flipped[-7] ^= 1
    (folder / "flipped.nii.gz").write_bytes(bytes(flipped))
    (folder / "text.nii.gz").write_text("not found")
    nib.Nifti1Image(np.stack([volume, volume], -1), AFFINE).to_filename(folder / "four_d.nii.gz")
    nan = volume.astype(np.float32)
    nan[1, 1, 1] = np.nan
    nib.Nifti1Image(nan, AFFINE).to_filename(folder / "nan.nii.gz")
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    nib.Nifti1Image(volume, flat).to_filename(folder / "singular.nii.gz")
    (folder / "a_folder.nii.gz").mkdir()
    (folder / "zero.nii.gz").write_bytes(b"")
    return {
        "truncated": "TRUNCATED", "flipped": "GZIP_CRC", "text": "NOT_A_SCAN", "four_d": "NOT_3D", "nan": "NON_FINITE",
        "singular": "AFFINE_SINGULAR", "a_folder": "NOT_A_SCAN", "zero": "EMPTY_FILE",
    }  # fmt: skip


def test_a_folder_of_30_with_8_bad_scans_gives_22_masks_8_codes_and_exit_3(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    for number in range(22):
        write_scan(scans / f"case_{number:02d}.nii.gz", seed=number)
    expected = poison(scans)
    summary = folder_run(scans, masks).run()
    assert summary == Summary(done=22, failed=8, skipped=0, exit_code=3)
    assert len(masks_of(masks)) == 22
    assert {row["case"]: row["code"] for row in rows(masks) if row["event"] == "failed"} == expected
    assert sum(row["event"] == "done" for row in rows(masks)) == 22

    again = folder_run(scans, masks).run()  # failed cases are not run again, and still count
    assert again == Summary(done=0, failed=8, skipped=22, exit_code=3)
    shutil.copy(scans / "case_00.nii.gz", scans / "zero.nii.gz")  # mended: runs, although nothing was asked for
    assert folder_run(scans, masks).run() == Summary(done=1, failed=7, skipped=22, exit_code=3)


def test_a_failure_of_the_network_stops_only_its_case(scans: Path, tmp_path: Path) -> None:
    write_scan(scans / "b.nii.gz", voxel=31000)
    masks = tmp_path / "masks"
    assert folder_run(scans, masks).run() == Summary(done=3, failed=1, skipped=0, exit_code=3)
    (failed,) = [row for row in rows(masks) if row["event"] == "failed"]
    assert (failed["case"], failed["code"]) == ("b", "PREDICT_FAILED")
    assert failed["detail"] == "RuntimeError: this scan cannot be segmented"
    before = len(rows(masks))
    assert folder_run(scans, masks).run() == Summary(done=0, failed=1, skipped=3, exit_code=3)
    assert len(rows(masks)) == before
    assert folder_run(scans, masks, retry_failed=True).run() == Summary(done=0, failed=1, skipped=3, exit_code=3)
    assert len(rows(masks)) == before + 1


def test_where_nothing_could_be_done_the_exit_code_is_4(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_bytes(b"")
    assert folder_run(tmp_path / "scans", tmp_path / "masks").run() == Summary(0, 1, 0, 4)


def test_max_failures_stops_the_run_and_the_rest_runs_next_time(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    for name in "abcdef":
        write_scan(scans / f"{name}.nii.gz", voxel=31000 if name in "bd" else None)
    summary = folder_run(scans, masks, max_failures=1).run()
    assert summary == Summary(done=1, failed=1, skipped=4, exit_code=3)
    assert folder_run(scans, masks).run() == Summary(done=3, failed=2, skipped=1, exit_code=3)


def test_the_next_case_is_read_while_the_network_runs_and_no_more_than_one(tmp_path: Path) -> None:
    for name in "abcd":
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    read: list[str] = []
    reading = threading.Condition()
    load = LoadScand("image")

    def preprocess(data: Any) -> Any:
        with reading:
            read.append(data["image"].path.name[0])
            reading.notify_all()
        return load(data)

    class Waits(TinyInferer):
        """Waits until the next case has been read."""

        calls = 0

        def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
            Waits.calls += 1
            with reading:
                assert reading.wait_for(lambda: len(read) >= min(Waits.calls + 1, 4), timeout=PATIENCE_S)
                assert not reading.wait_for(lambda: len(read) > Waits.calls + 1, timeout=0.05)
            return super().__call__(inputs, network)

    run = folder_run(tmp_path / "scans", tmp_path / "masks", preprocessing=preprocess, inferer=Waits())
    assert run.run().done == 4 and read == list("abcd")


def test_cases_beyond_the_memory_budget_run_one_after_the_other(scans: Path, tmp_path: Path) -> None:
    assert folder_run(scans, tmp_path / "masks", memory_limit_gb=1e-9).run().done == 3


# --- bad usage -----------------------------------------------------------------------------------------------------


def test_an_empty_or_misspelt_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, code in (("empty", "NO_SCANS"), ("missing", "NOT_FOUND")):
        with pytest.raises(IntakeError) as caught:
            folder_run(tmp_path / folder, tmp_path / "masks").run()
        assert caught.value.code == code
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("twin", ["a.nii", "A.nii.gz"])
def test_inputs_that_would_write_the_same_mask_are_refused_before_the_first_is_read(tmp_path: Path, twin: str) -> None:
    write_scan(tmp_path / "scans" / "a.nii.gz")
    (tmp_path / "scans" / twin).write_bytes(b"never read")
    with pytest.raises(IntakeError, match="would both write") as caught:
        folder_run(tmp_path / "scans", tmp_path / "masks").run()
    assert caught.value.code == "DUPLICATE_NAME" and not (tmp_path / "masks").exists()


def test_masks_are_never_written_over_their_scans(scans: Path) -> None:
    before = files(scans)
    with pytest.raises(ValueError, match="would replace a scan"):
        folder_run(scans, scans, overwrite=True).run()
    assert files(scans) == before


def test_an_output_folder_inside_the_input_folder_is_not_searched_again(scans: Path) -> None:
    for _ in range(2):
        summary = folder_run(scans, scans / "masks").run()
        assert summary.done + summary.skipped == 3 and summary.exit_code == 0


def test_a_second_run_into_the_same_folder_is_refused(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    ledger = Ledger(tmp_path / "masks" / LEDGER)
    with pytest.raises(ValueError, match="another run is writing"):
        folder_run(scans, tmp_path / "masks").run()
    ledger.close()
    assert folder_run(scans, tmp_path / "masks").run().exit_code == 0


def test_a_dry_run_lists_cases_collisions_and_memory_and_writes_nothing(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(scans / "a.1.nii")
    summary = folder_run(scans, tmp_path / "masks", dry_run=True).run()
    text = capsys.readouterr().out
    assert summary.exit_code == 2 and not (tmp_path / "masks").exists()
    assert "DUPLICATE_NAME" in text and "4 cases, 1 collisions" in text and "GB  new" in text
    assert "memory of a case while it is worked on" in text and "a larger one runs alone" in text


# --- what is there already -----------------------------------------------------------------------------------------


def test_a_foreign_mask_is_left_alone_unless_overwrite_is_asked_for(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.1.nii.gz").write_bytes(b"drawn by hand")
    assert folder_run(scans, masks).run() == Summary(done=2, failed=1, skipped=0, exit_code=3)
    assert (masks / "a.1.nii.gz").read_bytes() == b"drawn by hand"
    (failed,) = [row for row in rows(masks) if row["event"] == "failed"]
    assert failed["code"] == "OUTPUT_EXISTS"
    assert folder_run(scans, masks, overwrite=True).run() == Summary(done=1, failed=0, skipped=2, exit_code=0)
    assert nib.load(masks / "a.1.nii.gz").shape == (12, 10, 9)


def test_a_mask_corrected_by_hand_survives_a_rerun_with_new_weights(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks).run()
    (masks / "a.1.nii.gz").write_bytes(b"corrected")
    assert folder_run(scans, masks).run() == Summary(0, 0, 3, 0)
    assert folder_run(scans, masks, network=TinyNetwork(5.0)).run() == Summary(2, 1, 0, 3)
    assert (masks / "a.1.nii.gz").read_bytes() == b"corrected"


def test_only_changed_rows_run_again(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks).run()
    os.utime(scans / "a.1.nii.gz")  # touched, not changed
    assert folder_run(scans, masks).run() == Summary(done=0, failed=0, skipped=3, exit_code=0)
    write_scan(scans / "a.1.nii.gz", seed=99)
    assert folder_run(scans, masks).run() == Summary(done=1, failed=0, skipped=2, exit_code=0)
    (masks / "a.2.nii.gz").unlink()
    assert folder_run(scans, masks).run() == Summary(done=1, failed=0, skipped=2, exit_code=0)
    assert folder_run(scans, masks, network=TinyNetwork(1.0)).run().done == 3  # other weights
    assert folder_run(scans, masks, network=TinyNetwork(1.0), reader=ScanReader("mr")).run().done == 3  # other config


def test_the_bundles_inference_config_is_part_of_the_config_but_not_its_folders_and_comments(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()

    def config_hash(text: str) -> str:
        (tmp_path / "configs" / "inference.yaml").write_text(text)
        runner = CaseRunner(
            preprocessing=None, inferer=TinyInferer(), network=TinyNetwork(), bundle_root=tmp_path, postprocessing=clean
        )
        return runner.config_sha256

    first = config_hash("overlap: 0.5\noutput_dir: one\n")
    assert config_hash("overlap: 0.5  # half\noutput_dir: two\n") == first
    assert config_hash("overlap: 0.25\noutput_dir: one\n") != first


def test_settings_name_values_and_classes_and_are_the_same_every_time() -> None:
    transform = LoadScand("image", reader=ScanReader(repair=["SHEAR"]))
    described = settings_of(transform)
    assert described["class"].endswith(".LoadScand") and described["reader"]["repair"] == ["SHEAR"]
    assert (
        described
        == settings_of(LoadScand("image", reader=ScanReader(repair=["SHEAR"])))
        != settings_of(LoadScand("image"))
    )
    assert " at 0x" not in json.dumps(described)


# --- weights -------------------------------------------------------------------------------------------------------


def test_weights_load_from_a_state_dict_or_under_the_key_model(tmp_path: Path) -> None:
    torch.save(TinyNetwork(3.0).state_dict(), tmp_path / "plain.pt")
    torch.save({"model": TinyNetwork(3.0).state_dict(), "epoch": 7}, tmp_path / "model.pt")
    for name in ("plain.pt", "model.pt"):
        network = TinyNetwork()
        load_weights(network, tmp_path / name)
        assert network.shift.item() == 3.0


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def test_weights_of_another_network_or_with_code_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    torch.save({"shift": torch.zeros(4)}, tmp_path / "shape.pt")
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:200])
    expected = {"other": "another network: it lacks 1", "shape": "shift has shape", "evil": "more than weights"}
    for name, text in {**expected, "torn": "is damaged"}.items():
        with pytest.raises(ValueError, match=text) as caught:
            load_weights(TinyNetwork(), tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="train first"):
        load_weights(TinyNetwork(), tmp_path / "missing.pt")


# --- the disk ------------------------------------------------------------------------------------------------------


def failing_fsync(monkeypatch: pytest.MonkeyPatch, number: int, pattern: str, after: int = 0, times: int = 99) -> None:
    """Make fsync fail with ``number`` for files whose name holds ``pattern``, ``times`` times after ``after`` times."""
    real, seen = os.fsync, [0]

    def fsync(handle: int) -> None:
        name = str(Path(f"/proc/self/fd/{handle}").readlink())
        if pattern in name:
            seen[0] += 1
            if after < seen[0] <= after + times:
                raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files through /proc")
@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "DISK_FULL"), (errno.EROFS, "OUTPUT_READ_ONLY")])
def test_a_full_or_read_only_disk_gives_a_code_and_leaves_nothing_half_written(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    masks = tmp_path / "masks"
    with monkeypatch.context() as patch:
        failing_fsync(patch, number, ".part", after=3, times=1)  # a case syncs its provenance, then its mask
        assert folder_run(scans, masks).run() == Summary(done=2, failed=1, skipped=0, exit_code=3)
    assert [row["code"] for row in rows(masks) if row["event"] == "failed"] == [code]
    assert "a.2.nii.gz" not in files(masks) and not [name for name in files(masks) if name.endswith(".part")]
    assert folder_run(scans, masks).run() == Summary(done=1, failed=0, skipped=2, exit_code=0)  # tried again unasked


@pytest.mark.parametrize("free", [0, 8000])
def test_without_room_for_a_mask_no_network_runs_and_with_room_it_is_made(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    masks = tmp_path / "masks"
    with monkeypatch.context() as patch:
        patch.setattr("liver_pipeline.io.outputs.free_bytes", lambda folder: float(free))
        patch.setattr(TinyInferer, "__call__", lambda self, *_: pytest.fail("the network ran"))
        assert folder_run(scans, masks).run() == Summary(done=0, failed=3, skipped=0, exit_code=4)
    failed = [row for row in rows(masks) if row["event"] == "failed"]
    assert {row["code"] for row in failed} == {"DISK_FULL"} and "MB are free" in failed[0]["detail"]
    assert folder_run(scans, masks).run() == Summary(done=3, failed=0, skipped=0, exit_code=0)  # tried again unasked


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files through /proc")
@pytest.mark.parametrize("after", range(7))
def test_a_ledger_that_cannot_be_written_ends_the_run_and_loses_nothing(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    folder_run(scans, tmp_path / "whole").run()
    masks = tmp_path / "masks"
    with monkeypatch.context() as patch:
        failing_fsync(patch, errno.ENOSPC, LEDGER, after=after)
        summary = folder_run(scans, masks).run()
    assert summary.exit_code == (0 if after == 6 else 4 if after < 2 else 3)
    assert summary.done == after // 2  # two rows a case: writing, done
    assert len(masks_of(masks)) == (after + 1) // 2
    assert (masks / LEDGER).read_bytes().count(b"\n") == after
    assert folder_run(scans, masks).run().exit_code == 0
    assert masks_of(masks) == masks_of(tmp_path / "whole")
    assert provenances_of(masks) == provenances_of(tmp_path / "whole")


def test_an_output_folder_that_cannot_be_made_is_coded_before_anything_is_read(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        folder_run(scans, tmp_path / "file").run()
    with pytest.raises(IntakeError) as caught:
        folder_run(scans, Path("/proc/liver_pipeline")).run()
    assert caught.value.code in ("WRITE_FAILED", "OUTPUT_READ_ONLY")


def test_failures_are_coded_by_their_root_cause() -> None:
    def wrapped(inner: Exception) -> Exception:
        outer = RuntimeError("applying transform")
        outer.__cause__ = inner
        return outer

    assert finding_of(wrapped(MemoryError())).code == "OUT_OF_MEMORY"
    assert finding_of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")).code == "OUT_OF_MEMORY"
    assert finding_of(wrapped(KeyError("image"))).detail == "KeyError: 'image'"
    assert finding_of(OSError(errno.ENOSPC, "No space left on device"), writing=True).code == "DISK_FULL"


# --- ledger, budget, inputs ----------------------------------------------------------------------------------------


def test_a_torn_last_line_is_cut_off_and_a_spoilt_line_costs_its_case_only(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_bytes(b'{"case":"a","event":"done"}\n\xff\xfe garbage\n{"case":"b","event":"done"}\n{"case":"c","ev')
    ledger = Ledger(path)
    assert set(ledger.last) == {"a", "b"}
    ledger.append({"case": "d", "event": "failed"})
    ledger.close()
    assert path.read_bytes().endswith(b'{"case":"b","event":"done"}\n{"case":"d","event":"failed"}\n')


def test_the_budget_lets_one_case_in_whatever_its_size_and_the_next_when_it_fits() -> None:
    budget = MemoryBudget(100)
    budget.reserve(500)
    with pytest.raises(RuntimeError, match="ended"):
        _reserve_then_close(budget, 10)
    budget = MemoryBudget(100)
    budget.reserve(60)
    budget.reserve(40)
    budget.release(60)
    assert budget.used == 40


def _reserve_then_close(budget: MemoryBudget, amount: int) -> None:
    threading.Timer(0.05, budget.close).start()
    budget.reserve(amount)


def test_cases_that_are_read_side_by_side_take_their_memory_in_order() -> None:
    budget, turns, order = MemoryBudget(100), Turns(), []

    def prepare(number: int) -> int:
        time.sleep(0.02 * (3 - number % 4))  # later ones are quicker
        with turns.of(number):
            budget.reserve(60)  # one at a time
            order.append(number)
        return number

    with ThreadPoolExecutor(4) as pool:
        for number in ahead(range(8), prepare, pool, 4):
            budget.release(60)
            assert number == order[number]
    assert order == list(range(8))


def test_a_folder_is_the_same_when_several_cases_are_in_flight(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for number in range(7):
        write_scan(scans / f"case{number}.nii.gz", seed=number)
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    masks = []
    for at_once in (1, 3):
        output = tmp_path / f"masks{at_once}"
        run = folder_run(scans, output)
        run.at_once = at_once
        summary = run.run()
        assert (summary.done, summary.failed, summary.exit_code) == (7, 1, 3)
        masks.append({path.name: path.read_bytes() for path in output.glob("*.nii.gz")})
    assert masks[0] == masks[1]
    assert len(masks[0]) == 7


def test_inputs_are_found_by_name_and_series_by_content(tmp_path: Path) -> None:
    write_scan(tmp_path / "x" / "a.nii.gz")
    write_scan(tmp_path / "x" / ".hidden.nii.gz")
    (tmp_path / "notes.txt").write_text("no scan")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_inputs(tmp_path)
    assert [one.case for one in found] == ["series", "x/a"]
    assert find_inputs(tmp_path / "x" / "a.nii.gz") == [ScanInput(tmp_path / "x" / "a.nii.gz", "a")]
    assert same_names([*found, ScanInput(Path("X/A.zip"), "X/A")]) == {"x/a": [found[1].path, Path("X/A.zip")]}


# --- kill -9 -------------------------------------------------------------------------------------------------------

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "monai.data", "liver_pipeline.prediction.folder_run", "liver_pipeline.transforms.spatial"]
)


def run_until_killed(scans: str, masks: str, kill_at: int | None) -> None:
    """Run in a process of its own; kill it with SIGKILL before the ``kill_at``-th step that touches the disk."""
    torch.set_num_threads(1)
    steps = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps[0] += 1
            if kill_at is not None and steps[0] > kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return step

    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.open = counted(Path.open)  # type: ignore[method-assign]
    folder_run(Path(scans), Path(masks), inferer=TinyInferer(0.01)).run()


def killed(scans: Path, masks: Path, kill_at: int | None, seconds: float | None) -> bool:
    """Run and kill, at a step or some seconds after the run has begun; return whether it was killed."""
    process = CONTEXT.Process(target=run_until_killed, args=(str(scans), str(masks), kill_at))
    process.start()
    if seconds is not None:
        while not (masks / LEDGER).exists() and process.is_alive():
            time.sleep(0.001)
        time.sleep(seconds)
        process.kill()
    process.join(PATIENCE_S)
    assert process.exitcode in (0, -signal.SIGKILL)  # anything else never began
    return process.exitcode == -signal.SIGKILL


def check_after_kill(scans: Path, masks: Path, whole: Path) -> None:
    """Resume and compare with the uninterrupted run."""
    complete = masks_of(whole)
    for name, data in masks_of(masks).items():
        assert data == complete[name]  # a mask is there complete or not at all
    done_before = {row["case"] for row in rows(masks) if row["event"] == "done"} if (masks / LEDGER).exists() else set()
    summary = folder_run(scans, masks).run()
    assert summary.exit_code == 0 and summary.skipped == len(done_before)
    assert masks_of(masks) == complete
    assert provenances_of(masks) == provenances_of(whole)
    done = [row["case"] for row in rows(masks) if row["event"] == "done"]
    assert len(done) == len(set(done)) == len(complete)
    assert not [name for name in files(masks) if name.endswith(".part")]


def spoil(masks: Path) -> None:
    """Leave half a line, as a power cut may."""
    with (masks / LEDGER).open("ab") as file:
        file.write(b'{"case":"a.1","event":"do')


@pytest.mark.parametrize("kill_at", [0, 5, 9, 12, pytest.param(range(60), marks=pytest.mark.slow)])
def test_a_kill_before_any_step_on_disk_loses_nothing(scans: Path, tmp_path: Path, kill_at: int | range) -> None:
    folder_run(scans, tmp_path / "whole", inferer=TinyInferer(0.01)).run()
    for step in kill_at if isinstance(kill_at, range) else [kill_at]:
        masks = tmp_path / f"masks_{step}"
        if not killed(scans, masks, step, None):
            assert step > 15
            break
        if step % 3 == 0 and (masks / LEDGER).exists():
            spoil(masks)
        check_after_kill(scans, masks, tmp_path / "whole")


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_times_lose_nothing(scans: Path, tmp_path: Path, kills: int) -> None:
    for number in range(5):
        write_scan(scans / f"more_{number}.nii.gz", seed=number)
    folder_run(scans, tmp_path / "whole").run()
    chance = random.Random(3)
    hit = number = 0
    while hit < kills:  # a run that was over before its kill does not count
        number += 1
        masks = tmp_path / f"masks_{number}"
        hit += killed(scans, masks, None, chance.uniform(0.0, 0.35))
        check_after_kill(scans, masks, tmp_path / "whole")


# --- real scans ----------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_a_real_folder_of_files_and_series_gets_masks_on_their_grids(real_data: Path, tmp_path: Path) -> None:
    examples, scans = real_data / "totalsegmentator_examples", tmp_path / "scans"
    scans.mkdir()
    shutil.copy(examples / "example_ct.nii.gz", scans)
    shutil.copytree(examples / "example_ct_dicom", scans / "dicom" / "ct")
    shutil.copytree(real_data / "gstt_msd_liver14_3slices" / "dcm", scans / "dicom" / "three_slices")
    masks = tmp_path / "masks"
    assert folder_run(scans, masks).run() == Summary(done=2, failed=1, skipped=0, exit_code=3)
    (failed,) = [row for row in rows(masks) if row["event"] == "failed"]
    assert (failed["case"], failed["code"]) == ("dicom/three_slices", "UNEVEN_SLICE_GAPS")
    scan, mask = nib.load(scans / "example_ct.nii.gz"), nib.load(masks / "example_ct.nii.gz")
    np.testing.assert_array_equal(mask.affine, scan.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(scan.dataobj) > 0)
    assert nib.load(masks / "dicom" / "ct.nii.gz").shape == (512, 512, 20)


# --- faults that outsiders met -------------------------------------------------------------------------------------


class Threshold:
    """Post-processing of a user's own: a class that knows nothing of this package."""

    def __init__(self, thr: float) -> None:
        self.thr = thr

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data


def test_settings_of_a_users_own_class_and_of_a_partial_function_identify_the_config(
    scans: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    assert folder_run(scans, masks, postprocessing=Threshold(0.5)).run().done == 3
    assert folder_run(scans, masks, postprocessing=Threshold(0.5)).run().skipped == 3
    assert folder_run(scans, masks, postprocessing=Threshold(0.7)).run().done == 3
    assert settings_of(partial(round, ndigits=1)) != settings_of(partial(round, ndigits=2))


def test_masks_of_other_runs_their_descendants_and_references_are_no_scans(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder_run(scans, scans / "first").run()
    for name in ("a.1.stale.nii.gz", "a.1.edited.nii.gz", "a.1.probabilities.nii.gz"):
        shutil.copy(scans / "first" / "a.1.nii.gz", scans / "first" / name)
    (scans / "moved").mkdir()
    shutil.copy(scans / "first" / "a.1.nii.gz", scans / "moved" / "elsewhere.nii.gz")  # without its provenance
    for name in ("volume-3.nii", "segmentation-3.nii", "images/c7.nii.gz", "labels/c7.nii.gz"):
        write_scan(scans / name)
    found = [one["case"] for one in find_scans(scans)]
    assert found == ["a.1", "a.2", "images/c7", "site_b/c", "volume-3"]
    assert "label maps, masks or probabilities are no scans" in caplog.text
    assert folder_run(scans, scans / "second").run() == Summary(done=5, failed=0, skipped=0, exit_code=0)
    with pytest.raises(IntakeError, match="only 1 label maps"):
        find_inputs(scans / "moved")


def test_the_mask_of_a_scan_that_was_replaced_by_a_damaged_one_is_set_aside(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks).run()
    earlier = (masks / "a.1.nii.gz").read_bytes()
    (scans / "a.1.nii.gz").write_bytes(b"damaged")
    assert folder_run(scans, masks).run() == Summary(done=0, failed=1, skipped=2, exit_code=3)
    assert not (masks / "a.1.nii.gz").exists() and not (masks / "a.1.json").exists()
    assert (masks / "a.1.stale.nii.gz").read_bytes() == earlier and (masks / "a.1.stale.json").exists()
    assert "1 earlier masks set aside" in capsys.readouterr().out
    write_scan(scans / "a.1.nii.gz", seed=len("a.1.nii.gz"))
    assert folder_run(scans, masks).run() == Summary(done=1, failed=0, skipped=2, exit_code=0)
    assert (masks / "a.1.nii.gz").read_bytes() == earlier


def test_asking_for_descriptions_later_makes_only_these(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks).run()
    before = {name: (masks / name).stat().st_mtime_ns for name in masks_of(masks)}
    assert folder_run(scans, masks, describe=True).run() == Summary(0, 0, skipped=3, exit_code=0, added=3)
    assert len(list(masks.rglob("*.description.json"))) == 3
    with (masks / "livers.csv").open() as file:
        table = {row["case"]: row for row in csv.DictReader(file)}
    assert list(table) == ["a.1", "a.2", "site_b/c"]
    told = json.loads((masks / "site_b/c.description.json").read_text())
    assert float(table["site_b/c"]["liver_with_tumor_ml"]) == told["liver"]["liver_with_tumor_ml"] > 0
    longest = max((lesion["diameter_mm"] for lesion in told["lesions"]), default="")
    assert table["site_b/c"]["longest_mm"] == str(longest)
    assert folder_run(scans, masks).run().skipped == 3  # forgotten in the next night
    assert {name: (masks / name).stat().st_mtime_ns for name in masks_of(masks)} == before


def test_a_page_lies_beside_each_mask_and_goes_aside_with_it(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    assert folder_run(scans, masks).run().done == 3
    assert folder_run(scans, masks, view=True).run() == Summary(0, 0, skipped=3, exit_code=0, added=3)
    pages = sorted(path.relative_to(masks).as_posix() for path in masks.rglob("*.html"))
    assert pages == ["a.1.html", "a.2.html", "site_b/c.html"]
    write_scan(scans / "a.1.nii.gz", voxel=31000)  # the network fails on it
    assert folder_run(scans, masks, view=True).run().failed == 1
    assert (masks / "a.1.stale.html").exists() and not (masks / "a.1.html").exists()


def test_table_and_page_are_those_of_the_mask_beside_them(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    table, page = masks / "a.1.description.json", masks / "a.1.html"

    def is_told_by(path: Path) -> bool:
        return file_sha256(masks / "a.1.nii.gz") in path.read_text()

    folder_run(scans, masks, describe=True, view=True).run()
    assert is_told_by(table) and is_told_by(page)
    folder_run(scans, masks, network=TinyNetwork(40.0)).run()  # another mask, and neither asked for
    assert not table.exists() and not page.exists()
    again = folder_run(scans, masks, network=TinyNetwork(40.0), describe=True, view=True)
    assert again.run() == Summary(0, 0, skipped=3, exit_code=0, added=3)
    assert is_told_by(table) and is_told_by(page)


@pytest.mark.parametrize("name", ["a.1.html", "a.1.description.json"])
def test_what_a_user_keeps_under_the_name_of_a_table_or_page_stays_and_so_does_the_mask(
    scans: Path, tmp_path: Path, name: str
) -> None:
    masks = tmp_path / "masks"
    folder_run(scans, masks).run()
    (masks / name).write_text("mine")
    wanted: Any = {"describe": name.endswith("json"), "view": name.endswith("html")}
    before = masks_of(masks)
    assert folder_run(scans, masks, **wanted).run() == Summary(0, 0, skipped=3, exit_code=3, refused=1, added=2)
    changed = folder_run(scans, masks, network=TinyNetwork(40.0), **wanted)
    assert changed.run() == Summary(done=3, failed=0, skipped=0, exit_code=3, refused=1)
    assert (masks / name).read_text() == "mine" and masks_of(masks).keys() == before.keys()
    assert folder_run(scans, masks, network=TinyNetwork(40.0), overwrite=True, **wanted).run().refused == 0
    assert (masks / name).read_text() != "mine"


def test_accepting_a_code_concerns_only_the_cases_that_have_it(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    image = nib.load(scans / "a.1.nii.gz")
    nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32) * 100, AFFINE).to_filename(scans / "hot.nii.gz")
    accepting = ScanReader(accept=["HU_SCALE", "MODALITY"])
    assert folder_run(scans, masks).run() == Summary(done=3, failed=1, skipped=0, exit_code=3)
    assert folder_run(scans, masks, reader=accepting).run() == Summary(done=1, failed=0, skipped=3, exit_code=0)
    assert json.loads((masks / "hot.json").read_text())["accepted"] == ["HU_SCALE"]
    assert folder_run(scans, masks, reader=accepting).run().skipped == 4
    assert folder_run(scans, masks).run() == Summary(done=0, failed=1, skipped=3, exit_code=3)  # no longer accepted
    assert (masks / "hot.stale.nii.gz").exists() and not (masks / "hot.nii.gz").exists()


def test_one_reader_reads_for_the_mask_and_for_its_description(tmp_path: Path) -> None:
    """HU that cannot be: refused by default, accepted by a run that was trained with them, described by it too."""
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    write_scan(scans / "a.nii.gz")
    image = nib.load(scans / "a.nii.gz")
    strange = np.asarray(image.dataobj).astype(np.float32) * 100
    nib.Nifti1Image(strange, AFFINE).to_filename(scans / "a.nii.gz")
    assert folder_run(scans, tmp_path / "refused").run().failed == 1
    reader = ScanReader(accept=["HU_SCALE"])
    assert folder_run(scans, masks, reader=reader, describe=True).run().exit_code == 0
    assert (masks / "a.description.json").exists()
    assert describe(masks / "a.nii.gz", scans / "a.nii.gz")["liver"]  # its record says how
    shutil.copy(masks / "a.nii.gz", tmp_path / "b.nii.gz")
    with pytest.raises(IntakeError, match="HU_SCALE"):
        describe(tmp_path / "b.nii.gz", scans / "a.nii.gz")


def test_an_unreadable_folder_is_a_row_and_not_the_end(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path).name == "site_b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert folder_run(scans, tmp_path / "masks").run() == Summary(done=2, failed=1, skipped=0, exit_code=3)
    (failed,) = [row for row in rows(tmp_path / "masks") if row["event"] == "failed"]
    assert failed["case"] == "site_b"


def test_a_broken_device_ends_the_run_and_its_case_is_tried_again(scans: Path, tmp_path: Path) -> None:
    class Broken(TinyInferer):
        def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    masks = tmp_path / "masks"
    summary = folder_run(scans, masks, inferer=Broken()).run()
    assert (summary.done, summary.failed, summary.exit_code) == (0, 1, 4)
    assert [row["code"] for row in rows(masks)] == ["DEVICE_FAILED"]
    assert folder_run(scans, masks).run() == Summary(done=3, failed=0, skipped=0, exit_code=0)


def test_a_name_as_long_as_a_file_system_allows_is_done(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    for name in (
        "n" * 236 + ".nii.gz",
        "n" * 248 + ".nii.gz",
        "n" * 251 + ".nii",
    ):  # of the last not even the mask fits
        write_scan(scans / name)
    wanted: Any = {"describe": True, "view": True}
    assert folder_run(scans, masks, **wanted).run() == Summary(done=3, failed=0, skipped=0, exit_code=0)
    assert [len(list(masks.glob(f"*{end}"))) for end in (".nii.gz", ".description.json", ".html")] == [3, 3, 3]
    assert folder_run(scans, masks, **wanted).run() == Summary(done=0, failed=0, skipped=3, exit_code=0)
    for path in scans.iterdir():
        path.write_bytes(b"damaged")
    assert folder_run(scans, masks, **wanted).run().failed == 3
    assert len(list(masks.glob("*.stale*"))) == len(list(masks.glob("n*"))) == 12


def test_what_makes_a_result_doubtful_is_said_on_the_screen_and_what_does_not_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan(tmp_path / "scans" / "a.nii.gz")  # a CT
    folder_run(tmp_path / "scans", tmp_path / "ct").run()
    assert caplog.messages == []
    folder_run(tmp_path / "scans", tmp_path / "mr", reader=ScanReader(modality="mr")).run()
    (line,) = caplog.messages
    assert line.startswith("a: MODALITY: ") and "looks like a CT" in line


def test_a_mask_whose_stale_name_would_be_too_long_is_set_aside_and_the_run_goes_on(tmp_path: Path) -> None:
    scans, masks, name = tmp_path / "scans", tmp_path / "masks", "n" * 243
    for one in (name, "z"):
        write_scan(scans / f"{one}.nii.gz")
    assert folder_run(scans, masks).run().done == 2
    (scans / f"{name}.nii.gz").write_bytes(b"damaged")
    write_scan(scans / "z.nii.gz", seed=5)
    assert folder_run(scans, masks).run() == Summary(done=1, failed=1, skipped=0, exit_code=3)
    aside = [path.name for path in masks.iterdir() if path.name.startswith("n")]
    assert len(aside) == 2 and all(".stale." in one and len(one) <= 255 for one in aside)
    assert [one.case for one in find_inputs(masks, label_maps=True) if ".stale" not in one.case] == ["z"]


def test_one_file_that_cannot_be_read_hides_no_other_scan(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(scans / "dicom", [one_slice(k, body()) for k in range(12)])
    series(scans / "locked", [one_slice(k, body()) for k in range(12)])
    write_scan(scans / "a.0.nii.gz")
    (scans / "notes.txt").write_text("")

    def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name in ("a.0.nii.gz", "notes.txt") or path.parent.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *args, **kwargs)

    whole = Path.open
    monkeypatch.setattr(Path, "open", opened)
    assert folder_run(scans, tmp_path / "masks").run() == Summary(done=4, failed=2, skipped=0, exit_code=3)
    codes = {row["case"]: row["code"] for row in rows(tmp_path / "masks") if row["event"] == "failed"}
    assert codes == {"a.0": "READ_FAILED", "locked": "READ_FAILED"}


def test_pipes_and_links_to_nowhere_named_like_scans_are_rows_and_keep_nobody_waiting(
    scans: Path, tmp_path: Path
) -> None:
    os.mkfifo(scans / "pipe.nii.gz")
    (scans / "circle.nii.gz").symlink_to("circle.nii.gz")
    (scans / "nowhere.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    for _ in range(2):
        assert folder_run(scans, tmp_path / "masks").run().exit_code == 3
    found = {row["case"]: row["code"] for row in rows(tmp_path / "masks") if row["event"] == "failed"}
    assert found == {"pipe": "READ_FAILED", "circle": "READ_FAILED", "nowhere": "NOT_FOUND"}


def test_what_is_bound_to_a_function_or_lies_in_slots_identifies_the_config() -> None:
    class Slotted:
        __slots__ = ("threshold",)

        def __init__(self, threshold: float) -> None:
            self.threshold = threshold

    def above(threshold: float) -> Callable[[float], bool]:
        return lambda value: value > threshold

    def with_default(value: float = 0.5) -> float:
        return value

    for make in (Slotted, above):
        assert settings_of(make(0.5)) == settings_of(make(0.5)) != settings_of(make(0.7))
    before = settings_of(with_default)
    with_default.__defaults__ = (0.7,)
    assert settings_of(with_default) != before


# --- shards --------------------------------------------------------------------------------------------------------


def test_shards_make_what_one_run_makes_and_a_plain_run_finishes_what_is_left(tmp_path: Path) -> None:
    for number in range(12):
        write_scan(tmp_path / "scans" / f"site_{number % 2}" / f"{number}.nii.gz", seed=number)
    (tmp_path / "scans" / "site_0" / "4.nii.gz").write_bytes(b"")
    assert folder_run(tmp_path / "scans", tmp_path / "whole").run() == Summary(11, 1, 0, 3)

    masks = tmp_path / "masks"
    ends = [folder_run(tmp_path / "scans", masks).run(f"{index}/3") for index in (0, 2)]  # 1/3 never ran
    assert 0 < sum(end.done + end.failed for end in ends) < 12
    assert sum(end.skipped for end in ends) == 0
    again = folder_run(tmp_path / "scans", masks).run("0/3")
    assert (again.done, again.failed, again.skipped) == (0, ends[0].failed, ends[0].done)
    done = sum(end.done for end in ends)
    assert folder_run(tmp_path / "scans", masks).run() == Summary(11 - done, 1, done, 3)
    assert masks_of(masks) == masks_of(tmp_path / "whole")
    assert provenances_of(masks) == provenances_of(tmp_path / "whole")
    ended = [row["case"] for row in rows(masks) if row["event"] in ("done", "failed")]
    assert len(ended) == len(set(ended)) == 12


def test_a_shard_leaves_alone_what_another_is_writing(scans: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    half_written = masks / temporary_name()
    half_written.write_text("")
    folder_run(scans, masks).run("0/2")
    assert half_written.exists()
    folder_run(scans, masks).run()
    assert not half_written.exists()


# --- formats, and series of a study --------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "suffix"), [("nrrd", ".nrrd"), ("mha", ".mha")])
def test_masks_in_another_format_hold_the_same_and_are_resumed_and_known(
    scans: Path, tmp_path: Path, format: str, suffix: str
) -> None:
    folder_run(scans, tmp_path / "nifti").run()
    masks = scans / "masks"
    assert folder_run(scans, masks, format=format).run() == Summary(3, 0, 0, 0)
    for name in ("a.1", "a.2", "site_b/c"):
        ours, twin = masks / f"{name}{suffix}", tmp_path / "nifti" / f"{name}.nii.gz"
        np.testing.assert_array_equal(read_label_map(ours).array, read_label_map(twin).array)
        record = json.loads((masks / f"{name}.json").read_text())
        assert record["output"]["path"] == f"{name}{suffix}"
    assert folder_run(scans, masks, format=format).run() == Summary(0, 0, 3, 0)
    assert [one.case for one in find_inputs(scans)] == ["a.1", "a.2", "site_b/c"]
    with pytest.raises(ValueError, match=f"holds masks of format {format}.*--format {format}"):
        folder_run(scans, masks).run()
    (scans / "a.1.nii.gz").write_bytes(b"damaged")
    assert folder_run(scans, masks, format=format).run().failed == 1
    assert (masks / f"a.1.stale{suffix}").is_file() and not (masks / f"a.1{suffix}").exists()


def test_series_of_a_study_are_cases_or_one_is_chosen_and_a_choice_is_no_other_choice(tmp_path: Path) -> None:
    study = tmp_path / "scans" / "p1"
    for uid, gap, slices in (("1.2.3.1", 4.0, 10), ("1.2.3.2", 2.0, 14)):
        hu = body((20, 16, slices))
        files = [one_slice(k, hu, spacing=(1.5, 1.0, gap), SeriesInstanceUID=uid) for k in range(slices)]
        series(study, files, prefix=uid)
    assert folder_run(tmp_path / "scans", tmp_path / "each").run() == Summary(2, 0, 0, 0)
    assert set(masks_of(tmp_path / "each")) == {"p1/1.2.3.1.nii.gz", "p1/1.2.3.2.nii.gz"}

    one = tmp_path / "one"
    assert folder_run(tmp_path / "scans", one, series="thinnest").run() == Summary(1, 0, 0, 0)
    record = json.loads((one / "p1.json").read_text())
    assert record["input"]["series"] == "1.2.3.2"
    (why,) = (warned["detail"] for warned in record["warnings"] if warned["code"] == "SERIES_CHOSEN")
    assert "1.2.3.2" in why and "thinnest of 2" in why
    assert masks_of(one)["p1.nii.gz"] == masks_of(tmp_path / "each")["p1/1.2.3.2.nii.gz"]
    assert folder_run(tmp_path / "scans", one, series="thinnest").run() == Summary(0, 0, 1, 0)
    assert folder_run(tmp_path / "scans", one, series="1.2.3.2").run() == Summary(0, 0, 1, 0)  # the same one
    assert folder_run(tmp_path / "scans", one, series="1.2.3.1").run() == Summary(1, 0, 0, 0)
    assert json.loads((one / "p1.json").read_text())["geometry"]["mask"]["shape"][2] == 10


def test_a_part_of_a_series_is_no_scan_as_soon_as_another_part_is_there(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    halves = [[one_slice(k, body()) for k in part] for part in (range(6), range(6, 12))]
    series(scans / "a" / "p", halves[0])
    assert folder_run(scans, masks).run() == Summary(done=1, failed=0, skipped=0, exit_code=0)
    series(scans / "z" / "q", halves[1])
    lines, _ = plan_lines(plan_cases(find_scans(scans), masks), {}, 10**9)
    assert lines[0].endswith("MIXED_SERIES: 6 more slices of the series lie in the folder z/q; put all into one folder")
    assert folder_run(scans, masks).run() == Summary(done=0, failed=2, skipped=0, exit_code=4)
    assert {row["code"] for row in rows(masks) if row["event"] == "failed"} == {"MIXED_SERIES"}
    assert not (masks / "a" / "p.nii.gz").exists() and (masks / "a" / "p.stale.nii.gz").exists()
    shutil.rmtree(scans / "z")
    assert folder_run(scans, masks).run() == Summary(done=1, failed=0, skipped=0, exit_code=0)
