"""What readers say of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.volumes import read_scan


def code_of(path: Path, **options: Any) -> str:
    """Return the first code with which a scan is refused, "" if it is read."""
    try:
        read_scan(path, **options)
    except IntakeError as reason:
        return reason.code
    return ""
