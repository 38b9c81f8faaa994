"""Correcting a mask in a real browser and over HTTP: what is drawn is in the file, voxel for voxel, and no more."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from tests.app.conftest import RUN, RunningApp, ask, finished, row_of
from tests.waiting import wait_for

# Shares of a panel's width and height, near the middle of voxels
STROKE, WRONG, LIVER, TUMOR = (
    ((0.4625, 0.512), (0.5625, 0.512), (0.6625, 0.512)),
    (0.4875, 0.41),
    (0.2125, 0.512),
    (0.2, 0.38),
)


@pytest.fixture
def doe(app: RunningApp, scans: Path, tmp_path: Path) -> str:
    """A finished case whose scan lies on disk along left, inferior, posterior."""
    image = nib.load(scans / "Doe.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LIP"))
    path = tmp_path / "Doe.nii.gz"
    nib.save(image.as_reoriented(turn), path)
    case = str(ask(app, "POST", f"/api/cases?name=Doe.nii.gz&{RUN}", path.read_bytes())[1]["id"])
    assert finished(app, case)["state"] == "done"
    return case


def labels_of(app: RunningApp, case: str, name: str = "edited.nii.gz") -> tuple[npt.NDArray[np.uint8], Any]:
    """Return a mask as it lies in its file, and its affine."""
    status, content = ask(app, "GET", f"/api/cases/{case}/{name}")
    assert status == 200
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    return np.asarray(image.dataobj).astype(np.uint8), image.affine


def measured(app: RunningApp, case: str) -> dict[str, Any]:
    return wait_for(lambda: row if (row := row_of(app, case))["stage"] != "measuring" else None)


@contextmanager
def opened(app: RunningApp, case: str, *, webgl: bool, **context: Any) -> Iterator[tuple[Any, Any]]:
    """Open a case in the app; give the page, and the viewer in it once it can draw."""
    from tests.browser import browser_page

    if webgl and not files("liver_pipeline").joinpath("app", "web", "niivue.umd.js").is_file():
        pytest.skip("NiiVue is not in this installation: there was no npm when it was built")
    with browser_page(webgl=webgl, **{"viewport": {"width": 1280, "height": 1000}, **context}) as page:
        page.goto(app.link)
        page.goto(f"{app.address}/#{case}")
        view = page.frame_locator("#view")
        view.locator("#correct").wait_for()
        yield page, view


def choose(view: Any, tool: str, label: int, **numbers: float) -> None:
    view.locator(f"button[value={tool}]").click()
    view.locator(f"#drawing-classes button[value='{label}']").click()
    for name, value in numbers.items():
        view.locator(f"#{name.replace('_', '-')} input").fill(str(value))
        view.locator(f"#{name.replace('_', '-')} input").press("Enter")


def drag(page: Any, view: Any, *shares: tuple[float, float], panel: int = -1) -> list[npt.NDArray[np.float64]]:
    """Press at a place of a panel, drag on to others; return where the page says that each is, in RAS mm."""
    canvas = view.locator(".panel:visible").all()[panel].locator("canvas").first
    box = canvas.bounding_box()
    places = []
    for number, (x, y) in enumerate(shares):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            page.mouse.down()
        told = view.locator("#readout").inner_text()
        places.append(np.array([float(value) for value in re.findall(r"[RAS] (-?[\d.]+)", told)]))
    page.mouse.up()
    return places


def voxel_at(place: npt.NDArray[np.float64], affine: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in np.rint(np.linalg.inv(affine) @ [*place, 1])[:3])


def line(first: tuple[int, ...], last: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Return the voxels from one to another in a row."""
    steps = max(abs(a - b) for a, b in zip(first, last, strict=True))
    return {tuple(round(a + (b - a) * k / steps) for a, b in zip(first, last, strict=True)) for k in range(steps + 1)}


