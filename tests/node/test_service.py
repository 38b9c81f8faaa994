"""A node between a scanner and an archive, both of pynetdicom, with a network that thresholds."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from monai.data import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import CTImageStorage

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.node.inbox import Inbox, hashed
from liver_pipeline.node.network import Peer, receive, send
from liver_pipeline.node.service import NodeSettings, serve
from tests.dicom_files import ct
from tests.prediction.test_folder_run import CONTEXT, folder_run

QUIET_S = 0.5
ALL = DicomResults(("seg", "sr", "sc"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def segment(cases: list[dict[str, str]], masks: Path) -> None:
    run = folder_run(Path(cases[0]["root"]), masks, dicom=ALL)
    run.dataset = Dataset(cases)
    run.run()


def settings(folder: Path, archive: int, **more: Any) -> NodeSettings:
    values: dict[str, Any] = {"address": ("127.0.0.1", free_port()), "quiet_seconds": QUIET_S} | more
    return NodeSettings(
        folder=folder,
        title="LIVER",
        allowed=["SCANNER"],
        peer=Peer("ARCHIVE", "127.0.0.1", archive),
        dicom=ALL,
        **values,
    )


@contextmanager
def node(told: NodeSettings) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(told, segment, stop.wait))
    thread.start()
    try:
        wait_for(lambda: listens(told.address[1]))
        yield
    finally:
        stop.set()
        thread.join(60)


@contextmanager
def archive(port: int, status: int = 0x0000) -> Iterator[dict[str, Any]]:
    """An archive that keeps what it gets, by SOPInstanceUID, or answers with an error."""
    kept: dict[str, Any] = {}

    def store(event: Any) -> int:
        if status == 0x0000:
            kept[str(event.request.AffectedSOPInstanceUID)] = event.dataset
        return status

    entity = AE(ae_title="ARCHIVE")
    entity.supported_contexts = AllStoragePresentationContexts
    for context in entity.supported_contexts:
        context.add_transfer_syntax("1.2.840.10008.1.2.5")  # RLE
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield kept
    finally:
        server.shutdown()


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_for(found: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.05)


def scan(folder: Path, number: int = 0) -> list[Path]:
    """Slices of a series of its own."""
    tags: dict[str, Any] = {"SeriesInstanceUID": f"1.2.3.4{number}", "PatientID": "P1", "PatientName": "Doe^Jane"}
    ct(folder, odd=range(12), **tags)
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{one.SOPInstanceUID}.{number}"
        one.save_as(path)
    return sorted(folder.iterdir())


def store(files: list[Path], told: NodeSettings, title: str = "SCANNER") -> None:
    send(files, title, Peer(told.title, "127.0.0.1", told.address[1]))


def kinds(kept: dict[str, Any]) -> list[str]:
    return sorted({one.Modality for one in kept.values()})


def test_a_series_comes_in_and_its_results_go_back_and_nothing_of_the_patient_stays(
    tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("DEBUG", "liver_pipeline")
    told = settings(tmp_path / "node", free_port())
    files = scan(tmp_path / "ct")
    with archive(told.peer.port) as kept, node(told):
        store(files, told)
        wait_for(lambda: list((tmp_path / "node" / "masks").glob("*.delivered.json")))
    assert kinds(kept) == ["OT", "SEG", "SR"]
    segment(cases := [{"image": str(tmp_path / "ct"), "case": "x", "root": str(tmp_path)}], tmp_path / "direct")
    seg = next(one for one in kept.values() if one.Modality == "SEG")
    direct = pydicom.dcmread(tmp_path / "direct" / "x.seg.dcm")
    assert cases and seg.PixelData == direct.PixelData and seg.PatientID == "P1"
    assert not list((tmp_path / "node" / "received").iterdir())
    assert (tmp_path / "node").stat().st_mode & 0o077 == 0
    assert "P1" not in caplog.text and "Doe" not in caplog.text and "1.2.3.4" not in caplog.text


def test_two_series_at_a_time_and_one_that_never_ends_hinder_nobody(tmp_path: Path) -> None:
    told = settings(tmp_path / "node", free_port(), quiet_seconds=1.0)
    endless, stop = scan(tmp_path / "endless", 3), threading.Event()

    def go_on() -> None:
        while not stop.wait(0.3):
            store(endless[:1], told)

    with archive(told.peer.port) as kept, node(told):
        thread = threading.Thread(target=go_on)
        thread.start()
        for number in (1, 2):
            store(scan(tmp_path / f"ct{number}", number), told)
        wait_for(lambda: sum(one.Modality == "SR" for one in kept.values()) == 2)
        stop.set()
        thread.join()
    assert hashed("1.2.3.43") not in read_ledger(tmp_path / "node" / "masks" / LEDGER)[0]


def test_a_foreign_title_and_garbage_are_refused_and_the_node_serves_on(tmp_path: Path) -> None:
    told = settings(tmp_path / "node", free_port())
    files = scan(tmp_path / "ct")
    with archive(told.peer.port) as kept, node(told):
        with pytest.raises(IntakeError) as caught:
            store(files, told, title="STRANGER")
        assert caught.value.code == "PEER_UNREACHABLE"
        chance = np.random.default_rng(0)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", told.address[1])) as wire:
                wire.sendall(chance.bytes(2000))
        assert not list((tmp_path / "node" / "received").iterdir())
        store(files, told)
        wait_for(lambda: "SR" in kinds(kept))


def test_a_second_node_on_a_port_or_in_a_folder_is_refused(tmp_path: Path) -> None:
    told = settings(tmp_path / "node", free_port())
    with node(told):
        with pytest.raises(IntakeError) as caught:
            serve(settings(tmp_path / "other", 1, address=told.address), segment, lambda _: True)
        assert caught.value.code == "PORT_TAKEN"
        with pytest.raises(ValueError, match="another node works in"):
            serve(settings(tmp_path / "node", 1), segment, lambda _: True)


def test_results_wait_for_an_archive_that_is_silent_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("liver_pipeline.node.service.FIRST_WAIT_S", 0.3)
    told = settings(tmp_path / "node", free_port())
    with node(told):
        store(scan(tmp_path / "ct"), told)
        wait_for(lambda: "PEER_UNREACHABLE" in caplog.text)
        with archive(told.peer.port, status=0xA700):
            wait_for(lambda: "PEER_REFUSED" in caplog.text)
        assert len(list((tmp_path / "node" / "received").glob("*/*.dcm"))) == 12
        with archive(told.peer.port) as kept:
            wait_for(lambda: len(kinds(kept)) == 3)


def run_node(told: NodeSettings) -> None:
    serve(told, segment, threading.Event().wait)


@pytest.mark.parametrize("moment", ["received", "masks"])
def test_a_killed_node_goes_on_where_it_was(tmp_path: Path, moment: str) -> None:
    told = settings(tmp_path / "node", free_port())
    files = scan(tmp_path / "ct")
    process = CONTEXT.Process(target=run_node, args=(told,))
    process.start()
    wait_for(lambda: listens(told.address[1]))
    store(files, told)  # answered with success: on disk
    if moment == "masks":
        wait_for(lambda: list((tmp_path / "node" / "masks").glob("*.nii.gz")))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)
    assert len(list((tmp_path / "node" / "received").glob("*/*.dcm"))) == 12
    with archive(told.peer.port) as kept, node(told):
        wait_for(lambda: list((tmp_path / "node" / "masks").glob("*.delivered.json")))
    assert kinds(kept) == ["OT", "SEG", "SR"]


def test_an_instance_is_answered_with_success_only_when_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    inbox = Inbox(tmp_path / "in", QUIET_S)
    port = free_port()
    server = receive(inbox, "LIVER", ("127.0.0.1", port), ["SCANNER"])
    files = scan(tmp_path / "ct")
    try:
        with monkeypatch.context() as patch:
            patch.setattr("liver_pipeline.io.files.sync", full)
            with pytest.raises(IntakeError, match="0xA700"):
                send(files[:1], "SCANNER", Peer("LIVER", "127.0.0.1", port))
        assert not list((tmp_path / "in").rglob("*.dcm"))
        send(files, "SCANNER", Peer("LIVER", "127.0.0.1", port))
        kept = sorted(path.read_bytes()[132:] for path in (tmp_path / "in").rglob("*.dcm"))
        assert len(kept) == 12
    finally:
        server.shutdown()


def test_stragglers_of_a_series_that_was_delivered_are_no_series(tmp_path: Path) -> None:
    told = settings(tmp_path / "node", free_port())
    files = scan(tmp_path / "ct")
    with archive(told.peer.port) as kept, node(told):
        store(files, told)
        wait_for(lambda: list((tmp_path / "node" / "masks").glob("*.delivered.json")))
        count = len(kept)
        store(files[:6], told)
        time.sleep(3 * QUIET_S)
        assert len(kept) == count
        store(files, told)  # the whole again: the same results, under the same UIDs
        wait_for(lambda: not list((tmp_path / "node" / "received").iterdir()))
    assert len(kept) == count


def test_what_is_older_than_the_node_keeps_goes(tmp_path: Path) -> None:
    told = settings(tmp_path / "node", free_port(), keep_hours=1.0, quiet_seconds=1e6)
    with node(told):
        store(scan(tmp_path / "ct"), told)
        (series,) = (tmp_path / "node" / "received").iterdir()
        os.utime(series, (0, time.time() - 3700))
        wait_for(lambda: not series.exists())


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "PACS@host:0", "@host:104", "A-TITLE-TOO-LONG-BY-FAR@host:1"])
def test_a_peer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected AET@HOST:PORT"):
        Peer.of(text)


def test_uids_from_the_wire_become_no_paths(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "in", QUIET_S)
    port = free_port()
    server = receive(inbox, "LIVER", ("127.0.0.1", port), ["SCANNER"])
    one = pydicom.dcmread(scan(tmp_path / "ct")[0])
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    try:
        association = entity.associate("127.0.0.1", port, ae_title="LIVER")
        with pydicom.config.disable_value_validation():
            one.SeriesInstanceUID = "../../etc"
            assert association.send_c_store(one).Status == 0xC000
        association.release()
    finally:
        server.shutdown()
    assert not list((tmp_path / "in").iterdir())
