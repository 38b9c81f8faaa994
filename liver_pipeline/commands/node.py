"""Serve a trained run as a DICOM node."""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection, Mapping
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
    allowed: Collection[str],
    peer: str,
    bind: str = "127.0.0.1",
    folder: str | Path = "liver_node",
    quiet_seconds: float = 30.0,
    keep_hours: float = 24.0,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Receive series, segment them and send the results, until SIGTERM or SIGINT; see the options of ``node``.

    Raises:
        IntakeError: PORT_TAKEN.
        ValueError: If pynetdicom is not installed, the peer or a key cannot be used, or another node is in the folder.
        FileNotFoundError: If there is no such run.
    """
    try:
        from liver_pipeline.node.network import Peer
        from liver_pipeline.node.service import NodeSettings, serve
    except ModuleNotFoundError as reason:
        if reason.name != "pynetdicom":
            raise
        raise ValueError("a node needs pynetdicom: pip install 'liver-pipeline[node]'") from None
    first, others = ensemble_of(run)
    values = {"dicom": RESULTS, **(overrides or {})}
    if others:
        values["ensemble"] = [str(other.absolute()) for other in others]
    config = ConfigParser(load_config(first, "inference", values))
    dicom = config.get_parsed_content("dicom_results")
    place, address = Path(folder).absolute(), (bind, port)
    settings = NodeSettings(place, title, address, allowed, Peer.of(peer), dicom, quiet_seconds, keep_hours)
    runner = config.get_parsed_content("case_runner")
    runner.load()

    def segment(cases: list[dict[str, str]], masks: Path) -> None:
        FolderRun(dataset=Dataset(cases), output_dir=masks, runner=runner, dicom=settings.dicom, progress=False).run()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # its lines can hold what came over the wire
    stop = Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    serve(settings, segment, stop.wait)
