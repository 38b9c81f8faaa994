"""The app over HTTP: the same for the page in the browser and for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from liver_pipeline.app.access import Guard
from liver_pipeline.app.cases import CANCELLED, UPLOADING, CaseFolder, NoSuchCase
from liver_pipeline.app.downloads import (
    DICOM,
    DOWNLOADS,
    EVERYTHING,
    OF_THE_MASK_NOW,
    attachment,
    download,
    downloads_of,
)
from liver_pipeline.app.edit_routes import add_edits, require_measured
from liver_pipeline.app.runs import run_choices
from liver_pipeline.app.supervisor import Supervisor
from liver_pipeline.app.uploads import MAX_CASES, NO_SPACE, Refusal, refuse_bomb, store
from liver_pipeline.io.files import DISK_FULL, printable, remove

PAGE_POLICY = "default-src 'self'; img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'"
ASSETS = {
    "app.html": "text/html", "app.css": "text/css", "app.js": "text/javascript", "archive.js": "text/javascript",
    "correct.js": "text/javascript",
}  # fmt: skip
ABANDONED_SECONDS = 3600.0  # without a byte: whoever sent it has gone
CASE_COLUMNS = (
    "id", "name", "run", "state", "code", "liver_ml", "tumor_ml", "lesions", "largest_mm", "burden", "quality", "flags",
    "edited", "verdict", "note",
)  # fmt: skip
Download = Annotated[str, PathParameter(json_schema_extra={"enum": [*DOWNLOADS, EVERYTHING]})]


class Verdict(BaseModel):
    """What a person says of a mask."""

    verdict: Literal["", "accept", "reject"] = ""
    note: Annotated[str, Field(max_length=2000)] = ""


def make_app(
    cases: CaseFolder, supervisor: Supervisor, *, token: str, hosts: list[str], cookie: str, runs: Path | None = None
) -> Guard:
    """Return the app, behind its guard.

    Args:
        cases: Where they lie.
        supervisor: Of the worker; started and stopped with the app.
        token: See :class:`~liver_pipeline.app.access.Guard`.
        hosts: See there.
        cookie: See there.
        runs: Run folders below it can be chosen; the weights in the box always can.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        supervisor.start()
        yield
        supervisor.stop()

    app = FastAPI(
        title="liver-pipeline", version=version("liver-pipeline"), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(NoSuchCase, _unknown)
    app.add_exception_handler(OSError, _unwritten)
    _add_pages(app)
    _add_cases(app, cases, supervisor, lambda: run_choices(runs))
    _add_results(app, cases)
    return Guard(app, token, hosts, cookie)


async def _refused(_: Request, reason: Exception) -> Response:
    assert isinstance(reason, Refusal)
    return JSONResponse({"code": reason.code, "detail": str(reason)}, reason.status)


async def _unknown(_: Request, __: Exception) -> Response:
    return JSONResponse({"code": "NOT_FOUND", "detail": "there is no such case"}, 404)


async def _unwritten(_: Request, reason: Exception) -> Response:
    """Say that the disk is full; whatever else goes wrong with files is a fault of the app."""
    if not isinstance(reason, OSError) or reason.errno not in DISK_FULL:
        raise reason
    return JSONResponse({"code": "DISK_FULL", "detail": NO_SPACE}, 507)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _asset("app.html")

    @app.get("/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise Refusal(404, "NOT_FOUND", "there is no such page")
        return _asset(name)


def _asset(name: str) -> Response:
    text = files("liver_pipeline").joinpath("app", "web", name).read_text(encoding="utf-8")
    return Response(text, media_type=ASSETS[name], headers={"Content-Security-Policy": PAGE_POLICY})


def _add_cases(app: FastAPI, cases: CaseFolder, supervisor: Supervisor, choices: Callable[[], dict[str, str]]) -> None:
    def start(case: str) -> dict[str, Any]:
        if row(case)["state"] not in (UPLOADING, CANCELLED, "failed"):
            raise Refusal(409, "STARTED", "the case was started before")
        scan = cases.scan(case)
        if scan is None:
            raise Refusal(409, "NO_SCANS", "nothing was uploaded for the case")
        for path in (scan.path, cases.reference(case)):
            refuse_bomb(path)
        supervisor.submit(case)
        return row(case)

    def rows(wanted: list[str]) -> list[dict[str, Any]]:
        running, ledger = supervisor.running(), cases.ledger()
        return [{**cases.row(case, ledger, running), "results": downloads_of(cases, case)} for case in wanted]

    def row(case: str) -> dict[str, Any]:
        return rows([case])[0]

    @app.get("/api/runs")
    def runs() -> list[str]:
        """List the runs that can be chosen; the first is taken where none is named."""
        return list(choices())

    @app.get("/api/data")
    def look_at_data(path: Annotated[str, Query(max_length=1000)] = "") -> dict[str, Any]:
        """List the folders and scans in a folder below --data; ``is_series`` says that the folder itself is a scan."""
        if cases.data is None:
            raise Refusal(404, "NO_DATA", "the app was started without --data")
        try:
            return cases.data.look(path)
        except ValueError as reason:
            raise Refusal(404, "NOT_FOUND", str(reason)) from None

    @app.get("/api/cases")
    def list_cases() -> list[dict[str, Any]]:
        """List all cases, the oldest first."""
        return rows(cases.ids())

    @app.post("/api/cases", status_code=201)
    async def create_case(
        request: Request,
        name: Annotated[
            str, Query(max_length=200, description="what to call it; a file's name where one is sent")
        ] = "",
        run: Annotated[str, Query(max_length=200)] = "",
        source: Annotated[str | None, Query(max_length=1000, description="a path below --data instead")] = None,
        wait: Annotated[
            bool, Query(description="for its start, although there is a scan: a reference follows")
        ] = False,
    ) -> dict[str, Any]:
        """Make a case. With a scan as the request's body, or a source, it starts; else send files, then start it.

        It becomes that of the first series of a study that has several; the others are cases with its id as ``study``.
        """
        chosen = choices()
        if not chosen or (run and run not in chosen):
            raise Refusal(400, "NO_SUCH_RUN", f"the runs are {', '.join(chosen) or 'none'}")
        cases.drop_abandoned(ABANDONED_SECONDS)
        if len(cases.ids()) >= MAX_CASES:
            raise Refusal(413, "TOO_MANY_CASES", f"the app holds {MAX_CASES} cases; delete some")
        try:
            case = cases.create(printable(name) or source or "scan", chosen[run or next(iter(chosen))], source)
        except ValueError as reason:
            raise Refusal(400, "NOT_FOUND", str(reason)) from None
        try:
            size = await store(cases.folder(case, "scan"), name or "scan", request.stream(), _length(request))
            if size == 0 and source is None:
                for path in cases.folder(case, "scan").iterdir():
                    remove(path)
            return start(case) if (size or source is not None) and not wait else row(case)
        except Refusal:
            cases.delete(case)
            raise

    @app.put("/api/cases/{case}/{part}/{name:path}", status_code=201)
    async def send_file(request: Request, case: str, part: Literal["scan", "reference"], name: str) -> dict[str, int]:
        """Send one file of a case's scan or reference, before it is started."""
        if cases.note(case)["state"] != UPLOADING:
            raise Refusal(409, "STARTED", "the case was started before")
        return {"bytes": await store(cases.folder(case, part), name, request.stream(), _length(request))}

    @app.post("/api/cases/{case}/start")
    def start_case(case: str) -> dict[str, Any]:
        """Put a case into the queue whose files have been sent, or one that was cancelled."""
        return start(case)

    @app.post("/api/cases/{case}/cancel")
    def cancel_case(case: str) -> dict[str, Any]:
        """Take a case out of the queue, or end its run; it can be started again."""
        cases.note(case)
        if not supervisor.cancel(case):
            raise Refusal(409, "NOT_RUNNING", "the case neither waits nor runs, or has just come to its end")
        return row(case)

    @app.get("/api/cases/{case}")
    def get_case(case: str) -> dict[str, Any]:
        """Say all that is known of a case."""
        return row(case)

    @app.delete("/api/cases/{case}", status_code=204)
    def delete_case(case: str) -> None:
        """Delete a case with all that was uploaded and made; one that runs is ended."""
        cases.note(case)
        supervisor.cancel(case)
        cases.delete(case)

    @app.put("/api/cases/{case}/verdict")
    def judge_case(case: str, verdict: Verdict) -> dict[str, Any]:
        """Accept or reject a mask, with a note."""
        cases.amend(case, verdict=verdict.verdict, note=printable(verdict.note))
        return row(case)

    add_edits(app, cases, row)

    @app.get("/api/cases.csv")
    def table() -> Response:
        """Return all cases as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, CASE_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for one in list_cases():
            writer.writerow({key: _cell(one.get(key)) for key in CASE_COLUMNS})
        return Response(text.getvalue(), media_type="text/csv", headers=attachment("cases.csv"))


def _add_results(app: FastAPI, cases: CaseFolder) -> None:
    @app.get("/api/cases/{case}/{result}", response_class=FileResponse)
    def get_result(case: str, result: Download) -> Response:
        """Return one file of a case that is done, of those that it lists as ``results``, or all of them in one zip.

        The network's mask and its provenance, the corrected mask and its own; of the corrected mask, else of the
        network's, the clinical table, scores against a reference, the viewer's page, and of a DICOM series the
        segmentation, the structured report, and the slices with outlines as secondary captures.
        """
        if result in (*OF_THE_MASK_NOW, EVERYTHING):
            require_measured(cases, case, dicom=result in (*DICOM, EVERYTHING))
        return download(cases, case, result)


def _length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    text = " ".join(value) if isinstance(value, list) else value
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@", "\t") and text else text
