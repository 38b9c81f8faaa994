"""What comes in at the node's port, and what must not."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pynetdicom.sop_class import CTImageStorage

from liver_pipeline.io.findings import IntakeError
from liver_pipeline.node.inbox import Inbox
from liver_pipeline.node.peers import Peer, association, senders
from liver_pipeline.node.receiving import receive
from liver_pipeline.node.sending import send
from tests.node.nodes import RESULTS, Site, archive, kinds, node, scan
from tests.ports import LOOPBACK, free_port
from tests.waiting import PATIENCE_S, wait_for

EXPLICIT = "1.2.840.10008.1.2.1"


@contextmanager
def receiver(folder: Path, **more: Any) -> Iterator[Peer]:
    """An inbox at ``folder`` that SCANNER may fill."""
    port = free_port()
    server = receive(Inbox(folder), "LIVER", (LOOPBACK, port), ["SCANNER"], **more)
    try:
        yield Peer("LIVER", LOOPBACK, port)
    finally:
        server.shutdown()


def stored(one: pydicom.Dataset, peer: Peer) -> pydicom.Dataset:
    """What C-STORE answers to an instance that need not be one."""
    with (
        association("SCANNER", peer, [(CTImageStorage, EXPLICIT)], None, PATIENCE_S) as opened,
        pydicom.config.disable_value_validation(),
    ):
        return opened.send_c_store(one)


def test_an_instance_is_answered_with_success_only_when_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = scan(tmp_path / "ct")
    with receiver(tmp_path / "in") as peer:
        with monkeypatch.context() as patch:
            patch.setattr("liver_pipeline.io.files.sync", full)
            with pytest.raises(IntakeError, match="0xA700"):
                send(files[:1], "SCANNER", peer)
        assert not list((tmp_path / "in").rglob("*.dcm"))
        send(files, "SCANNER", peer)
        assert len(list((tmp_path / "in").rglob("*.dcm"))) == 12


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place]).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_on_a_full_disk_nothing_is_half_written_and_the_node_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liver_pipeline.node.groups.FIRST_WAIT_S", 0.3)
    site = Site(small_disk)
    files = scan(tmp_path / "ct")
    with archive(site.archive) as kept, node(site):
        filler = small_disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
        with pytest.raises(IntakeError, match="0xA700"):
            site.store(files)
        there = list(site.received.rglob("*"))
        assert all(pydicom.dcmread(path).Rows for path in there if path.is_file())
        assert len([path for path in there if path.is_file()]) < 12
        time.sleep(1.0)  # the series is quiet, and nothing can be written
        filler.unlink()
        site.store(files)
        wait_for(lambda: kinds(kept) == RESULTS)


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"SeriesInstanceUID": None}, "no SeriesInstanceUID"),
        ({"SeriesInstanceUID": ""}, "a UID is empty, or is none"),
        ({"SeriesInstanceUID": "../../etc"}, "a UID is empty, or is none"),
    ],
)
def test_an_instance_that_names_no_series_is_refused(
    tmp_path: Path, tags: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = pydicom.dcmread(scan(tmp_path / "ct")[0])
    with pydicom.config.disable_value_validation():
        for name, value in tags.items():
            setattr(one, name, value) if value is not None else delattr(one, name)
    with receiver(tmp_path / "in") as peer:
        answer = stored(one, peer)
    assert (answer.Status, answer.ErrorComment) == (0xC000, f"INSTANCE_REFUSED: {why}")
    assert not list((tmp_path / "in").iterdir()) and f"INSTANCE_REFUSED: {why}" in caplog.text


def test_a_private_transfer_syntax_is_refused_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with receiver(tmp_path / "in") as peer:
        with (
            pytest.raises(IntakeError) as caught,
            association("SCANNER", peer, [(CTImageStorage, "1.2.840.113619.5.2.9")], None, PATIENCE_S),
        ):
            pass
        assert caught.value.code == "PEER_REFUSED"
        wait_for(lambda: "TRANSFER_SYNTAX" in caplog.text)
    assert "1.2.840.113619.5.2.9" in caplog.text and "SCANNER" in caplog.text


def test_a_foreign_title_is_refused_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = scan(tmp_path / "ct")
    with receiver(tmp_path / "in") as peer:
        for _ in range(2):
            with pytest.raises(IntakeError) as caught:
                send(files, "STRANGER", peer)
            assert caught.value.code == "PEER_UNREACHABLE"
        with pytest.raises(IntakeError):
            send(files, "SCANNER", Peer("ANOTHER", peer.host, peer.port))
    assert not list((tmp_path / "in").iterdir())
    assert caplog.text.count("PEER_UNKNOWN") == 2 and caplog.text.count("STRANGER") == 1


def garbage(peer: Peer, seconds: float) -> int:
    """Connect, write what is no DICOM, or begins as it, and hang up or stay; return how often."""
    chance, end, count = np.random.default_rng(0), time.monotonic() + seconds, 0
    open_: list[socket.socket] = []
    while time.monotonic() < end:
        wire = socket.create_connection((peer.host, peer.port))
        begins = [b"", b"\x01\x00\x00\x00\x00\xff", b"\x04\x00\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"]
        with suppress(OSError):
            wire.sendall(begins[count % len(begins)] + chance.bytes(int(chance.integers(0, 3000))))
        open_.append(wire) if count % 7 == 0 and len(open_) < 50 else wire.close()  # what stays is no more than allowed
        count += 1
        time.sleep(0.01)
    for wire in open_:
        wire.close()
    return count


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_garbage_at_the_port_hinders_no_series(tmp_path: Path, seconds: float) -> None:
    site = Site(tmp_path)
    files = scan(tmp_path / "ct")
    with archive(site.archive) as kept, node(site):
        noise = threading.Thread(target=garbage, args=(Peer("LIVER", LOOPBACK, site.port), seconds))
        noise.start()
        site.store(files)
        wait_for(lambda: kinds(kept) == RESULTS)
        noise.join()
        wait_for(lambda: not list(site.received.iterdir()))
        kept.clear()
        site.store(files)
        wait_for(lambda: kinds(kept) == RESULTS)


@pytest.mark.slow
def test_who_connects_and_says_nothing_keeps_nobody_out_for_long(tmp_path: Path) -> None:
    files = scan(tmp_path / "ct")
    with receiver(tmp_path / "in") as peer:
        silent = [socket.create_connection((peer.host, peer.port)) for _ in range(120)]  # more than are served at once
        for wire in silent[:60]:
            wire.sendall(b"\x01\x00\x00")  # half a header
        time.sleep(45)
        send(files, "SCANNER", peer)
        for wire in silent:
            wire.close()


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "PACS@host:0", "@host:104", "A-TITLE-TOO-LONG-BY-FAR@host:1"])
def test_a_peer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected AET@HOST:PORT"):
        Peer.of(text)


@pytest.mark.parametrize("text", ["", ",", "A-TITLE-TOO-LONG-BY-FAR", "A,B@host"])
def test_senders_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected AET"):
        senders(text)
