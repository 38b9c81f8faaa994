"""Who stops listening undoes no job."""

from __future__ import annotations

import os
import sys

import pytest

from liver_pipeline.io.screen import say


def test_lines_for_nobody_raise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    say("closed")
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    say("nobody reads this")
    say("nor this")
    stream.close()  # what was buffered went to nowhere
