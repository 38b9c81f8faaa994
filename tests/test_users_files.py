"""A folder full of a user's files comes out of every command as it went in, even one that may overwrite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import liver_pipeline as lp
from liver_pipeline.app.cases import CaseFolder
from liver_pipeline.io.clocks import Ages
from liver_pipeline.io.files import remove_temporary, temporary_name
from liver_pipeline.node.delivery import last_changes, remove_expired
from liver_pipeline.node.inbox import Inbox
from tests.small import UNET3D, make_phantoms, threshold_run

# What a user may keep in any folder, among it names that look like what the package writes, in other places.
NAMES = [
    "notes.txt", "model.pt", "last.pt", "weights/model.pt", "earlier/1/model.pt", "volume-9.nii.gz", "volume-9.json",
    "volume-0.nii.gz.bak", "old/volume-0.nii.gz", ".hidden", ".liver-pipeline", "thesis.part", "report/index.html",
    "uploads/mine.txt", "uploads/thesis/case.json", "masks/mine.nii.gz", "training/mine.nii.gz", "in_use/mine.names",
    "in_use/mine.lock", "abc.lock", "sources/mine.json", "scan.dcm", "inbox/mine.dcm", "0123abcd/slice.dcm",
    "cache/mine.pt", "samples/mine.png", "table.csv", "0" * 16 + ".txt", "f" * 31 + ".pt",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, three phantoms, and one of them as scan and reference."""
    folder = tmp_path_factory.mktemp("made")
    make_phantoms(folder / "phantoms")
    threshold_run(folder / "run", liver_from=80, tumor_from=140)
    for kind, name in (("volume", "scans"), ("segmentation", "labels"), ("segmentation", "again")):
        (folder / name).mkdir()
        (folder / name / "volume-0.nii.gz").hardlink_to(folder / "phantoms" / f"{kind}-0.nii.gz")
    return folder


def predicted(made: Path, theirs: Path) -> None:
    lp.predict(made / "run", made / "scans", theirs, overrides={"overwrite": True})
    assert (theirs / "volume-0.nii.gz").exists()


def evaluated(made: Path, theirs: Path) -> None:
    lp.evaluate(made / "labels", made / "again", theirs, overwrite=True)
    assert (theirs / "metrics.json").exists()


def planned(made: Path, theirs: Path) -> None:
    values = {"dataset_dir": str(made / "phantoms")}
    lp.plan(theirs, {"network": "unet3d", "data": "phantom"}, overrides=values, overwrite=True)


def composed(made: Path, theirs: Path) -> None:
    lp.compose(theirs, {"network": "unet3d", "data": "phantom"}, overrides=UNET3D, overwrite=True)


def trained(made: Path, theirs: Path) -> None:
    where = {"dataset_dir": str(made / "phantoms"), "n_phantoms": 3, "cache_dir": str(theirs), "cache_gb": 0.001}
    begun = (theirs / "configs").exists()
    layers = {} if begun else {"network": "unet3d", "data": "phantom"}
    lp.train(theirs, layers, overrides={**UNET3D, **where}, restart=begun)
    assert (theirs / "models" / "model.pt").exists()


def served(made: Path, theirs: Path) -> None:
    cases = CaseFolder(theirs)
    cases.drop_abandoned(0.0)
    cases.delete(cases.create("scan", "default", None))


def received(made: Path, theirs: Path) -> None:
    inbox = Inbox(theirs)
    inbox.keep("1.2.3", "1.2.3.4", b"slice")
    remove_expired(inbox, Ages(partial(last_changes, inbox, theirs)), 0.0)


def cleaned(made: Path, theirs: Path) -> None:
    for folder in (theirs, theirs / "weights"):
        (folder / temporary_name()).write_bytes(b"half")
    remove_temporary(theirs)


@pytest.mark.parametrize(
    "command", [predicted, evaluated, planned, composed, trained, served, received, cleaned], ids=lambda do: do.__name__
)
def test_a_user_s_files_come_out_as_they_went_in(
    tmp_path: Path, made: Path, command: Callable[[Path, Path], None]
) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"mine: {name}")
    for _ in range(2):  # the second time there is something of ours to replace
        command(made, tmp_path)
    assert [name for name in NAMES if (tmp_path / name).read_text() != f"mine: {name}"] == []
