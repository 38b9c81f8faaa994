"""TLS of the node: its certificate, and whom it believes; with and without it the DICOM inside is the same."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tls:
    """PEM files; at least TLS 1.2 is spoken.

    Attributes:
        certificate: Ours, followed by those between it and its authority; without it we cannot listen by TLS.
        key: Of the certificate, not encrypted.
        authority: Signs the certificates of peers. Without it the system's authorities do, and who connects to us
            shows none.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def server(self) -> ssl.SSLContext:
        """Return what to listen with; peers must show a certificate where an authority is named.

        Raises:
            ValueError: If a file cannot be read or used.
        """
        context = self._load(_PatientContext(ssl.PROTOCOL_TLS_SERVER))
        context.verify_mode = ssl.CERT_NONE if self.authority is None else ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """Return what to connect with: the name and the certificate of the peer are checked.

        Raises:
            ValueError: If a file cannot be read or used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.authority is None:
            context.load_default_certs()
        return self._load(context)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.authority is not None:
            with _told("--tls-ca", self.authority):
                context.load_verify_locations(self.authority)
        if self.certificate is not None:
            with _told("--tls-cert and --tls-key", self.certificate):
                context.load_cert_chain(self.certificate, self.key, password=_refuse_password)
        return context


class _PatientContext(ssl.SSLContext):
    """Shakes hands when an association first reads, in its thread: pynetdicom's way is in the one thread that accepts
    connections, where a peer that says nothing would keep all others out."""

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **{**options, "do_handshake_on_connect": False})


@contextmanager
def _told(option: str, path: Path) -> Iterator[None]:
    """Say which option a file was for, if it cannot be used."""
    try:
        yield
    except OSError as reason:  # ssl.SSLError is one
        why = reason.strerror or getattr(reason, "reason", "") or reason
        raise ValueError(f"{option}: {path} cannot be used: {why}; expected PEM, the key not encrypted") from None


def _refuse_password() -> str:
    raise OSError("the key is encrypted, and a node that starts by itself cannot ask for its password")
