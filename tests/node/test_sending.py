"""Results on their way to archives that are slow, broken, or choosy; by C-STORE and by STOW-RS."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest

from liver_pipeline.io.findings import IntakeError
from liver_pipeline.node.asking import instances_of
from liver_pipeline.node.peers import Peer
from liver_pipeline.node.sending import send
from liver_pipeline.node.stow import checked_url, stow
from tests.node.nodes import ALL, archive, stand_in
from tests.ports import LOOPBACK, free_port
from tests.waiting import PATIENCE_S

SEG, SR, CAPTURE = "Segmentation Storage", "Comprehensive 3D SR Storage", "Secondary Capture Image Storage"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A SEG, a report and a capture."""
    stand_in([{"case": "0123456789", "image": tmp_path / "none"}], tmp_path)
    seg, sr, captures = ALL.paths(tmp_path / "0123456789.nii.gz").values()
    return [seg, sr, *captures.iterdir()]


@contextmanager
def peer_that(says: Callable[[socket.socket], Any]) -> Iterator[Peer]:
    """A peer that takes connections, and does with each what it is told."""
    listener = socket.create_server((LOOPBACK, 0))
    wires: list[socket.socket] = []

    def run() -> None:
        while True:
            try:
                wires.append(listener.accept()[0])
            except OSError:
                return
            threading.Thread(target=says, args=(wires[-1],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield Peer("ARCHIVE", LOOPBACK, int(listener.getsockname()[1]))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for one in (listener, *wires):
            one.close()


def hang(wire: socket.socket) -> None:
    time.sleep(30)


def babble(wire: socket.socket) -> None:
    wire.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)


def hang_up(wire: socket.socket) -> None:
    wire.recv(10)
    wire.close()


@pytest.mark.parametrize("says", [hang, babble, hang_up])
def test_a_peer_that_is_silent_or_talks_nonsense_is_unreachable(says: Any, files: list[Path]) -> None:
    series = pydicom.Dataset()
    series.StudyInstanceUID, series.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    with peer_that(says) as peer:
        with pytest.raises(IntakeError) as caught:
            send(files, "LIVER", peer, timeout_s=0.5)
        assert caught.value.code == "PEER_UNREACHABLE"
        with pytest.raises(IntakeError) as caught:
            stow(files, f"http://{LOOPBACK}:{peer.port}/dicom-web", timeout_s=0.5)
        assert caught.value.code == "PEER_UNREACHABLE"
        assert instances_of(series, "LIVER", [peer], timeout_s=0.5) is None


def test_a_peer_that_stops_in_the_middle_of_an_instance_is_unreachable(files: list[Path]) -> None:
    port, over = free_port(), threading.Event()

    class Slow(dict[str, int]):
        def get(self, *_: Any) -> int:
            over.wait(PATIENCE_S)
            return 0

    with archive(port, Slow()):
        with pytest.raises(IntakeError, match="PEER_UNREACHABLE: the peer stopped answering"):
            send(files, "LIVER", Peer("ARCHIVE", LOOPBACK, port), timeout_s=3.0)  # an association needs 0.01 s
        over.set()


@pytest.mark.parametrize(
    ("answers", "refused"),
    [
        ({"SEG": 0x0122}, {SEG: "status 0x0122"}),
        ({"SR": 0xC123, "OT": 0xA900}, {SR: "status 0xC123", CAPTURE: "status 0xA900"}),
        ({"SEG": 0x0111, "SR": 0xB000}, {}),  # it has it; it has it, with a remark
    ],
)
def test_what_a_peer_will_not_take_keeps_nothing_else_back(
    answers: dict[str, int], refused: dict[str, str], files: list[Path]
) -> None:
    port = free_port()
    with archive(port, answers) as kept:
        assert send(files, "LIVER", Peer("ARCHIVE", LOOPBACK, port)) == refused
    assert {one.Modality for one in kept.values()} == {"SEG", "SR", "OT"} - set(answers)


@pytest.mark.parametrize("answers", [{"": 0x0122}, {"SEG": 0xA700}, {"OT": 0x0110}])
def test_nothing_taken_or_no_room_at_the_moment_is_an_error(answers: dict[str, int], files: list[Path]) -> None:
    port = free_port()
    with archive(port, answers) as kept, pytest.raises(IntakeError) as caught:
        send(files, "LIVER", Peer("ARCHIVE", LOOPBACK, port))
    assert caught.value.code == "PEER_REFUSED" and len(kept) == 3 - (3 if "" in answers else 1)


Answer = Callable[[bytes], tuple[int, str, Any]]


@contextmanager
def web(answer: Answer) -> Iterator[str]:
    """A web server that answers each POST with a status, a type, and JSON or bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, kind, body = answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header("Location", "/login")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()


def listed(tag: str, uid: str, reason: int | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if reason is not None:
        item["00081197"] = {"vr": "US", "Value": [reason]}
    return {tag: {"vr": "SQ", "Value": [item]}}


STORED, FAILED = "00081199", "00081198"
JSON = "application/dicom+json"


def test_stow_takes_for_stored_what_the_answer_lists(files: list[Path]) -> None:
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]

    def answer(body: bytes) -> tuple[int, str, Any]:
        (uid,) = (uid for uid in uids if uid.encode() in body)
        if uid == uids[0]:
            return 409, JSON, listed(FAILED, uid, 0x0122)
        if uid == uids[1]:
            return 200, f"{JSON}; charset=utf-8", listed(STORED, uid)
        return 200, JSON, listed(STORED, "1.2.3")  # another instance

    with web(answer) as url:
        assert stow(files, url) == {SEG: "status 0x0122", CAPTURE: "it is not listed as stored"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((400, "text/plain", b"no"), "PEER_REFUSED"),
        ((401, "text/plain", b"who are you"), "PEER_REFUSED"),
        ((404, "text/html", b"<html>"), "PEER_REFUSED"),
        ((413, "text/plain", b"too long"), "PEER_REFUSED"),
        ((500, "text/plain", b"oops"), "PEER_REFUSED"),
        ((503, "text/plain", b"later"), "PEER_REFUSED"),
        ((200, "text/html", b"<html>welcome</html>"), "PEER_REFUSED"),
        ((200, JSON, b"{"), "PEER_UNREACHABLE"),
        ((200, JSON, []), "PEER_UNREACHABLE"),
        ((302, "text/html", b"log in"), "PEER_UNREACHABLE"),
    ],
)
def test_a_service_that_stores_nothing_is_an_error(answer: tuple[int, str, Any], code: str, files: list[Path]) -> None:
    with web(lambda _: answer) as url, pytest.raises(IntakeError) as caught:
        stow(files, url)
    assert caught.value.code == code and "P1" not in str(caught.value)


@pytest.mark.parametrize("url", ["pacs", "ftp://pacs", "http://", "https://pacs?a=1", "https://me:secret@pacs/web"])
def test_a_url_that_is_none_or_tells_a_password_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="--stow"):
        checked_url(url)
