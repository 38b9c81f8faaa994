"""What a case gives to take away: DICOM results of a series, all of it in one zip, and nothing of patients in logs."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from liver_pipeline.app.cases import ENDED, CaseFolder
from liver_pipeline.app.rows import CaseRows
from liver_pipeline.io.ledger import LEDGER, Ledger
from tests.app.conftest import RUN, RunningApp, ask, finished
from tests.dicom_files import one_slice, series

PATIENT = "Zwickelmann^Ottokar"


@pytest.fixture(scope="module")
def slices(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Zips of DICOM series: one as it should be, one whose slices have no UID."""
    hu = np.asarray(nib.load(scans / "Doe.nii.gz").dataobj)[::-1, ::-1]  # along L and P
    zips = {}
    for name, tags in (("whole", {}), ("nameless", {"SOPInstanceUID": ""})):
        files = [one_slice(k, hu, spacing=(8.0, 8.0, 8.0), PatientName=PATIENT, **tags) for k in range(hu.shape[2])]
        folder = series(tmp_path_factory.mktemp("series") / name, files)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path in folder.iterdir():
                archive.write(path, f"{PATIENT}/{path.name}")
        zips[name] = content.getvalue()
    return zips


def names_in(content: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def result(app: RunningApp, row: dict[str, Any], name: str) -> bytes:
    status, content = ask(app, "GET", f"/api/cases/{row['id']}/{name}")
    assert status == 200
    return bytes(content)


def test_a_series_gives_dicom_results_and_all_as_one_zip(app: RunningApp, slices: dict[str, bytes]) -> None:
    row = finished(app, ask(app, "POST", f"/api/cases?name=a.zip&{RUN}", slices["whole"])[1]["id"])
    assert row["state"] == "done" and row["no_dicom"] is None, row
    assert {"seg.dcm", "sr.dcm", "captures.zip"} <= set(row["results"])

    seg, report = (pydicom.dcmread(io.BytesIO(result(app, row, name))) for name in ("seg.dcm", "sr.dcm"))
    assert [segment.SegmentLabel.lower() for segment in seg.SegmentSequence] == ["liver", "tumor"]
    assert (seg.PatientName, seg.StudyInstanceUID, seg.Modality) == (PATIENT, "1.2.3", "SEG")
    assert report.Modality == "SR" and seg.SOPInstanceUID in str(report)
    liver_planes = 16
    captures = names_in(result(app, row, "captures.zip"))
    assert captures == {f"captures/{number:04d}.dcm" for number in range(1, liver_planes + 1)}

    everything = result(app, row, "everything.zip")
    assert names_in(everything) == (set(row["results"]) - {"captures.zip"}) | captures
    with zipfile.ZipFile(io.BytesIO(everything)) as archive:
        assert archive.read("mask.nii.gz") == result(app, row, "mask.nii.gz")
    assert ask(app, "DELETE", f"/api/cases/{row['id']}")[0] == 204 and not list(app.work.glob(f"masks/{row['id']}*"))


def test_a_series_that_cannot_be_referred_to_has_its_mask_and_says_why(
    app: RunningApp, slices: dict[str, bytes]
) -> None:
    row = finished(app, ask(app, "POST", f"/api/cases?name=b.zip&{RUN}", slices["nameless"])[1]["id"])
    assert row["state"] == "done" and "DICOM_REFERENCE" in row["flags"]
    assert row["no_dicom"]["code"] == "DICOM_REFERENCE" and "SOPInstanceUID" in row["no_dicom"]["detail"]
    assert "mask.nii.gz" in row["results"] and not {"seg.dcm", "sr.dcm", "captures.zip"} & set(row["results"])
    assert ask(app, "GET", f"/api/cases/{row['id']}/seg.dcm")[0] == 404
    assert "mask.nii.gz" in names_in(result(app, row, "everything.zip"))


def test_a_case_without_results_gives_no_zip(app: RunningApp) -> None:
    case = ask(app, "POST", f"/api/cases?name=c&{RUN}")[1]["id"]
    for name in ("everything.zip", "captures.zip", "mask.nii.gz", "case.json", "..%2fcase.json"):
        assert ask(app, "GET", f"/api/cases/{case}/{name}")[0] in (404, 405)


def test_what_the_app_prints_names_no_patient_and_no_file(app: RunningApp, slices: dict[str, bytes]) -> None:
    for name, content in (("Zwickelmann-1.zip", slices["whole"]), ("Zwickelmann-2.nii.gz", b"broken")):
        row = ask(app, "POST", f"/api/cases?name={name}&{RUN}", content)[1]
        assert finished(app, row["id"])["state"] in ("done", "failed")
    ask(app, "PUT", f"/api/cases/{row['id']}/scan/Zwickelmann-3.nii", b"too late")
    ask(app, "GET", "/api/cases/Zwickelmann")
    for text in (app.log.read_text(), (app.work / "masks" / "ledger.jsonl").read_text()):
        assert text and "zwickelmann" not in text.lower() and "IM0" not in text
    assert len(app.log.read_text().splitlines()) == 2  # the address, and how to end it


@pytest.mark.parametrize("reasons", [[], [{"code": "LIVER_CUT_OFF"}]], ids=["not judged", "judged"])
def test_a_liver_that_the_scan_cuts_off_has_one_flag(tmp_path: Path, reasons: list[dict[str, str]]) -> None:
    cases = CaseFolder(tmp_path)
    case = cases.create("a", "default")
    cases.amend(case, state=ENDED)
    for ending, content in (
        (".description.json", {"liver": {"truncated": True}}),
        (".json", {"quality": {"reasons": reasons}}),
    ):
        cases.result(case, ending).write_text(json.dumps(content))
    with closing(Ledger(cases.masks / LEDGER)) as ledger:
        ledger.append({"case": case, "event": "done"})
    assert CaseRows(cases).of(case, {})["flags"] == ["LIVER_CUT_OFF"]