def keep(view: Any) -> None:
    """Save, and wait until it is saved."""
    view.locator("#keep").click()
    view.locator("#unsaved", has_text=re.compile("^$")).wait_for(state="attached")


@pytest.mark.browser
@pytest.mark.parametrize(
    "webgl", [pytest.param(True, marks=pytest.mark.slow, id="webgl"), pytest.param(False, id="canvas")]
)
def test_a_stroke_an_undo_an_eraser_and_a_press_are_in_the_file_and_nothing_else(
    app: RunningApp, doe: str, webgl: bool
) -> None:
    original, affine = labels_of(app, doe, "mask.nii.gz")
    before = ask(app, "GET", f"/api/cases/{doe}/mask.nii.gz")[1]
    with opened(app, doe, webgl=webgl) as (page, view):
        assert view.locator("body").get_attribute("data-ready") == ("gpu" if webgl else "slices")
        choose(view, "brush", 2, brush_size=1)  # mm: less than a voxel, so one voxel wide
        stroke = [voxel_at(place, affine) for place in drag(page, view, *STROKE)]
        wrong = voxel_at(drag(page, view, WRONG)[0], affine)
        view.locator("#undo").click()
        choose(view, "brush", 2, brush_size=80)
        drag(page, view, WRONG)
        ring, canvas = (view.locator(name).bounding_box() for name in ("#ring", ".panel:visible canvas >> nth=0"))
        assert ring["width"] == pytest.approx(80 * canvas["width"] / 320, abs=2)  # the picture is 320 mm wide
        view.locator("#undo").click()
        choose(view, "brush", 0, brush_size=1)
        erased = voxel_at(drag(page, view, LIVER)[0], affine)
        assert "not saved" in view.locator("#unsaved").inner_text()
        keep(view)

        expected = original.copy()
        drawn = line(stroke[0], stroke[1]) | line(stroke[1], stroke[2])
        assert len(drawn) == 9 and wrong not in drawn and original[erased] == 1
        for voxel in drawn:
            assert original[voxel] == 0
            expected[voxel] = 2
        expected[erased] = 0
        edited, same = labels_of(app, doe)
        np.testing.assert_array_equal(same, affine)
        np.testing.assert_array_equal(edited, expected)
        row = measured(app, doe)
        assert row["edited"] and row["lesions"] == 2 and row["tumor_ml"] == pytest.approx((64 + 9) * 0.512)

        view.locator("#figures", has_text=re.compile(f"tumor\\s*{row['tumor_ml']:.1f} ml")).wait_for()
        page.mouse.move(0, 0)
        assert not view.locator("#ring").is_visible()

        choose(view, "grow", 0)
        assert original[voxel_at(drag(page, view, TUMOR)[0], affine)] == 2
        keep(view)
        np.testing.assert_array_equal(labels_of(app, doe)[0], np.where(original == 2, 0, expected))
        choose(view, "grow", 2, tolerance=70)  # half of what tumor and liver differ by
        drag(page, view, TUMOR)
        keep(view)
        np.testing.assert_array_equal(labels_of(app, doe)[0], expected)

        page.on("dialog", lambda dialog: dialog.accept())
        measured(app, doe)
        page.click("#back")
        page.click("#collect")
        page.wait_for_selector("#collected:visible")
        assert "1 corrected or accepted case is ready" in page.inner_text("#collected")
        taken = app.work / "training" / "labels" / f"{doe}.nii.gz"
        assert f'dataset_dir="{(app.work / "training").resolve()}"' in page.inner_text("#collected code")
        np.testing.assert_array_equal(np.asarray(nib.load(taken).dataobj), expected)
        page.click("#cases tbody tr:has-text('yes')")
        view.locator("#correct").wait_for()
        page.reload()
        view.locator("#correct").wait_for()
        assert view.locator(".panel:visible h2 b").all_inner_texts() == ["Scan", "Before", "Corrected"]
        page.click("#take-back")
        page.wait_for_selector("#correction", state="hidden")
    assert ask(app, "GET", f"/api/cases/{doe}/edited.nii.gz")[0] == 404
    assert ask(app, "GET", f"/api/cases/{doe}/mask.nii.gz")[1] == before


