"""How many instances a series has, by the word of who sends it: C-FIND."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.node.peers import Peer, association
from liver_pipeline.node.tls import Tls

logger = logging.getLogger(__name__)

PENDING = (0xFF00, 0xFF01)


def instances_of(
    series: Dataset, title: str, peers: Sequence[Peer], *, tls: Tls | None = None, timeout_s: float = 10.0
) -> int | None:
    """Ask peers for NumberOfSeriesRelatedInstances of a series.

    Args:
        series: Holds StudyInstanceUID and SeriesInstanceUID.
        title: Our AE title.
        peers: Whom to ask.
        tls: How to connect; None: without TLS.
        timeout_s: For the connection and for each answer.

    Returns:
        The largest number; None if nobody knows the series, says a number, or answers, which is logged.
    """
    query = Dataset()
    query.QueryRetrieveLevel, query.NumberOfSeriesRelatedInstances = "SERIES", None
    query.StudyInstanceUID, query.SeriesInstanceUID = series.get("StudyInstanceUID"), series.get("SeriesInstanceUID")
    counts = []
    for peer in peers:
        try:
            with association(title, peer, [(StudyRoot, None)], tls, timeout_s) as opened, quietly():
                counts += [_count(found) for status, found in opened.send_c_find(query, StudyRoot) if _is_hit(status)]
        except IntakeError as reason:
            logger.warning("it is not known how long a series is: %s", reason)
        except Exception as reason:  # whatever the wire brings
            logger.warning("it is not known how long a series is: %s: %s", peer, type(reason).__name__)
    return max(counts, default=0) or None


def _is_hit(status: Dataset) -> bool:
    return "Status" in status and status.Status in PENDING


def _count(found: Any) -> int:
    return int(found.get("NumberOfSeriesRelatedInstances") or 0) if found is not None else 0
