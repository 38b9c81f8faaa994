"""`liver-pipeline node` as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner

from liver_pipeline.cli import main
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.node.inbox import hashed
from liver_pipeline.node.peers import Peer
from liver_pipeline.node.sending import send
from tests.node.nodes import RESULTS, archive, kinds, listens, scan
from tests.ports import LOOPBACK, free_port
from tests.small import threshold_run
from tests.waiting import PATIENCE_S, wait_for

PATIENT: dict[str, Any] = {
    "PatientName": "Doe^Jane", "PatientID": "ID-77", "PatientBirthDate": "19700101", "AccessionNumber": "ACC-9",
    "SeriesDescription": "venous of Jane", "StudyInstanceUID": "1.2.3.888", "FrameOfReferenceUID": "1.2.3.999",
}  # fmt: skip


def test_nothing_of_a_patient_is_in_the_log_or_in_names_whatever_becomes_of_the_series(tmp_path: Path) -> None:
    run = threshold_run(tmp_path / "threshold", liver_from=0.0, tumor_from=150.0)
    port, peer_port, folder = free_port(), free_port(), tmp_path / "node"
    whole, gap, overlap, nameless = (scan(tmp_path / name, i, **PATIENT) for i, name in enumerate("abcd"))
    for number, file in enumerate(overlap):  # two passes
        tag(file, EchoTime=4.6 + number % 2, ImagePositionPatient=[-7, 5, 3 * (number // 2)])
    for file in nameless:
        tag(file, StudyInstanceUID=None)  # type 1: nothing can refer to it
    peer = f"{LOOPBACK}:{peer_port}"
    options = ["--port", str(port), "--from", f"SCANNER@{peer}", "--send-to", f"ARCHIVE@{peer}"]
    command = [sys.executable, "-m", "liver_pipeline", "node", str(run), "--aet", "LIVER", *options]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--folder", str(folder), "--quiet-seconds", "5"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_for(lambda: listens(port))
            lengths = {f"1.2.3.4{number}": 12 for number in (0, 2, 3)} | {"1.2.3.41": 10}
            with archive(peer_port, counts=lengths) as kept:
                for files in (whole, gap[:5] + gap[7:], overlap, nameless):
                    send(files, "SCANNER", Peer("LIVER", LOOPBACK, port))
                wait_for(lambda: kinds(kept) == RESULTS)
                wait_for(lambda: len(ended(folder / "masks")) == 4)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
    rows = read_ledger(folder / "masks" / LEDGER)[0]
    assert rows[hashed("1.2.3.41")]["code"] == "UNEVEN_SLICE_GAPS"
    assert rows[hashed("1.2.3.43")]["dicom"]["code"] == "DICOM_REFERENCE"
    assert rows[hashed("1.2.3.42")]["code"] == "MIXED_PASSES"
    text = (tmp_path / "log").read_text() + "\n".join(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert "UNEVEN_SLICE_GAPS: nothing is sent" in text and "DICOM_REFERENCE: nothing is sent" in text
    for told in (*map(str, PATIENT.values()), "Doe", "Jane", "1.2.3.4"):
        assert told not in text, told


def tag(file: Path, **tags: Any) -> None:
    one = pydicom.dcmread(file)
    for name, value in tags.items():
        setattr(one, name, value) if value is not None else delattr(one, name)
    one.save_as(file)


def ended(masks: Path) -> set[str]:
    return {name for name, row in read_ledger(masks / LEDGER)[0].items() if row["event"] in ("done", "failed")}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name --send-to or --stow"),
        (["--send-to", "PACS"], "expected AET@HOST:PORT"),
        (["--stow", "https://me:secret@pacs"], "~/.netrc"),
        (["--send-to", "PACS@h:1", "--tls-cert", __file__], "--tls-cert and --tls-key go together"),
        (["--send-to", "PACS@h:1", "--tls-ca", __file__], "cannot be used"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(options: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["node", "default", "--aet", "LIVER", "--from", "PACS", *options])
    assert result.exit_code != 0 and says in result.output + str(result.exception)
