"""Serve a trained run as a DICOM node."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from monai.bundle import ConfigParser
from monai.data import Dataset

from liver_pipeline.bundle.ensembles import ensemble_of
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.prediction.folder_run import FolderRun

RESULTS = ["seg", "sr", "sc"]


def run_node(
    run: str | Path,
    *,
    title: str,
    port: int,
    allowed: str,
    peer: str | None = None,
    stow: str | None = None,
    bind: str = "127.0.0.1",
    folder: str | Path = "liver_node",
    quiet_seconds: float = 30.0,
    keep_hours: float = 24.0,
    certificate: Path | None = None,
    key: Path | None = None,
    authority: Path | None = None,
    send_tls: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Receive series, segment them and send the results, until SIGTERM or SIGINT; see the options of ``node``.

    Raises:
        IntakeError: PORT_TAKEN.
        ValueError: If pynetdicom or dicomweb-client is not installed, a peer, URL, key or file for TLS cannot be used,
            results would go nowhere, or another node is in the folder.
        FileNotFoundError: If there is no such run.
    """
    try:
        from liver_pipeline.node.asking import instances_of
        from liver_pipeline.node.peers import Peer, senders
        from liver_pipeline.node.receiving import receive
        from liver_pipeline.node.sending import send
        from liver_pipeline.node.service import NodeSettings, serve
        from liver_pipeline.node.stow import checked_url
        from liver_pipeline.node.stow import stow as stow_files
        from liver_pipeline.node.tls import Tls
    except ModuleNotFoundError as reason:
        if reason.name not in ("pynetdicom", "dicomweb_client"):
            raise
        raise ValueError(f"a node needs {reason.name}: pip install 'liver-pipeline[node]'") from None
    titles, asked = senders(allowed)
    ours = Tls(certificate, key, authority)
    called = ours if send_tls else None
    destinations: list[Any] = []
    if peer is not None:
        destinations.append(partial(send, title=title, peer=Peer.of(peer), tls=called))
    if stow is not None:
        destinations.append(partial(stow_files, url=checked_url(stow), tls=ours))
    if not destinations:
        raise ValueError("results would go nowhere: name --send-to or --stow")
    ours.client()  # a file that cannot be used is told now
    listen = partial(
        receive, title=title, address=(bind, port), allowed=titles, tls=ours if certificate is not None else None
    )
    config, runner = _load(run, overrides)
    settings = NodeSettings(
        folder=Path(folder).absolute(),
        listen=listen,
        destinations=destinations,
        dicom=config.get_parsed_content("dicom_results"),
        ask=partial(instances_of, title=title, peers=asked, tls=called) if asked else None,
        series=config.get_parsed_content("series"),
        accept=config.get_parsed_content("accept"),
        quiet_seconds=quiet_seconds,
        keep_hours=keep_hours,
    )

    def segment(cases: list[dict[str, Any]], masks: Path) -> None:
        FolderRun(dataset=Dataset(cases), output_dir=masks, runner=runner, dicom=settings.dicom, progress=False).run()

    _name_no_patient()
    stop = Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    serve(settings, segment, stop.wait)


def _load(run: str | Path, overrides: Mapping[str, Any] | None) -> tuple[ConfigParser, Any]:
    """Return the run's inference config, and its loaded runner."""
    first, others = ensemble_of(run)
    values = {"dicom": RESULTS, **(overrides or {})}
    if others:
        values["ensemble"] = [str(other.absolute()) for other in others]
    config = ConfigParser(load_config(first, "inference", values))
    runner = config.get_parsed_content("case_runner")
    runner.load()
    return config, runner


def _name_no_patient() -> None:
    """Let the node alone write to the log: what others say can quote a header."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in ("pynetdicom", "pydicom", "dicomweb_client", "highdicom", "urllib3", "liver_pipeline"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("liver_pipeline.node").setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    threading.excepthook = lambda told: logging.error("a thread has ended: %s", told.exc_type.__name__)
