"""Correcting a mask in a real browser and over HTTP: what is drawn is in the file, voxel for voxel, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from tests.app.conftest import RunningApp
from tests.app.test_app import RUN, ask, finished

SIDE = 512.0  # ml of a voxel times 1000


@pytest.fixture(scope="module")
def doe(app: RunningApp, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished case whose scan lies on disk along left, inferior, posterior."""
    image = nib.load(scans / "Doe.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LIP"))
    path = tmp_path_factory.mktemp("turned") / "Doe.nii.gz"
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
    for _ in range(200):
        _, row = ask(app, "GET", f"/api/cases/{case}")
        if row["stage"] != "measuring":
            return dict(row)
        time.sleep(0.1)
    raise AssertionError("the correction is not measured")


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


@pytest.mark.browser
@pytest.mark.parametrize("webgl", [True, False], ids=["webgl", "canvas"])
def test_a_stroke_an_undo_an_eraser_and_a_press_are_in_the_file_and_nothing_else(
    app: RunningApp, doe: str, webgl: bool
) -> None:
    original, affine = labels_of(app, doe, "mask.nii.gz")
    before = ask(app, "GET", f"/api/cases/{doe}/mask.nii.gz")[1]
    with opened(app, doe, webgl=webgl) as (page, view):
        assert view.locator("body").get_attribute("data-ready") == ("gpu" if webgl else "slices")
        choose(view, "brush", 2, brush_size=1)  # mm: less than a voxel, so one voxel wide
        stroke = drag(page, view, (0.45, 0.5), (0.55, 0.5), (0.65, 0.5))
        wrong = drag(page, view, (0.5, 0.4))
        view.locator("#undo").click()
        choose(view, "brush", 0)
        erased = drag(page, view, (0.2, 0.5))  # in the liver
        assert "not saved" in view.locator("#unsaved").inner_text()
        page.click("#csv") if False else None
        view.locator("#keep").click()
        page.wait_for_selector("#correction:visible")
        assert view.locator("#unsaved").inner_text() == ""

        edited, same = labels_of(app, doe)
        np.testing.assert_array_equal(same, affine)
        ends = [voxel_at(place, affine) for place in stroke]
        drawn = line(ends[0], ends[1]) | line(ends[1], ends[2])
        assert len(drawn) > 5 and voxel_at(wrong[0], affine) not in drawn
        expected = original.copy()
        for voxel in drawn:
            assert original[voxel] == 0
            expected[voxel] = 2
        assert original[voxel_at(erased[0], affine)] == 1
        expected[voxel_at(erased[0], affine)] = 0
        np.testing.assert_array_equal(edited, expected)
        row = measured(app, doe)
        assert row["edited"] and row["lesions"] == 2
        assert row["tumor_ml"] == pytest.approx((64 + len(drawn)) * 0.512)

        view.locator("#lesions tbody tr").nth(0).click()  # the tumor that was there
        choose(view, "grow", 0)
        spot = {"webgl": (0.2, 0.36), "canvas": (0.2, 0.36)}["webgl" if webgl else "canvas"]
        pressed = drag(page, view, spot)
        assert original[voxel_at(pressed[0], affine)] == 2
        view.locator("#keep").click()
        view.locator("#keep:disabled").wait_for()
        page.wait_for_function("!document.querySelector('#message').textContent")
        for _ in range(100):
            if view.locator("#unsaved").inner_text() == "":
                break
            time.sleep(0.1)
        without, _ = labels_of(app, doe)
        np.testing.assert_array_equal(without, np.where(original == 2, 0, expected))

        choose(view, "grow", 2, tolerance=70, reach=40)  # the borders stay where they are: see Drawing
        drag(page, view, spot)
        view.locator("#keep").click()
        view.locator("#unsaved:not(:empty)").wait_for(state="detached") if False else None
        for _ in range(100):
            if view.locator("#unsaved").inner_text() == "":
                break
            time.sleep(0.1)
        np.testing.assert_array_equal(labels_of(app, doe)[0], expected)

        page.on("dialog", lambda dialog: dialog.accept())
        measured(app, doe)
        page.reload()
        view.locator("#correct").wait_for()
        assert view.locator(".panel:visible h2 b").all_inner_texts() == ["Scan", "Before", "Corrected"]
        page.click("#take-back")
        page.wait_for_selector("#correction", state="hidden")
    assert ask(app, "GET", f"/api/cases/{doe}/edited.nii.gz")[0] == 404
    assert ask(app, "GET", f"/api/cases/{doe}/mask.nii.gz")[1] == before
