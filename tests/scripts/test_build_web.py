"""Fetching NiiVue: without npm, or without a network, a build goes on and says what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts import build_web


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """The folder of the page's source as a checkout has it, without NiiVue."""
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(build_web.WEB / name, tmp_path)
    return tmp_path


def test_without_npm_the_reason_comes_back(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "npm is not installed" in build_web.fetch(web)
    (web / build_web.SCRIPT).write_text("of an earlier build")
    assert build_web.fetch(web) == ""


def test_an_npm_that_fails_leaves_nothing_half_done(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = web / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    assert "no network" in build_web.fetch(web)
    assert not (web / build_web.SCRIPT).exists() and not (web / build_web.LICENSES).exists()


def test_the_lock_file_holds_hashes_and_no_address_of_a_registry() -> None:
    lock = (build_web.WEB / "package-lock.json").read_text()
    assert '"resolved"' not in lock and '"integrity": "sha512-' in lock