def test_programs_are_told_what_an_edit_is_and_what_is_wrong_with_theirs(app: RunningApp, doe: str) -> None:
    paths = ask(app, "GET", "/openapi.json")[1]["paths"]
    body = paths["/api/cases/{case}/edit"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) == {"made_from", "start", "size", "steps", "runs"}
    assert ask(app, "PUT", f"/api/cases/{doe}/edit", "{")[1]["code"] == "BAD_EDIT"
    assert ask(app, "PUT", f"/api/cases/{doe}/edit", bytes(33 << 20))[1]["code"] == "TOO_LARGE"
    assert ask(app, "PUT", f"/api/cases/{'0' * 16}/edit", "{}")[0] == 404
    assert ask(app, "DELETE", f"/api/cases/{doe}/edit")[1]["code"] == "NOT_FOUND"
    assert ask(app, "POST", "/api/training-set")[1]["code"] == "NO_CASES"


@pytest.mark.browser
def test_two_tabs_a_case_that_is_deleted_and_leaving_lose_nothing_unasked(app: RunningApp, doe: str) -> None:
    original, affine = labels_of(app, doe, "mask.nii.gz")
    said: list[str] = []
    answers: list[bool] = []

    def answer(dialog: Any) -> None:
        said.append(dialog.message)
        dialog.accept() if answers.pop(0) else dialog.dismiss()

    with opened(app, doe, webgl=False) as (page, view):
        page.on("dialog", answer)
        choose(view, "brush", 2, brush_size=1)
        mine = voxel_at(drag(page, view, WRONG)[0], affine)
        _, row = ask(app, "GET", f"/api/cases/{doe}")
        elsewhere = {"start": [0, 0, 0], "size": [1, 1, 1], "steps": [1, 1, 1], "runs": [[0, 1, 1]]}
        body = json.dumps({"made_from": row["mask_sha256"], **elsewhere})
        assert ask(app, "PUT", f"/api/cases/{doe}/edit", body)[0] == 200  # the other tab

        answers.append(False)
        view.locator("#keep").click()
        page.wait_for_selector("#message:visible")
        assert (
            "MASK_CHANGED" in page.inner_text("#message")
            and "1 voxels not saved" in view.locator("#unsaved").inner_text()
        )
        answers.append(True)
        keep(view)
        edited, _ = labels_of(app, doe)
        changed = {tuple(int(v) for v in voxel): int(edited[tuple(voxel)]) for voxel in np.argwhere(edited != original)}
        corner = tuple(int(v) for v in np.rint(np.linalg.inv(affine) @ [-160, -120, -96, 1])[:3])
        assert changed == {mine: 2, corner: 1}

        drag(page, view, LIVER)
        while page.evaluate("unsaved") != 1:  # the page in the frame has told it
            page.wait_for_timeout(50)
        answers.append(False)
        page.close(run_before_unload=True)  # as one closes a tab
        while answers:
            page.wait_for_timeout(50)
        assert not page.is_closed()
        answers.append(False)
        page.click("#back")
        while answers:  # it asks once the address has changed, and takes that back
            page.wait_for_timeout(50)
        while not page.url.endswith(doe):
            page.wait_for_timeout(50)
        assert page.is_visible("#view") and "not saved" in said[-1]
        assert ask(app, "DELETE", f"/api/cases/{doe}")[0] == 204
        page.wait_for_selector("#message:has-text('deleted meanwhile')")
        assert "1 voxels not saved" in view.locator("#unsaved").inner_text()
        answers.append(True)
        page.click("#back")
        page.wait_for_selector("#list:visible")
    assert not list(app.work.glob(f"*/{doe}*")) and not answers
