"""A study that is sent as one: each series that is a scan is a case of its own, from upload to correction."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

import liver_pipeline as lp
from liver_pipeline.app.cases import CaseFolder
from liver_pipeline.app.studies import split_study
from liver_pipeline.app.uploads import Refusal
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.files import write_json
from tests.app.conftest import RUN, RunningApp, ask, finished
from tests.dicom_files import one_slice, scout, series

PATIENT = "Zwickelmann^Ottokar"
THIN, THICK = "1.2.7.1", "1.2.7.2"
NAMES = {
    THIN: "series 2 'arterial' (24 CT slices, 8 mm, contrast)",
    THICK: "series 5 'portal venous' (12 CT slices, 16 mm)",
}


@pytest.fixture(scope="module")
def study(scans: Path, data: Path) -> Path:
    """Doe every 8 mm with one tumor, Roe every 16 mm with two, and a scout, in one folder of the archive."""
    folder = data / "a" / "series" / "study"
    for uid, number, what, agent, name, step in (
        (THIN, 2, "arterial", "Iomeprol", "Doe", 1),
        (THICK, 5, "portal venous", "", "Roe", 2),
    ):
        hu = np.asarray(nib.load(scans / f"{name}.nii.gz").dataobj)[::-1, ::-1, ::step]  # along L and P
        tags = {
            "SeriesInstanceUID": uid,
            "SeriesNumber": number,
            "SeriesDescription": what,
            "ContrastBolusAgent": agent,
        }
        slices = [one_slice(k, hu, spacing=(8, 8, 8 * step), PatientName=PATIENT, **tags) for k in range(hu.shape[2])]
        for k, one in enumerate(slices):
            one.ImagePositionPatient = [-152, -112, -96 + 8 * step * k]  # where Doe and Roe lie
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{k + 1}"
        series(folder, slices, prefix=f"S{number}_")
    localizer = scout()
    localizer.SeriesInstanceUID = "1.2.7.0"
    localizer.save_as(folder / "scout", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def zipped(study: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in study.iterdir():
            archive.write(path, f"{PATIENT}/{path.name}")
    return content.getvalue()


def ended(app: RunningApp, case: str) -> dict[str, dict[str, Any]]:
    """Return the ends of the cases that came of one, by series."""
    finished(app, case)
    rows = [finished(app, row["id"]) for row in ask(app, "GET", "/api/cases")[1] if row["study"] == case]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["series"]: row for row in rows}


def content(app: RunningApp, row: dict[str, Any], name: str) -> bytes:
    status, found = ask(app, "GET", f"/api/cases/{row['id']}/{name}")
    assert status == 200, (name, found)
    return bytes(found)


def test_a_study_becomes_a_case_a_series_with_the_masks_of_predict(
    app: RunningApp, runs: Path, study: Path, zipped: bytes, scans: Path, tmp_path: Path
) -> None:
    lp.predict(runs / "threshold", study, tmp_path / "masks")
    expected = {uid: (tmp_path / "masks" / "study" / f"{uid}.nii.gz").read_bytes() for uid in NAMES}

    sent = ask(app, "POST", f"/api/cases?name=one&{RUN}")[1]["id"]
    for path in study.iterdir():
        assert ask(app, "PUT", f"/api/cases/{sent}/scan/{path.name}", path.read_bytes())[0] == 201
    turned = nib.load(scans / "Doe-reference.nii.gz").as_reoriented([[0, -1], [1, -1], [2, 1]])  # as a series lies
    reference = gzip.compress(turned.to_bytes())
    ask(app, "PUT", f"/api/cases/{sent}/reference/r.nii.gz", reference)
    ask(app, "POST", f"/api/cases/{sent}/start")
    ways = {
        "one": sent,
        "two": ask(app, "POST", f"/api/cases?name=two&{RUN}", zipped)[1]["id"],
        "three": ask(app, "POST", f"/api/cases?name=three&source=a/series/study&{RUN}")[1]["id"],
    }
    for name, case in ways.items():
        rows = ended(app, case)
        assert {uid: row["name"] for uid, row in rows.items()} == {uid: f"{name}: {NAMES[uid]}" for uid in NAMES}
        assert rows[THIN]["id"] == case
        for uid, row in rows.items():
            assert row["state"] == "done" and row["lesions"] == (1 if uid == THIN else 2), row
            assert gzip.decompress(content(app, row, "mask.nii.gz")) == gzip.decompress(expected[uid])
            record = ask(app, "GET", f"/api/cases/{row['id']}/record.json")[1]
            told = {one["code"]: one["detail"] for one in record["warnings"]}
            assert "1 scouts" in told["IGNORED_FILES"] and "one of 2 scans there" in told["SERIES_CHOSEN"]
            seg = pydicom.dcmread(io.BytesIO(content(app, row, "seg.dcm")))
            (referenced,) = seg.ReferencedSeriesSequence
            assert referenced.SeriesInstanceUID == uid
        if name == "one":  # the reference is of the thin series' grid
            assert "IGNORED_FILES" in rows[THICK]["flags"] and "LABEL_GRID_MISMATCH" in rows[THICK]["scores"]["error"]
            assert rows[THIN]["scores"].get("liver_dice") == 1.0, rows[THIN]["scores"]
    printed = app.log.read_text() + (app.work / "masks" / "ledger.jsonl").read_text()
    assert "zwickelmann" not in printed.lower() and "arterial" not in printed
    assert ask(app, "DELETE", f"/api/cases/{ways['three']}")[0] == 204 and len(list(study.iterdir())) == 37


def test_a_correction_of_one_series_has_its_own_dicom_results_and_is_trained_on(app: RunningApp, zipped: bytes) -> None:
    rows = ended(app, ask(app, "POST", f"/api/cases?name=fix&{RUN}", zipped)[1]["id"])
    row = rows[THICK]
    at = f"/api/cases/{row['id']}"
    before = pydicom.dcmread(io.BytesIO(content(app, row, "seg.dcm")))
    corner = {"start": [0, 0, 0], "size": [1, 1, 1], "steps": [1, 1, 1], "runs": [[0, 1, 1]]}  # where nothing was
    edit = json.dumps({"made_from": row["mask_sha256"], **corner})
    assert ask(app, "PUT", f"{at}/edit", edit)[0] == 200

    seg, report = (pydicom.dcmread(io.BytesIO(content(app, row, name))) for name in ("seg.dcm", "sr.dcm"))
    assert [int(one.pixel_array.sum()) for one in (before, seg)] == [
        int((labels_in(content(app, row, name)) > 0).sum()) for name in ("mask.nii.gz", "edited.nii.gz")
    ]
    assert seg.pixel_array.sum() == before.pixel_array.sum() + 1
    kinds = [{segment.SegmentAlgorithmType for segment in one.SegmentSequence} for one in (before, seg)]
    assert kinds == [{"AUTOMATIC"}, {"SEMIAUTOMATIC"}] and seg.SOPInstanceUID in str(report)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == THICK
    with zipfile.ZipFile(io.BytesIO(content(app, row, "everything.zip"))) as archive:
        assert archive.read("seg.dcm") == content(app, row, "seg.dcm")
        captures = [name for name in archive.namelist() if name.startswith("captures/")]
    assert len(captures) == 9  # eight slices of liver, and the corner's

    ask(
        app,
        "PUT",
        f"/api/cases/{rows[THIN]['id']}/verdict",
        '{"verdict": "accept"}',
        Content_Type="application/json",
    )
    assert ask(app, "POST", "/api/training-set")[1]["left_out"] == {}
    training = app.work / "training"
    for uid, slices in ((THIN, 24), (THICK, 12)):
        files = [training / part / f"{rows[uid]['id']}.nii.gz" for part in ("images", "labels")]
        assert [nib.load(path).shape for path in files] == [(40, 30, slices)] * 2
    patients = (training / "patients.csv").read_text().split()
    assert len({line.partition(",")[2] for line in patients[1:]}) == 1  # one patient, on one side of a split

    assert ask(app, "DELETE", f"{at}/edit")[0] == 200
    again = pydicom.dcmread(io.BytesIO(content(app, row, "seg.dcm")))
    assert again == before and list((app.work / "corrected").glob(f"{row['id']}*")) == []


def labels_in(packed: bytes) -> Any:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(packed)).dataobj)


@pytest.mark.browser
def test_the_page_shows_the_series_of_dropped_slices_as_rows_that_differ(app: RunningApp, study: Path) -> None:
    from tests.browser import browser_page

    with browser_page(webgl=False, viewport={"width": 1280, "height": 900}) as page:
        page.goto(app.link)
        page.wait_for_selector("#run option[value=threshold]", state="attached")
        page.select_option("#run", "threshold")
        page.set_input_files("#files", sorted(study.iterdir()))
        for name in NAMES.values():
            page.wait_for_selector(f'#cases tbody tr:has-text("DICOM series: {name}"):has-text("done")')
        page.click(f'#cases tbody tr:has-text("DICOM series: {NAMES[THICK]}")')
        view = page.frame_locator("#view")
        view.locator("body[data-ready]").wait_for()
        assert view.locator("#lesions tbody tr").count() == 2
        assert "1 scouts" in view.locator("body").inner_text() and page.is_visible("#downloads a[href$='seg.dcm']")


# --- on disk alone


@pytest.fixture
def sent(tmp_path: Path) -> tuple[CaseFolder, str, list[ScanInput]]:
    """A study of two files with three series, in a folder of cases."""
    cases = CaseFolder(tmp_path / "work")
    case = cases.create("study", "default")
    for name in ("a", "b"):
        (cases.folder(case, "scan") / name).write_text(name)
    cases.folder(case, "reference").joinpath("r").write_text("r")
    cases.amend(case, state="started")
    path = cases.uploads / case / "scan"
    return cases, case, [ScanInput(path, f"{case}/{n}", str(n), "why", title) for n, title in enumerate("xxy")]


def state_of(cases: CaseFolder) -> dict[str, str]:
    assert cases.unfinished() == cases.ids()
    return {cases.note(case)["name"]: case for case in cases.ids()}


def test_series_have_what_was_sent_each_for_itself(sent: tuple[CaseFolder, str, list[ScanInput]]) -> None:
    cases, case, volumes = sent
    new = split_study(cases, case, volumes)
    assert list(state_of(cases)) == ["study: x 0", "study: x 1", "study: y"] and cases.ids() == [case, *new]
    cases.delete(case)
    for number, one in enumerate(new, 1):
        scan, reference = cases.scan(one), cases.reference(one)
        assert scan is not None and reference is not None
        assert (scan.series, scan.why) == (str(number), "why") and reference.read_text() == "r"
        assert [path.read_text() for path in sorted(scan.path.iterdir())] == ["a", "b"]
        assert (cases.uploads / one).stat().st_mode & 0o777 == 0o700
        assert (scan.path / "a").stat().st_nlink == 2  # no bytes were copied


def test_a_disk_without_links_gets_copies_and_a_full_one_leaves_the_study_as_it_was(
    sent: tuple[CaseFolder, str, list[ScanInput]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, case, volumes = sent

    def refuse(*_: object) -> None:
        raise OSError(28, "no space, or no links")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(OSError, match="no space"):
        split_study(cases, case, volumes)
    assert state_of(cases) == {"study": case} and [path.name for path in cases.uploads.iterdir()] == [case]
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", refuse)
    (one, _) = split_study(cases, case, volumes)
    assert (cases.uploads / one / "scan" / "b").read_text() == "b"


@pytest.mark.parametrize("kill_at", range(3))
def test_a_kill_at_any_point_loses_no_series_and_doubles_none(
    sent: tuple[CaseFolder, str, list[ScanInput]], monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    cases, case, volumes = sent
    written = 0

    def killed(path: Path, note: object) -> None:
        nonlocal written
        written += 1
        if written > kill_at:
            raise KeyboardInterrupt
        write_json(path, note)

    monkeypatch.setattr("liver_pipeline.app.studies.write_json", killed)
    monkeypatch.setattr("liver_pipeline.app.cases.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        split_study(cases, case, volumes)
    monkeypatch.undo()
    cases.drop_abandoned(0.0)  # as the next start of the app does
    there = len(cases.ids()) - 1
    assert there == kill_at and cases.note(case).get("series") is None
    assert len(split_study(cases, case, volumes)) == 2 - there
    assert list(state_of(cases)) == ["study: x 0", "study: x 1", "study: y"]


def test_more_series_than_the_app_holds_are_refused(
    sent: tuple[CaseFolder, str, list[ScanInput]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, case, volumes = sent
    monkeypatch.setattr("liver_pipeline.app.uploads.MAX_CASES", 2)
    with pytest.raises(Refusal) as refused:
        split_study(cases, case, volumes)
    assert refused.value.code == "TOO_MANY_CASES" and cases.ids() == [case]
