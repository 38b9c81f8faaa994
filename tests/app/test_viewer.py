"""The viewer in a real browser, with WebGL and without: colours where the mask is, the patient's right on the left."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import liver_pipeline as lp

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body whose liver lies right, with a tumor in front and above; the reference lies left."""
    folder = tmp_path_factory.mktemp("viewer")
    image = np.full((40, 30, 24), -1000, dtype=np.int16)
    image[2:38, 2:28, :] = 40
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[26:36, 6:24, 4:20] = 1  # x grows to the right
    mask[30:34, 18:22, 14:18] = 2
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = (-160, -120, -96)
    for name, array in (("scan", image), ("mask", mask), ("reference", mask[::-1])):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return lp.view(folder / "scan.nii.gz", folder / "mask.nii.gz", reference=folder / "reference.nii.gz")


def picture(page: Any, panel: int) -> npt.NDArray[np.int16]:
    """Return a panel as it is on the screen, without its title: rows, columns, red green blue."""
    png = page.locator(".panel:visible").nth(panel).screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int16)[32:]


def where(coloured: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the middle of pixels, as shares of the picture's height and width."""
    rows, columns = np.nonzero(coloured)
    assert rows.size > 50
    return float(rows.mean() / coloured.shape[0]), float(columns.mean() / coloured.shape[1])


@pytest.mark.parametrize("webgl", [True, False], ids=["webgl", "canvas"])
def test_masks_are_coloured_where_they_are_and_a_press_goes_to_the_lesion(page_file: Path, webgl: bool) -> None:
    from tests.browser import browser_page

    if webgl and not files("liver_pipeline").joinpath("app", "web", "niivue.umd.js").is_file():
        pytest.skip("NiiVue is not in this installation: there was no npm when it was built")
    with browser_page(webgl=webgl, viewport={"width": 1200, "height": 760}) as page:
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-ready]")
        assert page.evaluate("document.body.dataset.ready") == ("gpu" if webgl else "slices")
        assert page.locator(".panel:visible h2 b").all_inner_texts() == ["Scan", "Reference", "Mask"]
        legends = [title.locator("span").all_inner_texts() for title in page.locator(".panel:visible h2").all()]
        assert legends == [[""], ["liver", "tumor"], ["liver", "tumor"]]  # which colour is which
        plain, reference, mask = (picture(page, number) for number in range(3))
        assert np.abs(plain[..., 0] - plain[..., 2]).max() < 160  # grey, but for the crosshair's green
        blue = (reference[..., 2] - reference[..., 0]) > 60
        orange = (mask[..., 0] - mask[..., 2]) > 40
        assert where(orange)[1] < 0.45 < 0.55 < where(blue)[1]  # the patient's right is on the left
        red = (mask[..., 0] - mask[..., 1]) > 60  # the tumor lies in front: above the liver's middle
        assert where(red)[0] < where(orange)[0] - 0.02

        assert page.locator("#lesions th").all_inner_texts() == ["#", "volume, ml", "longest, mm", "mean HU", "match"]
        page.click("#lesions tbody tr")
        text = page.inner_text("#readout")  # the middle of voxels 30 to 33, 18 to 21, 14 to 17
        assert "R 96.0" in text and "A 40.0" in text and "S 32.0" in text and "mask: tumor" in text
        picture_of_slices = page.locator(".panel:visible canvas").first
        assert picture_of_slices.get_attribute("aria-label") == "axial slice"
        picture_of_slices.focus()
        page.keyboard.press("ArrowUp")  # as the wheel does: to the next slice, of 8 mm
        assert "S 40.0" in page.inner_text("#readout")
        page.keyboard.press("ArrowDown")
        page.click("button[value=coronal]")
        red = (lambda seen: (seen[..., 0] - seen[..., 1]) > 60)(picture(page, 2))
        assert where(red)[0] < 0.5  # up is up
        page.click("button[value=overlay]")
        assert page.locator(".panel:visible").count() == 1


def test_a_phone_shows_panels_below_each_other_and_nothing_sticks_out(page_file: Path) -> None:
    from tests.browser import browser_page

    with browser_page(webgl=False, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-ready=slices]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        boxes = [panel.bounding_box() for panel in page.locator(".panel:visible").all()]
        tops = [box["y"] for box in boxes if box and box["height"] > 250]
        assert len(tops) == 3 and tops == sorted(set(tops))
        assert page.locator("button[value=solid]").is_disabled()
        without = "WebGL" if files("liver_pipeline").joinpath("app", "web", "niivue.umd.js").is_file() else "NiiVue"
        assert without in page.inner_text("#notes")


@pytest.mark.parametrize("judged", [True, False], ids=["judged", "not judged"])
def test_a_liver_that_the_scan_cuts_off_is_told_once(tmp_path: Path, judged: bool) -> None:
    from tests.browser import browser_page

    mask = np.zeros((20, 20, 16), dtype=np.uint8)
    mask[4:14, 4:14, 6:] = 1
    image = np.where(mask > 0, np.int16(60), np.int16(-1000))
    for name, array in (("scan", image), ("mask", mask)):
        nib.save(nib.Nifti1Image(array, np.diag([8.0, 8.0, 8.0, 1.0])), tmp_path / f"{name}.nii.gz")
    reasons = [{"code": "LIVER_CUT_OFF", "message": "the border of the scan cuts through the liver"}] if judged else []
    sha256 = lp.read_label_map(tmp_path / "mask.nii.gz").sha256
    record = {"output": {"sha256": sha256}, "warnings": [], "quality": {"flagged": judged, "reasons": reasons}}
    (tmp_path / "mask.json").write_text(json.dumps(record))
    with browser_page(webgl=False) as page:
        page.goto(lp.view(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz").as_uri())
        page.wait_for_selector("body[data-ready=slices]")
        told = [line for line in page.locator("#notes li").all_inner_texts() if " cut" in line]
        assert len(told) == 1 and ("LIVER_CUT_OFF" in told[0]) == judged
