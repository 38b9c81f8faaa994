"""The app over HTTP, as curl sees it: a case from upload to mask, and all that must not get in."""

from __future__ import annotations

import asyncio
import errno
import gzip
import http.client
import io
import json
import multiprocessing
import os
import signal
import socket
import stat
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import nibabel as nib
import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from liver_pipeline.app import uploads
from liver_pipeline.app.cases import ENDED
from liver_pipeline.app.runs import Model, run_choices
from liver_pipeline.app.uploads import Refusal, refuse_bomb, store, stored_name
from liver_pipeline.app.worker import STAGES, _segment
from liver_pipeline.commands.app import run_app
from liver_pipeline.io.discovery import ScanInput
from tests.app.conftest import RUN, RunningApp, app_at, ask, finished, row_of
from tests.waiting import wait_for


def test_a_case_from_upload_to_mask_figures_page_verdict_and_away(app: RunningApp, scans: Path) -> None:
    status, runs = ask(app, "GET", "/api/runs")
    assert status == 200 and {"threshold", "deeper/flat"} <= set(runs)
    status, row = ask(app, "POST", f"/api/cases?name=Doe&{RUN}")
    assert (status, row["state"]) == (201, "uploading")
    at = f"/api/cases/{row['id']}"
    assert ask(app, "POST", f"{at}/start")[1]["code"] == "NO_SCANS"
    assert ask(app, "PUT", f"{at}/scan/Doe.nii.gz", (scans / "Doe.nii.gz").read_bytes())[0] == 201
    assert ask(app, "PUT", f"{at}/reference/r.nii.gz", (scans / "Doe-reference.nii.gz").read_bytes())[0] == 201
    assert ask(app, "POST", f"{at}/start")[1]["state"] in ("waiting", "running")
    row = finished(app, row["id"])
    assert row["state"] == "done", row
    voxel_ml = 0.512
    assert row["liver_ml"] == pytest.approx(10 * 18 * 16 * voxel_ml) and row["lesions"] == 1
    assert row["tumor_ml"] == pytest.approx(4 * 4 * 4 * voxel_ml) and row["burden"] == pytest.approx(64 / 2880)
    assert row["scores"]["liver_dice"] == 1.0 and row["scores"]["tumor_iou"] == 1.0

    mask = nib.Nifti1Image.from_bytes(gzip.decompress(ask(app, "GET", f"{at}/mask.nii.gz")[1]))
    np.testing.assert_array_equal(np.asarray(mask.dataobj), nib.load(scans / "Doe-reference.nii.gz").dataobj)
    assert b"volume-reference" in ask(app, "GET", f"{at}/page.html")[1]
    assert ask(app, "GET", f"{at}/record.json")[1]["input"]["path"] == "scan-00001.nii.gz"  # names can name a patient

    assert ask(app, "PUT", f"{at}/verdict", '{"verdict": "perhaps"}', Content_Type="application/json")[0] == 422
    body = json.dumps({"verdict": "reject", "note": "=1+1"})
    assert ask(app, "PUT", f"{at}/verdict", body, Content_Type="application/json")[1]["verdict"] == "reject"
    lines = ask(app, "GET", "/api/cases.csv")[1].decode().splitlines()
    assert lines[0].startswith("id,name,run,state") and lines[1].endswith("reject,'=1+1")

    folder = app.work / "uploads" / row["id"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert ask(app, "DELETE", at)[0] == 204 and not folder.exists()
    assert not list(app.work.glob(f"masks/{row['id']}*")) and ask(app, "GET", at)[0] == 404


def test_a_scan_that_cannot_be_used_is_a_row_with_its_code(app: RunningApp, scans: Path) -> None:
    status, row = ask(app, "POST", f"/api/cases?name=a.nii.gz&{RUN}", (scans / "Doe.nii.gz").read_bytes()[:-100])
    assert status == 201
    row = finished(app, row["id"])
    assert row["state"] == "failed" and row["code"] in ("GZIP_CRC", "TRUNCATED")
    assert ask(app, "GET", f"/api/cases/{row['id']}/mask.nii.gz")[0] == 404


def test_a_reference_on_another_grid_costs_the_scores_alone(app: RunningApp, scans: Path, tmp_path: Path) -> None:
    case = ask(app, "POST", f"/api/cases?name=b&{RUN}")[1]["id"]
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    for part, path in (("scan", scans / "Roe.nii.gz"), ("reference", tmp_path / "other.nii.gz")):
        ask(app, "PUT", f"/api/cases/{case}/{part}/{path.name}", path.read_bytes())
    ask(app, "POST", f"/api/cases/{case}/start")
    row = finished(app, case)
    assert row["state"] == "done" and row["lesions"] == 2 and "LABEL_GRID_MISMATCH" in row["scores"]["error"]


def test_a_2d_run_from_deeper_below_makes_the_same_mask(app: RunningApp, scans: Path) -> None:
    content = (scans / "Roe.nii.gz").read_bytes()
    masks = []
    for run in ("threshold", "deeper/flat"):
        row = finished(app, ask(app, "POST", f"/api/cases?name=a.nii.gz&run={run}", content)[1]["id"])
        assert row["state"] == "done", row
        masks.append(
            nib.Nifti1Image.from_bytes(gzip.decompress(ask(app, "GET", f"/api/cases/{row['id']}/mask.nii.gz")[1]))
        )
    np.testing.assert_array_equal(masks[0].dataobj, masks[1].dataobj)
    assert ask(app, "POST", "/api/cases?run=../elsewhere")[1]["code"] == "NO_SUCH_RUN"


def test_runs_are_found_below_and_parts_of_a_run_are_none(tmp_path: Path) -> None:
    for name in ("a", "a/liver", "b/c", "folds/fold0", "folds/fold1", "half/fold0", ".hidden"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models" / "model.pt").touch()
    for name in ("half/fold1/configs", "begun/configs"):
        (tmp_path / name).mkdir(parents=True)
    in_the_box = {"default": ("default", None), "default modality=mr": ("default", "mr")}
    assert run_choices(None) == in_the_box
    assert list(run_choices(tmp_path)) == [*in_the_box, "a", "b/c", "folds", "half/fold0"]


def test_a_scan_is_read_as_the_modality_that_was_chosen(runs: Path, scans: Path, tmp_path: Path) -> None:
    told, pipe = multiprocessing.Pipe()
    segmenters: dict[Model, Any] = {}
    for case, modality in (("as_mr", "mr"), ("as_it_is", None)):
        choice, scan = Model(str(runs / "threshold"), modality), ScanInput(scans / "Doe.nii.gz", case)
        assert _segment(pipe, segmenters, choice, scan, None, tmp_path).state == ENDED
        assert list(segmenters) == [choice]
        record = json.loads((tmp_path / f"{case}.json").read_text())
        assert record["config"]["settings"]["reader"]["modality"] == (modality or "ct")
    told.close()
    pipe.close()


def test_nobody_gets_in_without_token_name_and_origin(app: RunningApp) -> None:
    port = urlsplit(app.address).port
    for path in ("/", "/api/cases", "/openapi.json", "/app.js"):
        assert ask(app, "GET", path, Authorization="Bearer wrong")[0] == 401
        assert ask(app, "GET", path, Authorization="")[0] == 401
        assert ask(app, "GET", path)[0] == 200
    assert ask(app, "GET", "/api/cases", Host="evil.example")[1]["code"] == "FOREIGN_HOST"
    assert ask(app, "GET", "/api/cases", Host=f"localhost:{port}")[0] == 200
    assert ask(app, "POST", f"/api/cases?{RUN}", Origin="http://evil.example")[1]["code"] == "FOREIGN_ORIGIN"
    connection = http.client.HTTPConnection(f"127.0.0.1:{port}")
    connection.request("GET", f"/?token={app.token}")
    cookie = connection.getresponse().headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert ask(app, "GET", "/api/cases", Authorization="", Cookie=cookie.partition(";")[0])[0] == 200


def test_paths_lead_nowhere_else(app: RunningApp) -> None:
    case = ask(app, "POST", f"/api/cases?name=c&{RUN}")[1]["id"]
    for name in ("../../x", "..", ".hidden", "/etc/passwd", "a\\..\\b", "x\x00y", "n" * 300):
        status, told = ask(app, "PUT", f"/api/cases/{case}/scan/{quote(name, safe='')}", b"x")
        assert status in (400, 404, 405), (name, status, told)
    for path in (
        "/api/cases/..",
        "/api/cases/%2e%2e%2f%2e%2e",
        f"/api/cases/{case}/..%2fcase.json",
        "/../../etc/passwd",
    ):
        assert ask(app, "GET", path)[0] in (404, 405, 422)
        assert ask(app, "DELETE", path)[0] in (404, 405, 422)
    assert ask(app, "POST", f"/api/cases?source=/etc/passwd&{RUN}")[0] == 400
    assert [path.name for path in (app.work / "uploads" / case / "scan").iterdir()] == []


def test_sizes_are_limited_before_the_disk_is_full(app: RunningApp) -> None:
    case = ask(app, "POST", f"/api/cases?name=d&{RUN}")[1]["id"]
    status, told = ask(app, "PUT", f"/api/cases/{case}/scan/a.nii", b"", Content_Length=str(5 << 30))
    assert (status, told["code"]) == (413, "TOO_LARGE")


@pytest.mark.parametrize(
    ("reason", "code"), [(OSError(errno.ENOSPC, "full"), "DISK_FULL"), (ClientDisconnect(), "UPLOAD_BROKEN")]
)
def test_a_full_disk_or_a_closed_tab_in_the_middle_leaves_nothing(tmp_path: Path, reason: Exception, code: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise reason

    with pytest.raises(Refusal) as refused:
        asyncio.run(store(tmp_path, "a.nii", chunks(), None))
    assert refused.value.code == code and list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_and_a_folder_that_is_not_there_are_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="Choose another --port"):
            run_app(port=taken.getsockname()[1], browser=False, work=tmp_path / "work")
    with pytest.raises(ValueError, match=r"--data .* no such folder"):
        run_app(port=0, browser=False, work=tmp_path / "work", data=tmp_path / "nowhere")


def test_zips_that_are_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "a.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1 << 20))
    refuse_bomb(bomb)
    monkeypatch.setattr(uploads, "MAX_UNPACKED", 1000)
    with pytest.raises(Refusal, match="unzips to more than"):
        refuse_bomb(bomb)
    monkeypatch.undo()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../a", b"")
    bomb.write_bytes(content.getvalue())
    with pytest.raises(Refusal, match="lead out"):
        refuse_bomb(bomb)
    monkeypatch.setattr(uploads, "MAX_FILES_A_CASE", 0)
    with pytest.raises(Refusal, match="more than 0 files"):
        refuse_bomb(bomb)
    bomb.write_bytes(content.getvalue()[:-1])
    with pytest.raises(Refusal, match=r"not taken: .*copy the zip again"):
        refuse_bomb(bomb)


def test_names_on_disk_name_no_patient_unless_files_name_each_other() -> None:
    assert stored_name("Doe^Jane/IM1", 3) == "scan-00003"
    assert stored_name("Doe^Jane.mhd", 1) == "Doe^Jane.mhd"


def test_a_picture_is_refused_with_what_takes_it() -> None:
    with pytest.raises(Refusal, match=r"predict RUN slice\.png mask\.png") as refused:
        stored_name("slices/A.PNG", 1)
    assert refused.value.code == "PICTURE"


def test_a_crash_is_a_row_a_restart_finds_its_cases_and_two_apps_do_not_share_a_folder(
    runs: Path, scans: Path, tmp_path: Path
) -> None:
    scan = (scans / "Doe.nii.gz").read_bytes()
    with app_at(tmp_path / "work", runs) as app:
        first = ask(app, "POST", f"/api/cases?name=one.nii.gz&{RUN}", scan)[1]["id"]
        os.kill(worker_of(app), signal.SIGKILL)
        row = finished(app, first)
        assert (row["state"], row["code"]) == ("failed", "PREDICT_FAILED") and "signal 9" in row["detail"]
        second = ask(app, "POST", f"/api/cases?name=two.nii.gz&{RUN}", scan)[1]["id"]
        with pytest.raises(ValueError, match="another app works in"):
            run_app(port=0, browser=False, work=tmp_path / "work")
    with app_at(tmp_path / "work", runs) as app:  # ended in the middle of the second
        assert finished(app, second)["state"] == "done"
        assert [row["state"] for row in ask(app, "GET", "/api/cases")[1]] == ["failed", "done"]
        assert ask(app, "POST", f"/api/cases/{first}/start")[1]["state"] in ("waiting", "running")
        assert finished(app, first)["state"] == "done"


def worker_of(app: RunningApp) -> int:
    """Return the process that segments: a child whose command spawns from multiprocessing."""

    def found() -> int | None:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                if parent == app.process.pid and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                    return int(path.parent.name)
        return None

    return wait_for(found)


def test_per_cent_follow_the_windows_and_cancelling_leaves_nothing_behind(
    app: RunningApp, runs: Path, scans: Path
) -> None:
    scan = (scans / "Doe.nii.gz").read_bytes()
    (runs / "gate").write_text("0")
    running = ask(app, "POST", "/api/cases?name=one.nii.gz&run=gated", scan)[1]["id"]
    queued = ask(app, "POST", f"/api/cases?name=next.nii.gz&{RUN}", scan)[1]["id"]
    assert row_of(app, queued)["stage"] == "1 before it"
    told = ask(app, "POST", f"/api/cases/{queued}/cancel")[1]
    assert told["state"] == "cancelled"
    seen: list[int] = [STAGES["preprocess"][1]]
    for windows in (2, 5, 8):
        (runs / "gate").write_text(str(windows))
        row = wait_for(lambda: one if (one := row_of(app, running))["percent"] > seen[-1] else None)
        assert row["state"] == "running" and row["stage"] == "segmenting"
        seen.append(row["percent"])
    assert seen[-1] < STAGES["network"][1]

    told = ask(app, "POST", f"/api/cases/{running}/cancel")[1]
    assert told["state"] == "cancelled" and told["results"] == []
    assert [path.name for path in app.work.glob("masks/*") if path.name.startswith((running, ".liver-pipeline"))] == []
    assert ask(app, "POST", f"/api/cases/{running}/cancel")[1]["code"] == "NOT_RUNNING"
    assert ask(app, "POST", f"/api/cases/{queued}/start")[1]["state"] in ("waiting", "running")
    assert finished(app, queued)["state"] == "done"
    assert ask(app, "POST", f"/api/cases/{queued}/cancel")[1]["code"] == "NOT_RUNNING"
    assert finished(app, queued)["liver_ml"] > 0  # a case that is done stays so
