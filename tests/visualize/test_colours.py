from __future__ import annotations

import re
from pathlib import Path

import liver_pipeline
from liver_pipeline.visualize.colours import PREDICTION_RGB, REFERENCE_RGB

PACKAGE = Path(liver_pipeline.__file__).parent


def named(css: str, name: str) -> list[str]:
    return re.findall(rf"--{name}: (#\w+);", (PACKAGE / css).read_text(encoding="utf-8"))


def hexed(colour: tuple[int, int, int]) -> str:
    return f"#{bytes(colour).hex()}"


def test_the_keys_of_a_page_have_the_colours_of_its_pictures_and_of_the_viewer() -> None:
    light, dark = zip(named("reports/page.css", "ref"), named("reports/page.css", "pred"), strict=True)
    assert dark == (hexed(REFERENCE_RGB), hexed(PREDICTION_RGB))
    assert light == (*named("app/web/viewer.css", "reference"), *named("app/web/viewer.css", "mask"))
