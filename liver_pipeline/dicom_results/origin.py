"""What a DICOM result says of where its mask comes from, and the UIDs that follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any

from liver_pipeline.dicom_results.source import SourceSeries
from liver_pipeline.dicom_results.uids import derived_uid


@dataclass(frozen=True)
class Origin:
    """Where a mask comes from.

    Attributes:
        key: Hash of slices, mask, weights, settings and version; the same for the same five.
        made: When the mask was made; what is written into a result, so that it can be made again to the byte.
        automatic: A network made the mask, and nobody changed it since.
        weights: sha256 of the weights; "" where it is unknown.
        settings: sha256 of all else that decides what the mask is; "" where it is unknown.
        labels: What the network looks for: 1 liver, 2 tumor.
        quality: The record's word on the mask: ``{"flagged": ..., "reasons": [...]}``; empty where it has none.
    """

    key: str
    made: datetime
    automatic: bool
    weights: str = ""
    settings: str = ""
    labels: Sequence[int] = (1, 2)
    quality: Mapping[str, Any] = field(default_factory=dict)

    def uid(self, what: str) -> str:
        """Return a UID of our own, the same for the same origin and ``what``."""
        return derived_uid(f"{self.key}/{what}")


def origin_of(source: SourceSeries, mask_sha256: str, record: Mapping[str, Any] | None = None) -> Origin:
    """Return the origin of a mask.

    Args:
        source: The slices that it belongs to.
        mask_sha256: Of the mask's file.
        record: What ``predict`` wrote beside the mask; what it says is used where it is of this mask.
    """
    record = record or {}
    ours = record.get("output", {}).get("sha256") == mask_sha256
    weights = record["weights"]["sha256"] if ours else ""
    settings = record["config"]["sha256"] if ours else ""
    slices = [header.SOPInstanceUID for header in source.headers]
    parts = [version("liver-pipeline"), mask_sha256, weights, settings, *slices]
    return Origin(
        key=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        made=datetime.fromisoformat(record["timing"]["started"]) if ours else datetime.now().astimezone(),
        automatic=ours,
        weights=weights,
        settings=settings,
        labels=tuple(int(label) for label in record["labels"]) if "labels" in record else (1, 2),
        quality=(record.get("quality") or {}) if ours else {},
    )
