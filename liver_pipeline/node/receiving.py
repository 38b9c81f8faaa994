"""What the node receives with: an SCP that keeps CT and MR, and says why it does not keep something."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import Verification

from liver_pipeline.io.dicom_classes import CT, IMAGE_CLASSES, MR, quietly
from liver_pipeline.io.findings import refuse
from liver_pipeline.node.inbox import Inbox
from liver_pipeline.node.peers import STALLED_S, UID, bound
from liver_pipeline.node.tls import Tls

logger = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
SLICES = tuple(uid for uid in IMAGE_CLASSES if uid.startswith((CT, MR)))  # what the node takes
SYNTAX_NOT_SUPPORTED = 4  # result of a presentation context
GREETING_S = 5.0  # within so long a connection has to become an association
STRANGERS = 100  # so many are told in the log, each once: it is no place to fill a disk


def receive(
    inbox: Inbox, title: str, address: tuple[str, int], allowed: Collection[str], tls: Tls | None = None
) -> Any:
    """Start to receive CT and MR in the background, in every transfer syntax of the standard.

    C-STORE answers success when the instance is on disk. Only peers that call themselves one of ``allowed``, and call
    us by ``title``, are served.

    Returns:
        The server; ``shutdown()`` ends it.

    Raises:
        IntakeError: PORT_TAKEN.
        ValueError: If a file of ``tls`` cannot be used.
    """
    entity = AE(ae_title=title)
    entity.require_called_aet = True
    entity.require_calling_aet = sorted(allowed)
    # Who says nothing, or nonsense, is counted among the associations until it is given up, and keeps no others out.
    entity.maximum_associations, entity.acse_timeout = 1000, GREETING_S
    entity.add_supported_context(Verification)
    for uid in SLICES:
        entity.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, bound, [GREETING_S]),
        (evt.EVT_ACCEPTED, bound, [STALLED_S]),
        (evt.EVT_ACCEPTED, _tell_syntaxes),
        (evt.EVT_C_STORE, _store, [inbox]),
        (evt.EVT_REJECTED, _tell_rejected, [set()]),
    ]
    where = f"{address[0]}:{address[1]}"
    context = None if tls is None else tls.server()
    try:
        server = entity.start_server(address, block=False, evt_handlers=handlers, ssl_context=context)
    except OSError as reason:
        raise refuse(where, "PORT_TAKEN", f"{reason.strerror}; is another node running? choose another port") from None
    logger.info("%s listens on %s%s", title, where, "" if tls is None else " by TLS")
    return server


def _store(event: Any, inbox: Inbox) -> int | Dataset:
    """Keep one instance; what cannot be kept is refused, so that the sender has it still."""
    try:
        with quietly():
            series, instance = str(event.dataset.SeriesInstanceUID), str(event.request.AffectedSOPInstanceUID)
        if not (UID.fullmatch(series) and UID.fullmatch(instance)):
            return _refusal(CANNOT_UNDERSTAND, "a UID is empty, or is none")
        inbox.keep(series, instance, event.encoded_dataset())
    except OSError as reason:
        return _refusal(OUT_OF_RESOURCES, reason.strerror or type(reason).__name__)
    except AttributeError:
        return _refusal(CANNOT_UNDERSTAND, "no SeriesInstanceUID")
    except Exception as reason:  # whatever the wire brings
        return _refusal(CANNOT_UNDERSTAND, type(reason).__name__)
    return SUCCESS


def _refusal(status: int, why: str) -> Dataset:
    """Return what C-STORE answers; nothing of the instance is in it."""
    logger.warning("an instance was refused with 0x%04X: INSTANCE_REFUSED: %s", status, why)
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, f"INSTANCE_REFUSED: {why}"[:64]  # LO
    return answer


def _tell_syntaxes(event: Any) -> None:
    """Say which images a peer offers in transfer syntaxes that are not the standard's; it is told, too."""
    taken = {str(context.abstract_syntax) for context in event.assoc.accepted_contexts}
    for context in event.assoc.rejected_contexts:
        if context.result == SYNTAX_NOT_SUPPORTED and str(context.abstract_syntax) not in taken:
            syntax = ", ".join(_printable(str(uid)) for uid in context.transfer_syntax)
            peer = _printable(event.assoc.requestor.ae_title)
            logger.warning("%s offers images in %s: TRANSFER_SYNTAX: let it send another one", peer, syntax)


def _tell_rejected(event: Any, told: set[tuple[str, str, str]]) -> None:
    """Say who was refused, each once."""
    requestor, ours = event.assoc.requestor, event.assoc.ae
    called = requestor.primitive.called_ae_title
    who = _printable(requestor.ae_title), _printable(called), requestor.address
    if who in told or len(told) >= STRANGERS:
        return
    told.add(who)
    if requestor.ae_title in ours.require_calling_aet and called == ours.ae_title:
        logger.warning("%s was refused, which calls us %s, from %s: too many associations at once", *who)
    else:
        logger.warning("%s was refused, which calls us %s, from %s: PEER_UNKNOWN", *who)


def _printable(text: str) -> str:
    """Return what came over the wire as it can stand in a line of a log."""
    return re.sub(r"[^!-~]", "?", text.strip())[:64]
