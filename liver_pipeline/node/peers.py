"""Peers of the node, and associations with them."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, evt

from liver_pipeline.io.findings import refuse
from liver_pipeline.node.tls import Tls

TITLE = r"[^@,\\]{1,16}"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
STALLED_S = 30.0  # what stops in the middle of a message for so long is given up


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
        found = re.fullmatch(rf"({TITLE})@(.+):(\d{{1,5}})", text)
        if found is None or not 0 < int(found[3]) < 65536:
            raise ValueError(f"{text!r} is no peer; expected AET@HOST:PORT, such as PACS@10.0.0.1:104")
        return cls(found[1], found[2], int(found[3]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def senders(text: str) -> tuple[list[str], list[Peer]]:
    """Read ``AET[@HOST:PORT],...``: the titles that may send, and those of them that can be asked.

    Raises:
        ValueError: If one is something else.

    Example:
        >>> senders("CT1,PACS@10.0.0.1:104")
        (['CT1', 'PACS'], [Peer(title='PACS', host='10.0.0.1', port=104)])
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    asked = [Peer.of(part) for part in parts if "@" in part]
    if not parts or any(re.fullmatch(TITLE, part.partition("@")[0]) is None for part in parts):
        raise ValueError(f"{text!r} names no senders; expected AET or AET@HOST:PORT, with commas between them")
    return [part.partition("@")[0] for part in parts], asked


@contextmanager
def association(
    title: str, peer: Peer, contexts: Collection[tuple[str, str | None]], tls: Tls | None, timeout_s: float
) -> Iterator[Any]:
    """Open an association with a peer.

    Args:
        title: Our AE title.
        peer: Whom we call.
        contexts: SOP class and transfer syntax of each presentation context; None stands for the usual ones.
        tls: How to connect; None: without TLS.
        timeout_s: For the connection and each answer.

    Raises:
        IntakeError: PEER_UNREACHABLE if it does not answer, speaks something else or does not know us; PEER_REFUSED if
            it takes none of the contexts.
    """
    entity = AE(ae_title=title)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    for sop_class, syntax in contexts:
        entity.add_requested_context(sop_class, syntax)
    opened = entity.associate(
        peer.host, peer.port, ae_title=peer.title, evt_handlers=[(evt.EVT_CONN_OPEN, bound, [timeout_s])],
        tls_args=None if tls is None else (tls.client(), peer.host),
    )  # fmt: skip
    if not opened.is_established:
        if opened.rejected_contexts:
            raise refuse(str(peer), "PEER_REFUSED", "it takes none of these SOP classes and transfer syntaxes")
        by_tls = "" if tls is None else ", or its certificate is not trusted or is another host's"
        why = "refused our AE title" if opened.is_rejected else f"did not answer{by_tls}"
        raise refuse(str(peer), "PEER_UNREACHABLE", f"the peer {why}")
    try:
        yield opened
    finally:
        opened.release()


def bound(event: Any, seconds: float) -> None:
    """Let a connection end that stops for so long in the middle of a message, or of the handshake of TLS.

    And send each message at once: small ones wait for each other otherwise, 50 ms for each instance.
    """
    connection = event.assoc.dul.socket.socket
    connection.settimeout(seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
