"""How the node sends results: by C-STORE, and what any way of sending makes of what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydicom

from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.findings import refuse
from liver_pipeline.node.peers import Peer, association
from liver_pipeline.node.tls import Tls

# Of C-STORE: stored, stored with a remark, or there already, for our UIDs are the same at each try.
HAS_IT = (0x0000, 0xB000, 0xB006, 0xB007, 0x0111)
PROCESSING_FAILED = 0x0110


class NotTaken(NamedTuple):
    """Why a file was not taken, and whether it may be later."""

    why: str
    passing: bool = False


def refusal_of(status: int) -> NotTaken | None:
    """Return what a status of C-STORE means; None if the peer has the instance."""
    if status in HAS_IT:
        return None
    return NotTaken(f"status 0x{status:04X}", status == PROCESSING_FAILED or 0xA700 <= status < 0xA800)


def send_each(files: Sequence[Path], who: str, send_one: Callable[[Path], NotTaken | None]) -> dict[str, str]:
    """Send all files: what is not taken keeps nothing else back.

    Returns:
        Name of a SOP class to why ``who`` will not take it; other instances of it may have arrived.

    Raises:
        IntakeError: PEER_REFUSED if none was taken, or one may be later; others may have arrived. What ``send_one``
            raises.
    """
    refused = {file: refusal for file in files if (refusal := send_one(file)) is not None}
    passing = [f"{refusal.why} for {_class_name(file)}" for file, refusal in refused.items() if refusal.passing]
    if passing or len(refused) == len(files):
        none = [f"none was taken: {refusal.why}" for refusal in refused.values()]
        raise refuse(who, "PEER_REFUSED", (passing or none)[0])
    return {_class_name(file): refusal.why for file, refusal in refused.items()}


def send(
    files: Sequence[Path], title: str, peer: Peer, *, tls: Tls | None = None, timeout_s: float = 30.0
) -> dict[str, str]:
    """Send files to a peer by C-STORE, in the transfer syntax that they have.

    Returns:
        Name of a SOP class to why the peer will not take it.

    Raises:
        IntakeError: PEER_UNREACHABLE if it does not answer or speaks something else; PEER_REFUSED, see
            :func:`send_each`.
    """

    def send_one(file: Path) -> NotTaken | None:
        try:
            with quietly():
                status = opened.send_c_store(file)
        except ValueError:  # no context was agreed on
            return NotTaken("neither this SOP class nor its transfer syntax is taken")
        except RuntimeError:
            raise refuse(str(peer), "PEER_UNREACHABLE", "the peer ended the association") from None
        if "Status" not in status:
            raise refuse(str(peer), "PEER_UNREACHABLE", "the peer stopped answering")
        return refusal_of(status.Status)

    kinds: list[tuple[str, str | None]] = sorted({_kind_of(file) for file in files})
    with association(title, peer, kinds, tls, timeout_s) as opened:
        return send_each(files, str(peer), send_one)


def _class_name(file: Path) -> str:
    name: str = pydicom.uid.UID(_kind_of(file)[0]).name
    return name


def _kind_of(file: Path) -> tuple[Any, Any]:
    meta = pydicom.filereader.read_file_meta_info(file)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
