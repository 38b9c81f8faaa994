"""The node against Orthanc, an archive that is not ours; `.ci/services` installs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from liver_pipeline.node.network import Peer, send
from tests.node.test_service import free_port, listens, node, scan, segment, settings, store, wait_for

pytestmark = pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed: see .ci/services")


def orthanc(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start Orthanc on loopback, without HTTP, as AE title ARCHIVE."""
    config = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpServerEnabled": False,
        "DicomAet": "ARCHIVE", "DicomPort": port, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowStore": True,
        "DicomCheckModalityHost": False, "Plugins": [],
    }  # fmt: skip
    folder.mkdir()
    (folder / "orthanc.json").write_text(json.dumps(config))
    log = (folder / "log").open("wb")
    return subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)


def found(port: int) -> list[Any]:
    """SOP instances of SEG that the archive finds."""
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = entity.associate("127.0.0.1", port, ae_title="ARCHIVE")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.Modality, query.SeriesInstanceUID = (
        "SERIES",
        "1.2.3",
        "",
        "",
    )
    answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
    series = [one for status, one in answers if status and status.Status == 0xFF00]
    association.release()
    return series


def test_orthanc_has_the_segmentation_of_what_it_sent(tmp_path: Path) -> None:
    told = settings(tmp_path / "node", free_port())
    archive = orthanc(tmp_path / "orthanc", told.peer.port)
    try:
        wait_for(lambda: listens(told.peer.port))
        files = scan(tmp_path / "ct")
        send(files, "SCANNER", Peer("ARCHIVE", "127.0.0.1", told.peer.port))
        with node(told):
            store(files, told)
            wait_for(lambda: list((tmp_path / "node" / "masks").glob("*.delivered.json")))
        assert sorted(one.Modality for one in found(told.peer.port)) == ["CT", "OT", "SEG", "SR"]
        segment([{"image": str(tmp_path / "ct"), "case": "x", "root": str(tmp_path)}], tmp_path / "direct")
        direct = pydicom.dcmread(tmp_path / "direct" / "x.seg.dcm")
        kept = [pydicom.dcmread(path, force=True) for path in stored(tmp_path / "orthanc" / "db")]
        (seg,) = (one for one in kept if one.get("Modality") == "SEG")
        assert seg.PixelData == direct.PixelData
    finally:
        archive.terminate()
        archive.wait(60)


def stored(folder: Path) -> list[Path]:
    """DICOM files in Orthanc's storage."""
    time.sleep(0.5)
    paths = [Path(at) / name for at, _, names in os.walk(folder) for name in names]
    return [path for path in paths if path.read_bytes()[128:132] == b"DICM"]
