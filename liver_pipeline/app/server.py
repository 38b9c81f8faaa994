"""The app over HTTP: the same for the page in the browser and for programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from liver_pipeline.app.access import Guard
from liver_pipeline.app.case_routes import add_cases, add_results
from liver_pipeline.app.cases import CaseFolder, NoSuchCase
from liver_pipeline.app.runs import run_choices
from liver_pipeline.app.supervisor import Supervisor
from liver_pipeline.app.uploads import NO_SPACE, Refusal
from liver_pipeline.io.files import DISK_FULL

PAGE_POLICY = "default-src 'self'; img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'"
ASSETS = {
    "app.html": "text/html", "app.css": "text/css", "app.js": "text/javascript", "archive.js": "text/javascript",
    "correct.js": "text/javascript",
}  # fmt: skip


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
    add_cases(app, cases, supervisor, lambda: run_choices(runs))
    add_results(app, cases)
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
