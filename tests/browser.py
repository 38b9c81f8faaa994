"""What tests in a browser share: Debian's chromium, with and without WebGL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.waiting import PATIENCE_S

SOFTWARE_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


@contextmanager
def browser_page(*, webgl: bool, **context: Any) -> Iterator[Page]:
    """Open a page; at its end, fail if anything was asked of another host, or if a script failed.

    ``context`` is Playwright's, such as the size of the screen.
    """
    errors: list[str] = []
    flags = SOFTWARE_WEBGL if webgl else NO_WEBGL
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", *flags]
        )
        try:
            page = browser.new_context(**context).new_page()
            page.set_default_timeout(PATIENCE_S * 1000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("request", lambda request: errors.append(request.url) if _goes_out(request.url) else None)
            yield page
        finally:
            browser.close()
    assert not errors


def _goes_out(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))
