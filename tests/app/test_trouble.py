"""What may be in the way of the app: a full disk, a closed tab, no browser; and who is let in from other machines."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from liver_pipeline.app.access import LOOPBACK
from liver_pipeline.app.cases import ENDED, STARTED, UPLOADING, CaseFolder
from liver_pipeline.commands import app as app_command
from tests.app.conftest import RUN, RunningApp, app_at, ask, finished
from tests.waiting import PATIENCE_S, wait_for


@contextmanager
def full_disk(app: RunningApp, size: int) -> Iterator[None]:
    """Let no file of the app grow over ``size`` bytes: to whoever writes, that is a disk without space."""
    before = resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, before)


def files_of(app: RunningApp, case: str) -> list[str]:
    return sorted(path.name for path in (app.work / "uploads" / case).rglob("*") if path.is_file())


def test_a_disk_that_is_full_in_the_middle_of_an_upload_is_said_and_loses_nothing(app: RunningApp, scans: Path) -> None:
    there = ask(app, "POST", f"/api/cases?name=there&{RUN}")[1]["id"]
    ask(app, "PUT", f"/api/cases/{there}/scan/a.nii.gz", (scans / "Doe.nii.gz").read_bytes())
    before = files_of(app, there)
    folders = set((app.work / "uploads").iterdir())
    with full_disk(app, 100_000):
        status, told = ask(app, "PUT", f"/api/cases/{there}/scan/b.dcm", bytes(1 << 20))
        assert (status, told["code"]) == (507, "DISK_FULL") and "space" in told["detail"]
        assert ask(app, "POST", f"/api/cases?name=whole.nii&{RUN}", bytes(1 << 20))[1]["code"] == "DISK_FULL"
    assert files_of(app, there) == before and set((app.work / "uploads").iterdir()) == folders
    with full_disk(app, 0):
        body = '{"verdict": "accept", "note": ""}'
        told = ask(app, "PUT", f"/api/cases/{there}/verdict", body, Content_Type="application/json")[1]
        assert told["code"] == "DISK_FULL"
        assert ask(app, "POST", f"/api/cases?name=new&{RUN}")[1]["code"] == "DISK_FULL"
    assert set((app.work / "uploads").iterdir()) == folders
    ask(app, "POST", f"/api/cases/{there}/start")
    assert finished(app, there)["state"] == "done"


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_case_ends_is_said_and_the_next_start_takes_it_up(
    runs: Path, scans: Path, tmp_path: Path
) -> None:
    with app_at(tmp_path / "work", runs) as app:
        case = ask(app, "POST", f"/api/cases?name=a&{RUN}")[1]["id"]
        ask(app, "PUT", f"/api/cases/{case}/scan/a.nii.gz", (scans / "Doe.nii.gz").read_bytes())
        ask(app, "POST", f"/api/cases/{case}/start")
        with full_disk(app, 0):  # of the app; its worker inherits it if it is begun after
            row = finished(app, case)
        assert (row["state"], row["code"]) == ("failed", "DISK_FULL")
    with app_at(tmp_path / "work", runs) as app:
        assert finished(app, case)["state"] == "done"


def test_an_upload_that_breaks_off_is_not_kept(app: RunningApp) -> None:
    case = ask(app, "POST", f"/api/cases?name=broken&{RUN}")[1]["id"]
    host, port = app.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PUT /api/cases/{case}/scan/a.nii HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n"
        connection.sendall(f"{head}Authorization: Bearer {app.token}\r\n\r\n".encode() + bytes(1000))
        folder = app.work / "uploads" / case / "scan"
        wait_for(lambda: folder.exists() and any(folder.iterdir()))  # it has begun
    wait_for(lambda: not any(folder.iterdir()))


def test_uploads_that_nobody_goes_on_with_are_dropped_and_what_was_started_stays(tmp_path: Path) -> None:
    cases = CaseFolder(tmp_path)
    kept = {state: cases.create(state, "default") for state in (UPLOADING, STARTED, ENDED)}
    for state, case in kept.items():
        cases.amend(case, state=state)
        (cases.folder(case, "scan") / "scan-00001.nii").touch()
    (cases.uploads / "patients").mkdir()  # --work named a folder that had uploads/ of its own
    for name in ("patients/scan.nii", ".DS_Store"):
        (cases.uploads / name).write_text("mine")
    cases.drop_abandoned(3600)
    assert sorted(cases.ids()) == sorted(kept.values())
    an_hour_ago = time.time() - 3700
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, (an_hour_ago, an_hour_ago))
    (cases.uploads / kept[UPLOADING] / "scan" / "scan-00001.nii").touch()  # bytes have just come
    cases.drop_abandoned(3600)
    assert sorted(cases.ids()) == sorted(kept.values())
    cases.drop_abandoned(0.0)  # a new start
    assert sorted(cases.ids()) == sorted([kept[STARTED], kept[ENDED]]) and cases.unfinished() == [kept[STARTED]]
    assert (cases.uploads / "patients/scan.nii").read_text() == (cases.uploads / ".DS_Store").read_text() == "mine"


def test_an_upload_at_work_is_kept_when_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = CaseFolder(tmp_path)
    cases.drop_abandoned(0.0)  # the app starts
    coming = cases.create("scan", "default")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 5 * 3600)
    cases.drop_abandoned(3600)
    assert cases.ids() == [coming]


@pytest.mark.parametrize("opens", [True, False], ids=["a browser that fails", "no screen"])
def test_without_a_browser_or_a_screen_the_address_is_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], opens: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if opens:
        monkeypatch.setenv("DISPLAY", ":0")
    app_command._open_browser("http://127.0.0.1:1/")
    assert asked == (["http://127.0.0.1:1/"] if opens else [])  # a browser of text would take the terminal
    assert "open the address in yours" in capsys.readouterr().out


def test_another_host_lets_in_its_own_name_and_tunnels_with_the_token_and_warns(runs: Path, tmp_path: Path) -> None:
    with app_at(tmp_path / "work", runs, "--host", "127.0.0.2") as app:
        assert "nothing is encrypted" in app.log.read_text()
        port = app.address.rpartition(":")[2]
        for host in (f"127.0.0.2:{port}", f"localhost:{port}", "localhost:9999", "127.0.0.1:9999"):  # ends of a tunnel
            assert ask(app, "GET", "/api/cases", Host=host)[0] == 200
            assert ask(app, "GET", "/api/cases", Host=host, Authorization="")[0] == 401
            assert ask(app, "POST", f"/api/cases?{RUN}", Host=host, Origin=f"http://{host}")[0] == 201
            assert ask(app, "POST", f"/api/cases?{RUN}", Host=host, Origin="http://evil.example")[0] == 403
        assert ask(app, "GET", "/api/data")[1]["code"] == "NO_DATA"  # it was started without
        assert ask(app, "POST", f"/api/cases?source=a/Doe.nii.gz&{RUN}")[0] == 400
        for host in ("evil.example", f"127.0.0.3:{port}", socket.gethostname(), "localhost.evil.example", ""):
            assert ask(app, "GET", "/api/cases", Host=host)[1]["code"] == "FOREIGN_HOST"


def test_every_address_means_the_names_of_this_machine() -> None:
    assert app_command._names_of("192.168.7.1") == ["192.168.7.1"] and app_command._names_of("::1") == ["[::1]"]
    assert socket.gethostname() in app_command._names_of("0.0.0.0")
    assert not {*LOOPBACK} - {"127.0.0.1", "localhost", "[::1]"}


@pytest.mark.browser
def test_a_tab_that_is_closed_while_it_sends_takes_its_case_along(app: RunningApp, scans: Path) -> None:
    from tests.browser import browser_page

    def cases() -> set[str]:
        return {row["id"] for row in ask(app, "GET", "/api/cases")[1]}

    with browser_page(webgl=False) as page:
        page.goto(app.link)
        page.wait_for_selector("#run option", state="attached")
        page.on("dialog", lambda dialog: dialog.accept())
        page.route("**/scan/*", lambda route: None)  # the file is on its way, and never arrives
        with page.expect_request("**/scan/*", timeout=1000 * PATIENCE_S):  # only now the page knows its case
            page.set_input_files("#files", scans / "Doe.nii.gz")
        assert cases()
        page.goto("about:blank")
        wait_for(lambda: not cases())
