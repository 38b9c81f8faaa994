"""One table of a folder of masks: the liver, the tumors and the longest lesion of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from liver_pipeline.io.file_names import DESCRIPTION, fitting_name
from liver_pipeline.io.tables import read_json, write_table_or_warn

logger = logging.getLogger(__name__)

LIVER_TABLE = "livers.csv"  # in a folder of masks
LIVER_FIGURES = (
    "liver_with_tumor_ml",
    "liver_without_tumor_ml",
    "tumor_ml",
    "tumor_burden",
    "lesion_count",
    "truncated",
)


def liver_row(case: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a case, from the table of :func:`~liver_pipeline.evaluation.description.describe`."""
    figures = {name: table["liver"][name] for name in LIVER_FIGURES}
    return {"case": case, **figures, "longest_mm": longest_mm(table["lesions"])}


def longest_mm(lesions: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the longest diameter of all lesions of such a table, None without any."""
    return max((lesion["diameter_mm"] for lesion in lesions), default=None)


def write_liver_table(folder: Path, cases: Iterable[str]) -> str:
    """Write ``livers.csv`` into a folder of masks, by case, from the tables that lie beside its masks.

    Args:
        folder: Of the masks.
        cases: Those that are done; ones without a table, which nobody asked for, are left out.

    Returns:
        A line on it, or "" where no mask has a table. What cannot be read or written is only warned of: the tables
        beside the masks have it all.
    """
    rows = []
    for case in sorted(cases):
        mask = folder / case
        try:
            rows.append(liver_row(case, read_json(mask.with_name(fitting_name(mask.name, DESCRIPTION)))))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as reason:
            logger.warning("%s has no row in %s: its table cannot be read (%s)", case, folder / LIVER_TABLE, reason)
    if not rows:
        return ""
    write_table_or_warn(folder / LIVER_TABLE, rows)
    return f"{len(rows)} masks have a table, all in one: {folder / LIVER_TABLE}"
