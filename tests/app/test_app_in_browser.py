"""The app in a real browser: drop a scan, wait, see the mask, go back, take a second one; on a phone as well."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liver_pipeline.io.findings import CODES
from tests.app.conftest import RunningApp

pytestmark = pytest.mark.browser
DROP = """([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""


def assert_liver_is_on_the_left(panel: Any) -> None:
    seen = np.asarray(Image.open(io.BytesIO(panel.screenshot())).convert("RGB"), dtype=int)[32:]
    orange = np.nonzero((seen[..., 0] - seen[..., 2]) > 40)
    assert orange[0].size > 200 and orange[1].mean() < 0.45 * seen.shape[1]


def test_drop_wait_see_go_back_and_a_second_one(app: RunningApp, scans: Path) -> None:
    from tests.browser import browser_page

    with browser_page(webgl=False, viewport={"width": 1280, "height": 900}) as page:
        page.goto(app.link)
        page.wait_for_selector("#run option[value=threshold]", state="attached")
        assert "token" not in page.url  # it is in a cookie now
        page.select_option("#run", "threshold")
        page.set_input_files("#reference", scans / "Doe-reference.nii.gz")
        page.evaluate(DROP, ["Doe.nii.gz", base64.b64encode((scans / "Doe.nii.gz").read_bytes()).decode()])
        page.click("#cases tbody tr:has-text('Doe')")
        page.wait_for_selector("#view:visible")
        view = page.frame_locator("#view")
        view.locator("body[data-ready]").wait_for()
        assert view.locator(".panel h2 b").all_inner_texts() == ["Scan", "Reference", "Mask"]
        assert_liver_is_on_the_left(view.locator(".panel:visible").nth(2))
        assert "liver: Dice 1.000, IoU 1.000" in page.inner_text("#scores")
        page.select_option("#verdict", "accept")
        page.click("#save")

        page.click("#back")
        page.wait_for_selector("#cases tbody tr:has-text('accept')")
        page.set_input_files("#files", scans / "Roe.nii.gz")
        page.click("#cases tbody tr:has-text('Roe')")
        page.wait_for_selector("#view:visible")
        view.locator("#lesions tbody tr").nth(1).wait_for()
        assert page.inner_text("#name") == "Roe" and not page.is_visible("#message")
        page.click("#next")
        page.wait_for_selector("#name:has-text('Doe')")


def test_a_phone_shows_all_of_a_mask_with_webgl_and_says_what_is_wrong_with_a_broken_scan(
    app: RunningApp, scans: Path, tmp_path: Path
) -> None:
    from tests.browser import browser_page

    (tmp_path / "broken.nii.gz").write_bytes(b"no scan at all")
    with browser_page(webgl=True, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:

        def nothing_sticks_out() -> bool:
            wide = "document.documentElement.scrollWidth"
            return all(frame.evaluate(wide) <= 390 for frame in page.frames)

        page.goto(app.link)
        page.wait_for_selector("#run option[value=threshold]", state="attached")
        page.select_option("#run", "threshold")
        page.set_input_files("#files", [tmp_path / "broken.nii.gz", scans / "Roe.nii.gz"])
        page.click("#cases tbody tr:has-text('broken')")
        page.wait_for_selector("#state.bad")
        assert page.inner_text("#state").partition(":")[0] in CODES and nothing_sticks_out()
        page.click("#back")
        assert nothing_sticks_out()
        page.click("#cases tbody tr:has-text('Roe'):has-text('done')")
        view = page.frame_locator("#view")
        view.locator("body[data-ready]").wait_for()
        assert_liver_is_on_the_left(view.locator(".panel:visible").nth(1))
        assert nothing_sticks_out()
