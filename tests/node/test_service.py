"""A node between a scanner and an archive, both of pynetdicom, with a network that thresholds."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom.sop_class import CTImageStorage

from liver_pipeline.io.clocks import Ages
from liver_pipeline.io.findings import IntakeError, error
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.node.inbox import Inbox, hashed
from liver_pipeline.node.peers import Peer, association
from liver_pipeline.node.sending import send
from liver_pipeline.node.service import Memory, serve, work
from tests.counting import counted
from tests.node.nodes import QUIET_S, RESULTS, Site, archive, kinds, listens, node, scan, segment, stand_in
from tests.ports import LOOPBACK, free_port
from tests.prediction.test_folder_run import CONTEXT
from tests.waiting import PATIENCE_S, wait_for


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not work is tried again at once."""
    monkeypatch.setattr("liver_pipeline.node.groups.FIRST_WAIT_S", 0.3)


def test_many_series_open_the_ledger_once_and_ask_a_silent_archive_once(tmp_path: Path, soon: None) -> None:
    count, asked, silent = 6, [], True

    def takes(files: Any) -> dict[str, str]:
        asked.append(files)
        if silent:
            raise IntakeError("archive", [error("PEER_UNREACHABLE", "it does not answer")])
        return {}

    site = Site(tmp_path, destinations=[takes], quiet_seconds=0.0)
    inbox, memory = Inbox(site.received), Memory(Ages(dict))
    for number in range(count):
        for file in scan(tmp_path / f"ct{number}", number)[:3]:
            inbox.keep(f"1.2.3.4{number}", file.name, file.read_bytes())
    work(site.settings, inbox, memory, stand_in)
    assert (len(asked), len(memory.open)) == (1, count)
    silent = False
    wait_for(lambda: all(group.wait.is_over for group in memory.open))
    with counted(site.masks) as counts:
        work(site.settings, inbox, memory, stand_in)
    assert (len(asked), len(memory.open), len(site.delivered())) == (1 + count, 0, count)
    assert counts[str(site.masks / LEDGER)] <= 2  # to append, and to read


def row(site: Site, name: str) -> dict[str, Any]:
    return read_ledger(site.masks / LEDGER)[0].get(name, {})


def test_a_series_comes_in_and_its_results_go_back_and_nothing_of_the_patient_stays(
    tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("DEBUG", "liver_pipeline.node")
    site = Site(tmp_path)
    files = scan(tmp_path / "ct")
    with archive(site.archive) as kept, node(site, segment):
        site.store(files)
        wait_for(site.delivered)
    assert kinds(kept) == RESULTS
    segment(cases := [{"image": str(tmp_path / "ct"), "case": "x", "root": str(tmp_path)}], tmp_path / "direct")
    seg = next(one for one in kept.values() if one.Modality == "SEG")
    direct = pydicom.dcmread(tmp_path / "direct" / "x.seg.dcm")
    assert cases and seg.PixelData == direct.PixelData and seg.PatientID == "P1"
    assert not list(site.received.iterdir())
    assert site.folder.stat().st_mode & 0o077 == 0
    assert "P1" not in caplog.text and "Doe" not in caplog.text and "1.2.3.4" not in caplog.text


def test_two_series_at_a_time_and_one_that_never_ends_hinder_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, quiet_seconds=3600.0, asks=True)
    endless, stop = scan(tmp_path / "endless", 3), threading.Event()

    def go_on() -> None:
        while not stop.wait(0.3):
            site.store(endless[:1])

    monkeypatch.setattr("liver_pipeline.node.service.EARLY", 7200)
    lengths = {"1.2.3.41": 12, "1.2.3.42": 12, "1.2.3.43": 1000}
    with archive(site.archive, counts=lengths) as kept, node(site):
        thread = threading.Thread(target=go_on)
        thread.start()
        for number in (1, 2):
            site.store(scan(tmp_path / f"ct{number}", number))
        wait_for(lambda: sum(one.Modality == "SR" for one in kept.values()) == 2)
        stop.set()
        thread.join()
    assert not row(site, hashed("1.2.3.43"))


