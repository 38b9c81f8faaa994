"""The node against Orthanc, an archive that is not ours: C-STORE, C-FIND and STOW-RS."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

import liver_pipeline as lp
from liver_pipeline.node.asking import instances_of
from liver_pipeline.node.peers import Peer, association
from liver_pipeline.node.sending import send
from liver_pipeline.node.stow import stow
from tests.conftest import ORTHANC_WEB
from tests.dicom_files import body
from tests.dicom_results.test_results import program
from tests.node.nodes import RESULTS, Site, listens, node, scan, segment
from tests.ports import LOOPBACK, free_port
from tests.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.orthanc


class Orthanc:
    """A running archive."""

    def __init__(self, port: int, web: int) -> None:
        self.peer = Peer("ARCHIVE", LOOPBACK, port)
        self.url = f"http://{LOOPBACK}:{web}"
        self.dicomweb = f"{self.url}/dicom-web"

    def found(self, study: str) -> dict[str, pydicom.Dataset]:
        """Series of a study by modality, as C-FIND gives them."""
        query = pydicom.Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "SERIES", study
        query.Modality = query.SeriesInstanceUID = query.NumberOfSeriesRelatedInstances = ""
        with association("SCANNER", self.peer, [(StudyRoot, None)], None, PATIENCE_S) as opened:
            hits = [one for status, one in opened.send_c_find(query, StudyRoot) if status.Status == 0xFF00]
        return {one.Modality: one for one in hits}

    def ask(self, path: str, data: bytes | None = None) -> bytes:
        """What its REST interface answers to GET, or to POST of ``data``."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", data), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def lookup(self, uid: str) -> str:
        """Orthanc's own name of a series."""
        (series,) = json.loads(self.ask("tools/lookup", uid.encode()))
        return str(series["ID"])

    def segmentation(self, study: str) -> pydicom.Dataset:
        """The SEG that C-FIND finds, as Orthanc gives it out."""
        series = self.lookup(self.found(study)["SEG"].SeriesInstanceUID)
        (instance,) = json.loads(self.ask(f"series/{series}"))["Instances"]
        return pydicom.dcmread(BytesIO(self.ask(f"instances/{instance}/file")))


@contextmanager
def orthanc(folder: Path, liver: int = 1) -> Iterator[Orthanc]:
    """Start Orthanc on loopback, as AE title ARCHIVE, with DICOMweb; it knows LIVER at port ``liver``."""
    port, web = free_port(), free_port()
    config: dict[str, Any] = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": web,
        "DicomAet": "ARCHIVE", "DicomPort": port, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowStore": True,
        "DicomCheckModalityHost": False, "AuthenticationEnabled": False, "RemoteAccessAllowed": False,
        "DicomModalities": {"liver": ["LIVER", LOOPBACK, liver]},
        "Plugins": [str(ORTHANC_WEB)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    folder.mkdir()
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: listens(port) and listens(web))
            yield Orthanc(port, web)
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("way", ["C-STORE", pytest.param("STOW-RS", marks=pytest.mark.slow)])
def test_129_slices_go_in_and_their_segmentation_is_found_equal_to_that_of_predict(tmp_path: Path, way: str) -> None:
    hu = body((20, 16, 129))
    hu[:, :, 10:] = -1000  # air: no outline to be drawn
    files = scan(tmp_path / "ct", hu=hu)
    port = free_port()
    with orthanc(tmp_path / "orthanc", port) as archive:
        destination = partial(send, title="LIVER", peer=archive.peer)
        site = Site(
            tmp_path, port=port, quiet_seconds=600.0, ask=partial(instances_of, title="LIVER", peers=[archive.peer]),
            destinations=[destination if way == "C-STORE" else partial(stow, url=archive.dicomweb)],
        )  # fmt: skip
        for file in files:
            archive.ask("instances", file.read_bytes())
        with node(site, segment), pytest.MonkeyPatch.context() as patch:
            patch.setattr("liver_pipeline.node.service.EARLY", 1200)
            archive.ask("modalities/liver/store", archive.lookup("1.2.3.40").encode())
            wait_for(site.delivered)
        series = archive.found("1.2.3")
        assert sorted(series) == sorted(["CT", *RESULTS])
        assert series["CT"].NumberOfSeriesRelatedInstances == 129
        segment([{"image": str(tmp_path / "ct"), "case": "x", "root": str(tmp_path)}], tmp_path / "direct")
        direct, kept = pydicom.dcmread(tmp_path / "direct" / "x.seg.dcm"), archive.segmentation("1.2.3")
    assert np.any(kept.pixel_array) and kept.PixelData == direct.PixelData
    assert kept.SegmentSequence == direct.SegmentSequence and kept.PatientID == direct.PatientID


@pytest.mark.slow  # two minutes
@pytest.mark.real_data
def test_a_real_series_goes_from_orthanc_to_the_default_weights_and_back(tmp_path: Path, real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "3dircadb1_01/PATIENT_DICOM.zip") as packed:
        packed.extractall(tmp_path)
    files = sorted((tmp_path / "PATIENT_DICOM").iterdir())
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    port, folder = free_port(), tmp_path / "node"
    with orthanc(tmp_path / "orthanc", port) as archive:
        for file in files:
            archive.ask("instances", file.read_bytes())
        peer = str(archive.peer)
        options = ["--aet", "LIVER", "--port", str(port), "--from", peer, "--send-to", peer, "--folder", str(folder)]
        process = subprocess.Popen([sys.executable, "-m", "liver_pipeline", "node", "default", *options])
        try:
            wait_for(lambda: listens(port))
            archive.ask("modalities/liver/store", archive.lookup(header.SeriesInstanceUID).encode())
            wait_for(lambda: list(folder.glob("masks/*.delivered.json")), 600)
        finally:
            process.terminate()
            assert process.wait(60) == 0
        archive.segmentation(header.StudyInstanceUID).save_as(tmp_path / "back.seg.dcm")
    lp.predict("default", tmp_path / "PATIENT_DICOM", tmp_path / "m.nii.gz")
    mask = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
    (tmp_path / "segments").mkdir()
    program("segimage2itkimage", "--inputDICOM", tmp_path / "back.seg.dcm", "--outputDirectory", tmp_path / "segments")
    for number in (1, 2):
        segment_image = sitk.ReadImage(str(tmp_path / "segments" / f"{number}.nrrd"))
        on_grid = sitk.Resample(segment_image, mask, interpolator=sitk.sitkNearestNeighbor)
        inside = sitk.GetArrayFromImage(mask) == number
        assert inside.any() and np.array_equal(sitk.GetArrayFromImage(on_grid) > 0, inside)


def test_what_orthanc_has_already_counts_as_taken(tmp_path: Path) -> None:
    files = scan(tmp_path / "ct")
    with orthanc(tmp_path / "orthanc") as archive:
        for _ in range(2):
            assert stow(files, archive.dicomweb) == {}
            assert send(files, "SCANNER", archive.peer) == {}
        assert archive.found("1.2.3")["CT"].NumberOfSeriesRelatedInstances == 12
