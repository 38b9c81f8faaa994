"""The provenance that ``predict`` writes beside a mask, as others read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liver_pipeline.io.file_names import RECORD, file_beside
from liver_pipeline.io.reader import ScanReader


def record_of(mask: Path, sha256: str) -> dict[str, Any] | None:
    """Return the provenance beside a mask, if it is of this mask; None without one."""
    try:
        record: dict[str, Any] = json.loads(file_beside(mask, RECORD).read_bytes())
        return record if record["output"]["sha256"] == sha256 else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or somebody else's file of that name
        return None


def reader_of(record: Mapping[str, Any] | None) -> ScanReader:
    """Return how the scan was read of which a mask was made, by its provenance; without one as CT, or as an MR says."""
    if not record:  # a mask of others
        return ScanReader(accept=("MODALITY",))
    told = record.get("config", {}).get("settings", {}).get("reader", {})
    known = {name: told[name] for name in ScanReader.__dataclass_fields__ if name in told}
    return ScanReader(**{**known, "accept": (*known.get("accept", ()), *record.get("accepted", ()))})
