"""Hints: the nearest known name, or none where nothing is near."""

from __future__ import annotations

import pytest

from liver_pipeline.hints import did_you_mean
from liver_pipeline.io.findings import known_codes

KNOWN = ("unet3d", "resnet34_unet", "segresnet")


@pytest.mark.parametrize(
    ("typed", "meant"), [("segresnt", "segresnet"), ("resnet35", "resnet34_unet"), ("UNET3D", "unet3d")]
)
def test_the_nearest_name_is_suggested(typed: str, meant: str) -> None:
    assert did_you_mean(typed, KNOWN) == f"; did you mean '{meant}'?"


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert did_you_mean("qqqq", KNOWN) == ""
    assert did_you_mean("unet3d", ()) == ""


def test_a_mistyped_code_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown intake code 'HU_SCAL'; did you mean 'HU_SCALE'\?"):
        known_codes(["HU_SCAL"])