def test_a_second_series_is_received_while_the_first_runs(tmp_path: Path) -> None:
    site = Site(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(cases: list[dict[str, Any]], masks: Path) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        stand_in(cases, masks)

    with archive(site.archive) as kept, node(site, slowly):
        site.store(scan(tmp_path / "first", 1))
        assert begun.wait(PATIENCE_S)
        site.store(scan(tmp_path / "second", 2))  # answered, on disk
        assert len(list((site.received / hashed("1.2.3.42")).iterdir())) == 12
        go_on.set()
        wait_for(lambda: len(site.delivered()) == 2)
    assert sum(one.Modality == "SEG" for one in kept.values()) == 2


def test_a_second_node_on_a_port_or_in_a_folder_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with node(site):
        with pytest.raises(IntakeError) as caught:
            serve(Site(tmp_path / "other", port=site.port).settings, stand_in, lambda _: True)
        assert caught.value.code == "PORT_TAKEN"
        with pytest.raises(ValueError, match="another node works in"):
            serve(Site(tmp_path).settings, stand_in, lambda _: True)


def test_results_wait_for_an_archive_that_is_silent_or_has_no_room(
    tmp_path: Path, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    with node(site):
        site.store(scan(tmp_path / "ct"))
        wait_for(lambda: "PEER_UNREACHABLE" in caplog.text)
        with archive(site.archive, {"": 0xA700}):
            wait_for(lambda: "PEER_REFUSED" in caplog.text)
        assert len(list(site.received.glob("*/*.dcm"))) == 12
        with archive(site.archive) as kept:
            wait_for(lambda: len(kinds(kept)) == 3)


def test_an_archive_that_takes_no_segmentation_gets_report_and_captures_and_the_row_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    with archive(site.archive, {"SEG": 0x0122}) as kept, node(site):  # SOP class not supported
        site.store(scan(tmp_path / "ct"))
        wait_for(site.delivered)
    assert kinds(kept) == ["OT", "SR"]
    told = row(site, hashed("1.2.3.40"))
    assert told["event"] == "done"
    assert told["delivery"] == {"code": "PEER_REFUSED", "refused": {"Segmentation Storage": "status 0x0122"}}
    assert "PEER_REFUSED: Segmentation Storage: status 0x0122" in caplog.text


def test_who_has_the_results_gets_them_once_while_another_destination_is_silent(tmp_path: Path, soon: None) -> None:
    sent: list[int] = []
    tries: list[int] = []

    def takes(files: Any) -> dict[str, str]:
        sent.append(len(files))
        return {}

    def silent_twice(files: Any) -> dict[str, str]:
        tries.append(len(files))
        if len(tries) < 3:
            raise TimeoutError
        return {}

    site = Site(tmp_path, destinations=[silent_twice, takes])
    with node(site):
        site.store(scan(tmp_path / "ct"))
        wait_for(site.delivered)
    assert len(sent) == 1 and len(tries) == 3


def test_results_of_fewer_slices_are_not_sent_for_a_series_that_grew(tmp_path: Path, soon: None) -> None:
    site = Site(tmp_path)
    files, sent, tries = scan(tmp_path / "ct"), [], []
    full, grown = threading.Event(), threading.Event()

    def on_a_disk(cases: list[dict[str, Any]], masks: Path) -> None:
        if full.is_set():
            tries.append(len(cases))
            raise OSError(errno.ENOSPC, "No space left on device")
        stand_in(cases, masks)

    def takes(results: Any) -> dict[str, str]:
        sent.append(len(list(site.received.glob("*/*.dcm"))))
        if len(sent) == 1:
            assert grown.wait(PATIENCE_S)
            raise TimeoutError
        return {}

    site = Site(tmp_path, port=site.port, destinations=[takes])
    with node(site, on_a_disk):
        site.store(files[:8])
        wait_for(lambda: sent)
        full.set()
        site.store(files[8:])
        grown.set()
        wait_for(lambda: len(tries) >= 2)
        assert sent == [8]  # the row says that the case is done: the one of 8 slices
        full.clear()
        wait_for(site.delivered)
    assert sent == [8, 12]


def run_node(folder: Path, ports: tuple[int, int]) -> None:
    site = Site(folder, port=ports[0], archive=ports[1])
    site.serve(segment, threading.Event())


@pytest.mark.parametrize("moment", ["receiving", pytest.param("masks", marks=pytest.mark.slow), "sending"])
def test_a_killed_node_goes_on_where_it_was(tmp_path: Path, moment: str) -> None:
    site = Site(tmp_path)
    files = scan(tmp_path / "ct")
    process = CONTEXT.Process(target=run_node, args=(tmp_path, (site.port, site.archive)))
    process.start()
    wait_for(lambda: listens(site.port))

    def kill() -> None:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(PATIENCE_S)

    half: dict[str, Any] = {}
    if moment == "receiving":
        peer = Peer("LIVER", LOOPBACK, site.port)
        with site.sending(), association("SCANNER", peer, [(CTImageStorage, None)], None, PATIENCE_S) as opened:
            for file in files[:7]:
                assert opened.send_c_store(file).Status == 0  # answered with success: on disk
            kill()
            opened.acse_timeout = 1.0  # nobody answers the goodbye
        assert len(list(site.received.glob("*/*.dcm"))) == 7
    else:
        site.store(files)
        if moment == "masks":
            wait_for(lambda: list(site.masks.glob("*.nii.gz")))
        else:
            with archive(site.archive, {"SR": 0xA700}) as half:  # part of the results has arrived
                wait_for(lambda: "SEG" in kinds(half))
        kill()
        assert len(list(site.received.glob("*/*.dcm"))) == 12
    with archive(site.archive) as kept, node(site, segment):
        if moment == "receiving":
            site.store(files[7:])  # what was not answered the sender has still
        wait_for(site.delivered)
    assert kinds(kept) == RESULTS
    assert set(half) <= set(kept)  # the same instances again


def test_stragglers_of_a_series_that_was_delivered_are_no_series(tmp_path: Path) -> None:
    site = Site(tmp_path)
    files = scan(tmp_path / "ct")
    with archive(site.archive) as kept, node(site):
        site.store(files)
        wait_for(site.delivered)
        count = len(kept)
        site.store(files[:6])
        time.sleep(3 * QUIET_S)
        assert len(kept) == count
        site.store(files)  # the whole again: the same results, under the same UIDs
        wait_for(lambda: not list(site.received.iterdir()))
    assert len(kept) == count


def test_what_is_older_than_the_node_keeps_goes(tmp_path: Path) -> None:
    site = Site(tmp_path, keep_hours=1.0, quiet_seconds=1e6)
    users = [site.received / "patients" / "a.dcm", site.masks / "a.nii.gz", site.masks / "old" / "b.nii.gz"]
    for path in users:  # the folder was used for something else before
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
        os.utime(path.parent, (0, 0))
    with node(site):
        site.store(scan(tmp_path / "ct"))
        (series,) = [path for path in site.received.iterdir() if path.name != "patients"]
    os.utime(series, (0, time.time() - 3700))
    with node(site):
        wait_for(lambda: not series.exists())
    assert [path.read_text() for path in users] == ["mine"] * 3


def test_nothing_goes_early_when_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, keep_hours=0.1, quiet_seconds=1e6)
    clock = time.time
    with node(site):
        site.store(scan(tmp_path / "ct"))
        monkeypatch.setattr(time, "time", lambda: clock() + 5 * 3600)
        (series,) = site.received.iterdir()
        time.sleep(2.5)  # the node works each second
        assert series.exists()


def test_a_series_is_complete_as_soon_as_its_sender_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liver_pipeline.node.service.EARLY", 7200)
    site = Site(tmp_path, quiet_seconds=3600.0, asks=True)
    with archive(site.archive, counts={"1.2.3.40": 12}) as kept, node(site):
        site.store(scan(tmp_path / "ct"))
        wait_for(site.delivered)
    assert kinds(kept) == RESULTS


def test_a_series_of_which_slices_are_missing_is_told_and_not_segmented_until_they_came(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, asks=True)
    files = scan(tmp_path / "ct")
    with archive(site.archive, counts={"1.2.3.40": 12}) as kept, node(site):
        site.store(files[:9])
        wait_for(lambda: "SERIES_INCOMPLETE" in caplog.text)
        told = row(site, hashed("1.2.3.40"))
        assert (told["event"], told["code"]) == ("failed", "SERIES_INCOMPLETE")
        assert "9 of 12" in told["detail"] and not kept
        site.store(files[9:])
        wait_for(site.delivered)
    assert kinds(kept) == RESULTS and row(site, hashed("1.2.3.40"))["event"] == "done"


@pytest.mark.parametrize("answer", ["unknown", "no number", "nobody"])
def test_quiet_counts_where_the_sender_does_not_say_how_long_a_series_is(tmp_path: Path, answer: str) -> None:
    port = free_port()
    site = Site(tmp_path, asks=True, destinations=[partial(send, title="LIVER", peer=Peer("ARCHIVE", LOOPBACK, port))])
    asked = free_port() if answer == "nobody" else site.archive
    with archive(asked, counts={"1.2.3.40": ""} if answer == "no number" else {}), archive(port) as kept, node(site):
        site.store(scan(tmp_path / "ct"))
        wait_for(site.delivered)
    assert kinds(kept) == RESULTS


def test_of_a_study_the_series_that_is_asked_for_is_segmented_when_all_of_them_are_there(tmp_path: Path) -> None:
    site = Site(tmp_path, series="thinnest")
    with archive(site.archive) as kept, node(site):
        with site.sending():
            site.store(thick(tmp_path / "thick", 1))
            site.store(scan(tmp_path / "thin", 2))
            site.store(thick(tmp_path / "other", 3, study="1.2.9"))  # the only one of its study
        wait_for(lambda: len(site.delivered()) == 3)
        wait_for(lambda: not list(site.received.iterdir()))
    assert {one.SeriesDescription for one in kept.values()} == {hashed("1.2.3.42"), hashed("1.2.3.43")}


def test_nothing_is_sent_of_a_study_without_the_series_that_is_named(tmp_path: Path) -> None:
    site = Site(tmp_path, series="1.2.3.42")
    with archive(site.archive) as kept, node(site):
        site.store(scan(tmp_path / "ct", 1))
        wait_for(site.delivered)
        assert not kept
        site.store(scan(tmp_path / "named", 2))
        wait_for(lambda: kinds(kept) == RESULTS)


def thick(folder: Path, number: int, study: str = "1.2.3") -> list[Path]:
    """Slices of a series, twice as far apart."""
    for file in scan(folder, number, StudyInstanceUID=study):
        one = pydicom.dcmread(file)
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y, 2 * float(z)]
        one.save_as(file)
    return sorted(folder.iterdir())
