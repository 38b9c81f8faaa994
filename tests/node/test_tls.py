"""DICOM by TLS, with certificates made here."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from liver_pipeline.io.findings import IntakeError
from liver_pipeline.node.asking import instances_of
from liver_pipeline.node.inbox import Inbox, hashed
from liver_pipeline.node.peers import Peer
from liver_pipeline.node.sending import send
from liver_pipeline.node.stow import stow
from liver_pipeline.node.tls import Tls
from tests.node.nodes import RESULTS, Site, archive, kinds, node, scan
from tests.node.test_receiving import receiver
from tests.ports import LOOPBACK, free_port
from tests.waiting import wait_for


def made(folder: Path, name: str, host: str = LOOPBACK, *, by: trustme.CA | None = None) -> Tls:
    """Certificate, key and authority as files."""
    authority = by or trustme.CA()
    folder.mkdir(exist_ok=True)
    one = authority.issue_cert(host)
    ours = Tls(folder / f"{name}.crt", folder / f"{name}.key", folder / "ca.pem")
    one.cert_chain_pems[0].write_to_path(ours.certificate or "")
    one.private_key_pem.write_to_path(ours.key or "")
    authority.cert_pem.write_to_path(ours.authority or "")
    return ours


def test_a_series_comes_in_and_its_results_go_back_by_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    node_tls, pacs = (made(tmp_path / "pem", name, by=authority) for name in ("node", "pacs"))
    port = free_port()
    peer = Peer("ARCHIVE", LOOPBACK, port)
    site = Site(
        tmp_path, archive=port, tls=node_tls, destinations=[partial(send, title="LIVER", peer=peer, tls=node_tls)],
        ask=partial(instances_of, title="LIVER", peers=[peer], tls=node_tls),
    )  # fmt: skip
    with archive(port, counts={"1.2.3.40": 12}, ssl_context=pacs.server()) as kept, node(site):
        site.store(scan(tmp_path / "ct"), tls=pacs)
        wait_for(site.delivered)
    assert kinds(kept) == RESULTS


@pytest.mark.parametrize("who", ["without TLS", "without a certificate", "another authority's certificate", "TLS 1.1"])
def test_who_shows_no_certificate_of_the_authority_is_not_served(tmp_path: Path, who: str) -> None:
    ours = made(tmp_path / "ours", "node")
    stranger = made(tmp_path / "stranger", "stranger")
    tls = {
        "without TLS": None,
        "without a certificate": Tls(authority=ours.authority),
        "another authority's certificate": Tls(stranger.certificate, stranger.key, ours.authority),
        "TLS 1.1": ours,
    }[who]
    files = scan(tmp_path / "ct")
    with receiver(tmp_path / "in", tls=ours) as peer:
        if who == "TLS 1.1":
            old = ours.client()
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
            with socket.create_connection((peer.host, peer.port)) as wire, pytest.raises(ssl.SSLError):
                old.wrap_socket(wire, server_hostname=LOOPBACK)
        else:
            with pytest.raises(IntakeError) as caught:
                send(files, "SCANNER", peer, tls=tls)
            assert caught.value.code == "PEER_UNREACHABLE"
        assert not list((tmp_path / "in").iterdir())
        assert send(files, "SCANNER", peer, tls=ours) == {}  # the port is open to others


def test_results_go_to_no_peer_whose_certificate_is_not_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    ours = made(tmp_path / "pem", "ours", by=authority)
    other_host = made(tmp_path / "pem", "other", "pacs.example", by=authority)
    unknown = made(tmp_path / "unknown", "pacs")
    files = scan(tmp_path / "ct")
    for theirs in (other_host, unknown):
        port = free_port()
        with archive(port, ssl_context=Tls(theirs.certificate, theirs.key).server()) as kept:
            with pytest.raises(IntakeError, match=r"PEER_UNREACHABLE.*certificate"):
                send(files, "LIVER", Peer("ARCHIVE", LOOPBACK, port), tls=ours)
            with pytest.raises(IntakeError, match=r"PEER_UNREACHABLE.*SSLError"):
                stow(files, f"https://{LOOPBACK}:{port}", tls=ours)
        assert not kept


def test_who_connects_and_does_not_shake_hands_keeps_nobody_out(tmp_path: Path) -> None:
    ours = made(tmp_path / "pem", "ours")
    files = scan(tmp_path / "ct")
    with receiver(tmp_path / "in", tls=ours) as peer:
        silent = [socket.create_connection((peer.host, peer.port)) for _ in range(5)]
        silent[0].sendall(b"\x16\x03\x01\x02")  # a handshake that ends here
        assert send(files, "SCANNER", peer, tls=ours) == {}
        for wire in silent:
            wire.close()
    assert len(Inbox(tmp_path / "in").instances(hashed("1.2.3.40"))) == 12


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    ours = made(tmp_path / "pem", "ours")
    other = made(tmp_path / "other", "other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    with pytest.raises(ValueError, match=r"--tls-cert and --tls-key: .*ours.crt cannot be used: .*MISMATCH"):
        Tls(ours.certificate, other.key).server()
    with pytest.raises(ValueError, match=r"--tls-ca: .*nonsense.pem cannot be used"):
        Tls(authority=nonsense).client()
    with pytest.raises(ValueError, match=r"--tls-cert and --tls-key: .*nonsense.pem cannot be used"):
        Tls(nonsense, ours.key).server()
    assert ours.key is not None
    words = serialization.BestAvailableEncryption(b"words")
    key = serialization.load_pem_private_key(ours.key.read_bytes(), None)
    ours.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, words))
    with pytest.raises(ValueError, match=r"--tls-cert and --tls-key: .*the key is encrypted"):
        ours.server()
