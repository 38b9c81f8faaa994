"""Say how far the runs into a folder of masks are, and write it as a page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from liver_pipeline.io.files import write_text
from liver_pipeline.reports.status import read_status, status_page

logger = logging.getLogger(__name__)

STATUS_PAGE = "status.html"  # in the folder of masks


def status(masks: str | Path) -> dict[str, Any]:
    """Read how far the runs into ``masks`` are, and write ``masks/status.html``.

    Args:
        masks: The output folder of ``predict``, of one run or of shards.

    Returns:
        See :func:`liver_pipeline.reports.status.read_status`.

    Raises:
        FileNotFoundError: If no run has written there.
    """
    found = read_status(Path(masks))
    try:
        write_text(Path(masks) / STATUS_PAGE, status_page(found))
    except OSError as reason:  # who may only read the folder sees the lines
        logger.warning("%s cannot be written: %s", Path(masks) / STATUS_PAGE, reason)
    return found
