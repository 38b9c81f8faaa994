"""The pages of docs/reference are what the code says today."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.make_reference import REFERENCE, pages

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_not_fallen_behind(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name], "run `make bundle`"


def test_nothing_else_lies_there_under_these_names() -> None:
    assert {path.name for path in Path(REFERENCE).glob("*.md")} >= set(PAGES)
