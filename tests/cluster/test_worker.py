"""A worker checks what its node sees, and a ledger elsewhere is as good as one here. Without Ray's processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from liver_pipeline.cluster import ledger_actor
from liver_pipeline.cluster.crew import differing_versions
from liver_pipeline.cluster.ledger_actor import LedgerKeeper, RemoteLedger
from liver_pipeline.cluster.worker import Errand, Worker
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER, read_ledger
from tests.cluster.test_ray_run import make_run, make_scans
from tests.small import make_phantoms


class Here:
    """An actor's handle whose methods run at once, in this process."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._thing, name)

        class Method:
            remote = staticmethod(method)

        return Method


@pytest.fixture(autouse=True)
def loud_loggers() -> Iterator[None]:
    """Undo that a worker, in a process of its own, says nothing."""
    yield
    logging.getLogger("liver_pipeline").setLevel(logging.NOTSET)


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(ledger_actor, "answer", lambda value: value)
    return Here(LedgerKeeper())


def errand_of(tmp_path: Path) -> Errand:
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    scans = make_scans(tmp_path / "scans", 2)
    masks = tmp_path / "masks"
    values = {"dataset_dir": str(scans), "output_dir": str(masks), "device": "cpu", "backend": "torch"}
    probe = masks / ".liver-pipeline.probe.part"
    return Errand(run, values, scans, masks, ".nii.gz", probe, scans / "damaged.nii.gz", Path.cwd())


def test_a_worker_brings_a_case_to_its_end_and_its_rows_are_in_the_ledger(tmp_path: Path, keeper: Here) -> None:
    errand = errand_of(tmp_path)
    keeper.open.remote(errand.masks)
    errand.probe.write_text(errand.probe.name)
    worker = Worker(errand, keeper, 1, 0.5)
    about = worker.begin()
    assert about["versions"]["torch"] and about["run"] == "run"
    scan = ScanInput(errand.scans / "site_0" / "case_000.nii.gz", "site_0/case_000")
    assert worker.segment(scan).kind == "done"
    assert worker.segment(scan).kind == "before"
    end = worker.segment(ScanInput(errand.first, "damaged"))
    assert (end.kind, end.code) == ("failed", "EMPTY_FILE")
    keeper.close.remote()
    last, written = read_ledger(errand.masks / LEDGER)
    assert {case: row["event"] for case, row in last.items()} == {"site_0/case_000": "done", "damaged": "failed"}
    assert last["site_0/case_000"]["output_sha256"] in written["site_0/case_000"]
    assert sorted(path.name for path in errand.masks.iterdir()) == [LEDGER, "site_0"]


def test_a_folder_that_a_node_does_not_share_is_refused(tmp_path: Path, keeper: Here) -> None:
    errand = errand_of(tmp_path)
    errand.masks.mkdir()  # it is there, but nobody wrote into it
    with pytest.raises(IntakeError, match=r"NOT_FOUND: .* does not see what the driver wrote there"):
        Worker(errand, keeper, 1, 1.0).begin()
    errand.probe.write_text(errand.probe.name)
    errand.first.unlink()
    with pytest.raises(IntakeError, match=r"does not see damaged\.nii\.gz"):
        Worker(errand, keeper, 1, 1.0).begin()


def test_what_is_known_of_a_case_travels_with_it(tmp_path: Path, keeper: Here) -> None:
    keeper.open.remote(tmp_path)
    keeper.append.remote({"case": "a", "event": "done", "output_sha256": "1"})
    seen = RemoteLedger(keeper)
    seen.look_up("a")
    seen.append({"case": "a", "event": "writing", "output_sha256": "2"})
    assert seen.last["a"]["event"] == "writing" and seen.written["a"] == {"1", "2"}
    seen.forget(["a"])
    assert not seen.last and not seen.written
    keeper.close.remote()


def test_a_ledger_that_another_run_keeps_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    first = LedgerKeeper()
    first.open(tmp_path)
    with pytest.raises(ValueError, match="another run is writing"):
        LedgerKeeper().open(tmp_path, patience=0.2)
    first.close()


def test_versions_that_differ_are_named() -> None:
    said = differing_versions({"torch": "2.7", "monai": "1.6"}, {"torch": "2.6", "isal": "1.7"})
    assert said == "isal 1.7 rather than none, monai missing rather than 1.6, torch 2.6 rather than 2.7"
    assert not differing_versions({"torch": "2.7"}, {"torch": "2.7"})
