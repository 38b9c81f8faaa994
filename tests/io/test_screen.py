"""Who stops listening undoes no job."""

from __future__ import annotations

import os
import shlex
import subprocess
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


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    """What libraries print to numbers 1 and 2 would go into a mask."""
    code = (
        "import sys; from liver_pipeline.io.screen import open_streams; open_streams(); "
        "print('x'); print('x', file=sys.stderr); sys.exit(open('/dev/null').fileno())"
    )
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"], check=False
        )
        assert done.returncode > 2
