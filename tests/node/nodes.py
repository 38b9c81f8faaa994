"""What the tests of the node share: a scanner, an archive, and a node with a network that thresholds."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pydicom
from monai.data import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import hash_input
from liver_pipeline.node.asking import instances_of
from liver_pipeline.node.delivery import opened_ledger
from liver_pipeline.node.peers import Peer
from liver_pipeline.node.receiving import receive
from liver_pipeline.node.sending import send
from liver_pipeline.node.service import NodeSettings, serve
from tests.dicom_files import blank, ct
from tests.ports import LOOPBACK, free_port
from tests.prediction.test_folder_run import folder_run
from tests.waiting import PATIENCE_S, wait_for

QUIET_S = 0.5
ALL = DicomResults(("seg", "sr", "sc"))
SENDERS = ["SCANNER", "ARCHIVE"]
NONE: Mapping[str, Any] = {}
RESULTS = ["OT", "SEG", "SR"]  # modalities


def segment(cases: list[dict[str, Any]], masks: Path) -> None:
    run = folder_run(Path(cases[0]["root"]), masks, dicom=ALL)
    run.dataset = Dataset(cases)
    run.run()


def stand_in(cases: list[dict[str, Any]], masks: Path) -> None:
    """Leave what a folder run leaves, without its work: of each case a row, a mask and three small instances."""
    for case in cases:
        mask = masks / f"{case['case']}.nii.gz"
        masks.mkdir(exist_ok=True)
        mask.touch()
        for number, (kind, path) in enumerate(ALL.paths(mask).items()):
            sop_class = {"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage, "sc": SecondaryCaptureImageStorage}
            instance = blank(f"1.2.7.{int(case['case'][:8], 16)}.{number}", sop_class[kind])
            instance.Modality = {"seg": "SEG", "sr": "SR", "sc": "OT"}[kind]
            instance.SeriesDescription = case["case"]
            path.mkdir(exist_ok=True) if kind == "sc" else None
            instance.save_as(path / "0001.dcm" if kind == "sc" else path, enforce_file_format=True)
        row: dict[str, Any] = {"event": "done", "dicom": {"files": {}}, "input_sha256": hash_input(Path(case["image"]))}
        with opened_ledger(masks) as ledger:
            ledger.append({"case": case["case"], **row})


class Site:
    """Ports of a node and an archive, and the node's settings; with ``asks`` it asks the archive for the length."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder = folder / "node"
        self.port, self.archive = more.pop("port", None) or free_port(), more.pop("archive", None) or free_port()
        self.received, self.masks = self.folder / "received", self.folder / "masks"
        self.senders = folder / "senders"
        address, peer = (LOOPBACK, self.port), Peer("ARCHIVE", LOOPBACK, self.archive)
        if more.pop("asks", False):
            more["ask"] = partial(instances_of, title="LIVER", peers=[peer], timeout_s=PATIENCE_S)
        self.settings = NodeSettings(
            folder=self.folder,
            listen=partial(
                receive, title="LIVER", address=address, allowed=["SCANNER", "ARCHIVE"], tls=more.pop("tls", None)
            ),
            destinations=more.pop("destinations", [partial(send, title="LIVER", peer=peer)]),
            dicom=ALL,
            **{"quiet_seconds": QUIET_S} | more,
        )

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Let the node not look meanwhile: on a busy machine two slices are further apart than quiet is long."""
        self.senders.mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=self.senders):
            yield

    def store(self, files: list[Path], title: str = "SCANNER", **more: Any) -> None:
        """Send files as a scanner does: again, where no answer comes.

        pynetdicom loses an answer that comes while its own thread is held between two statements (its issue 435).
        """
        for tries_left in reversed(range(3)):
            try:
                with self.sending():
                    send(files, title, Peer("LIVER", LOOPBACK, self.port), **{"timeout_s": PATIENCE_S / 10} | more)
                return
            except IntakeError as reason:
                if not tries_left or "stopped answering" not in str(reason):
                    raise

    def serve(self, work: Any, stop: Any) -> None:
        """Run the node until ``stop`` is set."""

        def stopped(seconds: float) -> bool:
            ended = stop.wait(seconds)
            while not ended and self.senders.exists() and any(self.senders.iterdir()):
                ended = stop.wait(0.02)
            return bool(ended)

        serve(self.settings, work, stopped)

    def delivered(self) -> list[Path]:
        return list(self.masks.glob("*.delivered.json"))


@contextmanager
def node(site: Site, work: Any = stand_in) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=site.serve, args=(work, stop))
    thread.start()
    try:
        wait_for(lambda: listens(site.port))
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def archive(
    port: int, answers: Mapping[str, int] = NONE, counts: Mapping[str, Any] = NONE, **more: Any
) -> Iterator[dict[str, Any]]:
    """An archive that keeps what it gets, by SOPInstanceUID.

    Args:
        port: Where it listens.
        answers: Status by modality, "" for all; what is not 0 is not kept.
        counts: NumberOfSeriesRelatedInstances by SeriesInstanceUID, for C-FIND.
        more: For ``start_server``.
    """
    kept: dict[str, Any] = {}

    def store(event: Any) -> int:
        status = answers.get(event.dataset.Modality, answers.get("", 0))
        if status == 0:
            kept[str(event.request.AffectedSOPInstanceUID)] = event.dataset
        return status

    def find(event: Any) -> Iterator[tuple[int, Any]]:
        count = counts.get(event.identifier.SeriesInstanceUID)
        if count is not None:
            answer = pydicom.Dataset()
            answer.NumberOfSeriesRelatedInstances = count() if callable(count) else count
            yield 0xFF00, answer

    entity = AE(ae_title="ARCHIVE")
    entity.supported_contexts = AllStoragePresentationContexts
    for context in entity.supported_contexts:
        context.add_transfer_syntax("1.2.840.10008.1.2.5")  # RLE
    entity.add_supported_context(StudyRoot)
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_C_FIND, find)]
    server = entity.start_server((LOOPBACK, port), block=False, evt_handlers=handlers, **more)
    try:
        yield kept
    finally:
        server.shutdown()


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((LOOPBACK, port)) == 0


def scan(folder: Path, number: int = 0, **more: Any) -> list[Path]:
    """Slices of a series of its own."""
    tags: dict[str, Any] = {"SeriesInstanceUID": f"1.2.3.4{number}", "PatientID": "P1", "PatientName": "Doe^Jane"}
    hu = more.pop("hu", None)
    ct(folder, odd=range(1000), hu=hu, **tags | more)
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{one.SOPInstanceUID}.{number}"
        one.save_as(path)
    return sorted(folder.iterdir())


def kinds(kept: Mapping[str, Any]) -> list[str]:
    return sorted({one.Modality for one in kept.values()})
