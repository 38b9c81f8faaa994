"""Scans below --data: a list to take from, and no way out of the folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from liver_pipeline.app.data_folder import MAX_LISTED, DataFolder
from tests.app.conftest import RUN, RunningApp, ask, finished

OUTSIDE = ("../secret.nii.gz", "/etc/passwd", "a/../../secret.nii.gz", "link.nii.gz", "away", "away/secret.nii.gz",
           "x\x00y", "n" * 300, ".hidden.nii.gz", "a/nowhere.nii.gz", "", ".")  # fmt: skip


def test_a_folder_is_listed_with_its_folders_scans_and_series(data: Path) -> None:
    archive = DataFolder(data)
    assert archive.look() == {"path": "", "folders": ["a", "same"], "scans": [], "more": 0, "is_series": False}
    inside = archive.look("a")
    assert inside["folders"] == ["series"] and inside["scans"] == ["Doe.nii.gz", "header.hdr"]
    assert archive.look("a/series")["is_series"] and archive.find("a/series") == (data / "a" / "series").resolve()
    assert archive.look("same")["path"] == "a"


def test_a_folder_of_very_many_scans_says_how_many_are_not_listed(tmp_path: Path) -> None:
    for number in range(MAX_LISTED + 5):
        (tmp_path / f"{number:05d}.nii").touch()
    found = DataFolder(tmp_path).look()
    assert len(found["scans"]) == MAX_LISTED and found["more"] == 5


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out(data: Path, path: str) -> None:
    with pytest.raises(ValueError, match="data folder"):
        DataFolder(data).find(path)


def test_a_scan_of_the_archive_is_segmented_where_it_lies_with_a_reference_that_is_sent(
    app: RunningApp, data: Path, scans: Path
) -> None:
    assert ask(app, "GET", "/api/data?path=a")[1]["scans"] == ["Doe.nii.gz", "header.hdr"]
    status, row = ask(app, "POST", f"/api/cases?source=a/Doe.nii.gz&name=Doe&wait=true&{RUN}")
    assert (status, row["state"]) == (201, "uploading")
    at = f"/api/cases/{row['id']}"
    assert ask(app, "PUT", f"{at}/reference/r.nii.gz", (scans / "Doe-reference.nii.gz").read_bytes())[0] == 201
    ask(app, "POST", f"{at}/start")
    row = finished(app, row["id"])
    assert row["state"] == "done" and row["scores"]["liver_dice"] == 1.0, row
    assert ask(app, "DELETE", at)[0] == 204 and (data / "a" / "Doe.nii.gz").exists()


def test_over_http_no_path_leads_out(app: RunningApp) -> None:
    for path in map(quote, OUTSIDE):
        assert ask(app, "POST", f"/api/cases?source={path}&{RUN}")[0] == 400, path
    for path in map(quote, OUTSIDE[:-2]):
        assert ask(app, "GET", f"/api/data?path={path}")[0] == 404, path
    assert ask(app, "GET", "/api/cases")[1] == []


@pytest.mark.browser
def test_scans_are_picked_without_typing(app: RunningApp) -> None:
    from tests.browser import browser_page

    with browser_page(webgl=False, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.goto(app.link)
        page.click("#archive")
        page.select_option("#run", "threshold", force=True)
        page.click("#data-list button:has-text('a/')")
        page.wait_for_selector("#data-list button:has-text('header.hdr')")
        assert page.locator("#data-list button").all_inner_texts() == ["series/", "Doe.nii.gz", "header.hdr"]
        page.click("#data-list button:has-text('Doe.nii.gz')")
        page.wait_for_selector("#data-note:has-text('queue')")
        page.click("#data-list button:has-text('series/')")
        page.wait_for_selector("#data-list:has-text('DICOM series')")
        page.click("#data-path button:has-text('All scans')")
        page.wait_for_selector("#data-list button:has-text('same/')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("#data-close")
        page.wait_for_selector("#cases tbody tr:has-text('Doe'):has-text('done')")
