"""Corrections over HTTP: save what was drawn, take it back, put cases together for a training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from liver_pipeline.app.cases import CaseFolder
from liver_pipeline.app.collection import collect_cases
from liver_pipeline.app.corrections import measured, save_edit, take_back
from liver_pipeline.app.edits import MAX_EDIT_BYTES, Edit
from liver_pipeline.app.uploads import Refusal, full_disk_refused
from liver_pipeline.io.failures import finding_of

_EDIT_BODY = {"required": True, "content": {"application/json": {"schema": Edit.model_json_schema()}}}


def add_edits(app: FastAPI, cases: CaseFolder, row: Callable[[str], dict[str, Any]]) -> None:
    """Add what is asked for when a mask is corrected; ``row`` says all that is known of a case."""

    def measure_later(case: str) -> None:
        with contextlib.suppress(Exception):  # whoever opens the page is told
            measured(cases, case)

    @app.put("/api/cases/{case}/edit", openapi_extra={"requestBody": _EDIT_BODY})
    async def correct_case(request: Request, case: str, later: BackgroundTasks) -> dict[str, Any]:
        """Save what was drawn on the case's mask: a corrected mask beside it, all else as it was."""
        cases.note(case)
        edit = await _edit_of(request)
        await run_in_threadpool(save_edit, cases, case, edit)
        later.add_task(measure_later, case)
        return row(case)

    @app.post("/api/training-set")
    def make_training_set() -> dict[str, Any]:
        """Make a data set of the cases that were corrected or accepted; it takes the place of an earlier one."""
        with full_disk_refused("no space is left for the data set; the earlier one is still there"):
            try:
                told = collect_cases(cases, cases.training)
            except ValueError as reason:
                raise Refusal(409, "NO_CASES", str(reason)) from None
        left_out = {case: why for case, why in told.items() if why}
        return {"folder": str(cases.training.resolve()), "cases": len(told) - len(left_out), "left_out": left_out}

    @app.delete("/api/cases/{case}/edit")
    def take_edit_back(case: str) -> dict[str, Any]:
        """Delete the correction; the network's mask is the case's mask again."""
        take_back(cases, case)
        return row(case)


def require_measured(cases: CaseFolder, case: str, *, dicom: bool) -> None:
    """Write what is not there yet of a correction's results; its DICOM results where ``dicom`` asks for them.

    Raises:
        NoSuchCase: If there is no such case.
        Refusal: With the code of what is wrong with the scan.
    """
    try:
        measured(cases, case, dicom=dicom)
    except (KeyError, Refusal):
        raise
    except Exception as reason:
        found = finding_of(reason, writing=isinstance(reason, OSError))
        raise Refusal(409, found.code, found.detail) from None


async def _edit_of(request: Request) -> Edit:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_EDIT_BYTES:
            raise Refusal(413, "TOO_LARGE", f"a drawing takes {MAX_EDIT_BYTES >> 20} MiB at most; save it in parts")
    try:
        return Edit.model_validate_json(bytes(content))
    except ValidationError as reason:
        first = reason.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refusal(422, "BAD_EDIT", f"{where}: {first['msg']}" if where else first["msg"]) from None
