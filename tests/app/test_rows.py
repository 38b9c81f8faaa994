"""The list of cases costs next to nothing where nothing has changed, and never tells what was."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from liver_pipeline.app.cases import CANCELLED, ENDED, STARTED, CaseFolder
from liver_pipeline.app.rows import CaseRows
from liver_pipeline.io.file_names import EDITED
from liver_pipeline.io.files import remove, write_json
from liver_pipeline.io.ledger import LEDGER, Ledger
from tests.app.conftest import RunningApp, ask
from tests.counting import counted, let_settle
from tests.waiting import PATIENCE_S


def done(cases: CaseFolder, name: str) -> str:
    """Make a case that is done, with what a row is read from."""
    case = cases.create(name, "default")
    cases.amend(case, state=ENDED)
    cases.result(case, ".nii.gz").touch()
    write_json(cases.result(case, ".json"), {"output": {"sha256": name}})
    write_json(cases.result(case, ".description.json"), {"liver": {"lesion_count": 1}})
    tell(cases, case, event="done")
    return case


def tell(cases: CaseFolder, case: str, **row: Any) -> None:
    with closing(Ledger(cases.masks / LEDGER)) as ledger:
        ledger.append({"case": case, **row})


def test_a_list_that_has_not_changed_opens_nothing_of_any_case(tmp_path: Path) -> None:
    cases = CaseFolder(tmp_path)
    names = [done(cases, str(number)) for number in range(3)]
    let_settle(tmp_path)
    rows = CaseRows(cases)
    first = rows.all({})
    with counted(tmp_path) as counts:
        assert rows.all({}) == first
    assert [row["id"] for row in first] == names and first[0]["results"] == ["mask.nii.gz", "record.json", "table.json"]
    assert dict(counts) == {str(cases.uploads): 1}
    cases.amend(names[1], note="look again")
    with counted(tmp_path) as counts:
        assert rows.all({})[1] == {**first[1], "note": "look again"}
    assert {name for name in counts if "uploads/" in name} == {str(cases.uploads / names[1] / "case.json")}


def cancel(cases: CaseFolder, case: str) -> None:
    cases.remove_results(case)
    cases.amend(case, state=CANCELLED)


CHANGES: dict[str, Callable[[CaseFolder, str], Any]] = {
    "a verdict": lambda cases, case: cases.amend(case, verdict="reject"),
    "started again": lambda cases, case: cases.amend(case, state=STARTED),
    "cancelled": lambda cases, case: cancel(cases, case),
    "failed": lambda cases, case: tell(cases, case, event="failed", code="NO_LIVER", detail="none"),
    "another table": lambda cases, case: write_json(cases.result(case, ".description.json"), {"liver": {}}),
    "scores": lambda cases, case: write_json(cases.result(case, ".scores.json"), {"liver_dice": 1.0}),
    "a page": lambda cases, case: cases.result(case, ".html").touch(),
    "no page": lambda cases, case: remove(cases.result(case, ".json")),
    "a correction": lambda cases, case: cases.result(case, f"{EDITED}.nii.gz").touch(),
    "a case more": lambda cases, case: cases.create("new", "default"),
    "deleted": lambda cases, case: cases.delete(case),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("settled", [True, False], ids=["long ago", "just now"])
def test_the_list_is_what_one_that_remembers_nothing_tells(
    tmp_path: Path, change: Callable[[CaseFolder, str], Any], settled: bool
) -> None:
    cases = CaseFolder(tmp_path)
    case, _ = (done(cases, str(number)) for number in range(2))
    if settled:
        let_settle(tmp_path)
    rows = CaseRows(cases)
    before = rows.all({})
    change(cases, case)
    assert rows.all({}) == CaseRows(cases).all({}) != before
    change(cases, case) if (cases.uploads / case).exists() else None
    assert rows.all({}) == CaseRows(cases).all({})


def test_what_is_said_of_a_case_in_the_queue_goes_over_what_is_kept(tmp_path: Path) -> None:
    cases = CaseFolder(tmp_path)
    case = done(cases, "one")
    let_settle(tmp_path)
    rows = CaseRows(cases)
    assert rows.all({})[0]["lesions"] == 1
    running = {"state": "running", "stage": "reading", "percent": 12}
    assert rows.all({case: running})[0].items() >= running.items() and "lesions" not in rows.all({case: running})[0]
    assert rows.all({})[0]["lesions"] == 1


def listed(app: RunningApp, tag: str) -> tuple[Any, str]:
    connection = http.client.HTTPConnection(urlsplit(app.address).netloc, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/api/cases", headers={**app.header, "If-None-Match": tag})
        answer = connection.getresponse()
        content = answer.read()
        return json.loads(content) if content else answer.status, str(answer.headers["ETag"])
    finally:
        connection.close()


def test_who_has_the_list_is_told_so_and_gets_another_one_whole(app: RunningApp) -> None:
    content, tag = listed(app, "")
    assert isinstance(content, list) and listed(app, tag) == (304, tag)
    case = ask(app, "POST", "/api/cases?name=later&wait=true")[1]["id"]
    content, later = listed(app, tag)
    assert later != tag and case in [row["id"] for row in content]
    assert ask(app, "DELETE", f"/api/cases/{case}")[0] == 204
