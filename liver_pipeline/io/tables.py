"""CSV files, whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.io.files import whole_file


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; a key that only some rows have is blank in the others."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
