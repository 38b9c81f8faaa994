"""The node's two ends on the network: what receives, and what sends."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import Verification

from liver_pipeline.io.dicom_headers import CT, IMAGE_CLASSES, MR, quietly
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.node.inbox import Inbox

logger = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
WARNINGS = (0xB000, 0xB006, 0xB007)  # of C-STORE: stored, with a remark
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
SLICES = tuple(uid for uid in IMAGE_CLASSES if uid.startswith((CT, MR)))  # what the node takes


@dataclass(frozen=True)
class Peer:
    """Another node: AE title, host and port."""

    title: str
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Peer:
        """Read ``AET@HOST:PORT``.

        Raises:
            ValueError: If it is something else.

        Example:
            >>> Peer.of("PACS@10.0.0.1:104")
            Peer(title='PACS', host='10.0.0.1', port=104)
        """
        found = re.fullmatch(r"([^@]{1,16})@(.+):(\d{1,5})", text)
        if found is None or not 0 < int(found[3]) < 65536:
            raise ValueError(f"{text!r} is no peer; expected AET@HOST:PORT, such as PACS@10.0.0.1:104")
        return cls(found[1], found[2], int(found[3]))


def receive(inbox: Inbox, title: str, address: tuple[str, int], allowed: Collection[str]) -> Any:
    """Start to receive CT and MR in the background, in every transfer syntax.

    C-STORE answers success when the instance is on disk. Only peers that call themselves one of ``allowed``, and call
    us by ``title``, are served.

    Returns:
        The server; ``shutdown()`` ends it.

    Raises:
        IntakeError: PORT_TAKEN.
    """
    entity = AE(ae_title=title)
    entity.require_called_aet = True
    entity.require_calling_aet = sorted(allowed)
    entity.maximum_associations, entity.acse_timeout = 100, 10  # who says nothing does not keep others out
    entity.add_supported_context(Verification)
    for uid in SLICES:
        entity.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
    try:
        return entity.start_server(address, block=False, evt_handlers=[(evt.EVT_C_STORE, _store, [inbox])])
    except OSError as reason:
        where = f"{address[0]}:{address[1]}"
        raise refuse(where, "PORT_TAKEN", f"{reason.strerror}; is another node running? choose another port") from None


def _store(event: Any, inbox: Inbox) -> int:
    """Keep one instance; what cannot be kept is refused, so that the sender has it still."""
    try:
        with quietly():
            series, instance = str(event.dataset.SeriesInstanceUID), str(event.request.AffectedSOPInstanceUID)
        if not (UID.fullmatch(series) and UID.fullmatch(instance)):
            return CANNOT_UNDERSTAND
        inbox.keep(series, instance, event.encoded_dataset())
    except OSError as reason:
        logger.error("an instance was refused: %s", reason.strerror)
        return OUT_OF_RESOURCES
    except Exception as reason:  # whatever the wire brings
        logger.warning("an instance was refused: %s", type(reason).__name__)
        return CANNOT_UNDERSTAND
    return SUCCESS


def send(files: Sequence[Path], title: str, peer: Peer, *, timeout_s: float = 30.0) -> None:
    """Send files to a peer by C-STORE, in the transfer syntax that they have.

    Raises:
        IntakeError: PEER_UNREACHABLE if it does not answer or speaks something else, PEER_REFUSED if it does not take
            one of the files; those before it have arrived.
    """
    name = f"{peer.title}@{peer.host}:{peer.port}"
    entity = AE(ae_title=title)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    for uid, syntax in sorted({_kind_of(file) for file in files}):
        entity.add_requested_context(uid, syntax)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        why = "refused our AE title" if association.is_rejected else "did not answer"
        raise refuse(name, "PEER_UNREACHABLE", f"the archive {why}; results wait and are sent again")
    try:
        for file in files:
            _send_one(association, file, name)
    finally:
        association.release()


def _send_one(association: Any, file: Path, name: str) -> None:
    try:
        with quietly():
            status = association.send_c_store(file)
    except (ValueError, RuntimeError) as reason:  # no context was agreed on, or the association is gone
        what = f"{''.join(file.suffixes[-2:])}: {type(reason).__name__}"
        code = "PEER_REFUSED" if isinstance(reason, ValueError) else "PEER_UNREACHABLE"
        raise refuse(name, code, f"{what}; does the archive take this SOP class and transfer syntax?") from reason
    if "Status" not in status:
        raise refuse(name, "PEER_UNREACHABLE", "the archive stopped answering; results wait and are sent again")
    if status.Status != SUCCESS and status.Status not in WARNINGS:
        raise refuse(name, "PEER_REFUSED", f"status 0x{status.Status:04X} for {''.join(file.suffixes[-2:])}")


def _kind_of(file: Path) -> tuple[str, str]:
    meta = pydicom.filereader.read_file_meta_info(file)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


__all__ = ["IntakeError", "Peer", "receive", "send"]
