"""UIDs of our own."""

from __future__ import annotations

import uuid


def derived_uid(text: str) -> str:
    """Return the UID that follows from a text: a name-based UUID as DICOM writes it (PS3.5 B.2).

    Example:
        >>> derived_uid("a") == derived_uid("a"), derived_uid("a").startswith("2.25.")
        (True, True)
    """
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'liver-pipeline/{text}').int}"
