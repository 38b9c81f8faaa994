"""Cases over HTTP: make, send, start, judge and delete them, list them, and fetch what came of them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from liver_pipeline.app.cases import CANCELLED, UPLOADING, CaseFolder
from liver_pipeline.app.downloads import DICOM, DOWNLOADS, EVERYTHING, OF_THE_MASK_NOW, attachment, download
from liver_pipeline.app.edit_routes import add_edits, require_measured
from liver_pipeline.app.rows import CaseRows
from liver_pipeline.app.runs import Model
from liver_pipeline.app.supervisor import Supervisor
from liver_pipeline.app.uploads import Refusal, refuse_bomb, refuse_too_many, store
from liver_pipeline.io.files import remove
from liver_pipeline.io.paths import printable

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


def add_cases(app: FastAPI, cases: CaseFolder, supervisor: Supervisor, choices: Callable[[], dict[str, Model]]) -> None:
    """Add what is asked for of cases; ``choices`` gives the runs that can be chosen, the default first."""

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

    rows = CaseRows(cases)

    def row(case: str) -> dict[str, Any]:
        return rows.of(case, supervisor.running())

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

    @app.get("/api/cases", response_model=list[dict[str, Any]], responses={304: {"description": "Not modified"}})
    def list_cases(if_none_match: Annotated[str, Header(max_length=200)] = "") -> Response:
        """List all cases, the oldest first; who sends the ETag of an answer gets the next one when it is another."""
        answer = JSONResponse(rows.all(supervisor.running()))
        tag = f'"{hashlib.sha256(answer.body).hexdigest()}"'
        if if_none_match == tag:
            return Response(status_code=304, headers={"ETag": tag})
        answer.headers["ETag"] = tag
        return answer

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
        refuse_too_many(cases, 1)
        try:
            case = cases.create(printable(name) or source or "scan", *chosen[run or next(iter(chosen))], source=source)
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
        for one in rows.all(supervisor.running()):
            writer.writerow({key: _cell(one.get(key)) for key in CASE_COLUMNS})
        return Response(text.getvalue(), media_type="text/csv", headers=attachment("cases.csv"))


def add_results(app: FastAPI, cases: CaseFolder) -> None:
    """Add the files of cases that are done."""

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
