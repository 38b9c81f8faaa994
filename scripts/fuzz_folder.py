"""Segment random folders with a stand-in network and see whether every promise holds.

    nice python scripts/fuzz_folder.py FOUND --folders 300 --seconds 3000

A folder holds good, damaged, misnamed, nested, linked and unreadable scans under awkward names, label maps among them.
What is promised: one end for each input, and its mask if it is good; masks as a single run gives them; nothing written,
moved or changed outside the output folder; the right exit code; the same command again changes nothing. What is broken
is kept in FOUND with its seed: the same ``--seed`` makes the same folder. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import gzip
import io
import json
import logging
import multiprocessing
import os
import pwd
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import Dataset, MetaTensor
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from liver_pipeline.exits import EXIT_DONE, EXIT_NONE_DONE, EXIT_SOME_FAILED
from liver_pipeline.io.file_names import FORMATS
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.masks import write_mask
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.studies import find_volumes
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.prediction.case import RunningCase
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.folder_run import FolderRun
from liver_pipeline.prediction.plan import find_scans
from liver_pipeline.transforms.load import LoadScand

SHAPE = (12, 10, 9)
NAMES = (
    "a", "case 1", "vol#2", "x%y", "$HOME", "a@b", "a::b", "-rf", "Mu\u0308ller", "M\u00fcller", "M\udcfcller", "o'b",
    "tab\there", "new\nline", "dot.", "1.2.840", "n" * 190, "\u65e5\u672c", "UPPER", "volume-3", "labels", "ct",
)  # fmt: skip
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz", ".hdr", ".zip")
NOBODY = "nobody"
HANGS_S = 120.0


class Network(torch.nn.Module):
    """Liver where HU is above 0, tumor above 80."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return labels."""
        return (image > 0).to(torch.uint8) + (image > 80).to(torch.uint8)


def labels_of(inputs: torch.Tensor, network: torch.nn.Module) -> MetaTensor:
    """Stand in for an inferer: labels (1, 1, X, Y, Z)."""
    image = inputs.float() * float(inputs.meta.get("slope", 1.0)) + float(inputs.meta.get("intercept", 0.0))  # type: ignore[attr-defined]
    return MetaTensor(network(image).as_tensor(), meta={"inference": {}})


def runner() -> CaseRunner:
    """Return the stand-in for a trained run."""
    reader = ScanReader()
    return CaseRunner(
        preprocessing=LoadScand("image", reader=reader), inferer=labels_of, network=Network(), reader=reader
    )


# --- what lies in a folder -------------------------------------------------------------------------------------------


def body(rng: random.Random, planes: int = SHAPE[2]) -> Any:
    """Return HU of a small trunk in air."""
    noise = np.random.default_rng(rng.randrange(2**32))
    hu = np.full((*SHAPE[:2], planes), -1000, dtype=np.int16)
    hu[2:10, 2:9] = -100
    hu[3:9, 3:8] = noise.integers(-20, 110, (6, 5, planes))
    return hu


def affine_of(rng: random.Random) -> Any:
    """Return an affine with any order and flips of axes."""
    axes = rng.sample(range(3), 3)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * [rng.choice((-1, 1)) * mm for mm in (1.0, 1.5, 3.0)]
    affine[:3, 3] = [rng.uniform(-200, 200) for _ in range(3)]
    return affine


def nifti(rng: random.Random) -> bytes:
    """Return the bytes of a good scan."""
    return bytes(nib.Nifti1Image(body(rng), affine_of(rng)).to_bytes())


def mgz(rng: random.Random) -> bytes:
    """Return the bytes of a good scan as FreeSurfer writes it."""
    buffer = io.BytesIO()
    image = nib.freesurfer.MGHImage(body(rng), affine_of(rng))
    image.file_map = {"image": nib.fileholders.FileHolder(fileobj=buffer)}
    image.to_file_map()
    return buffer.getvalue()


def nrrd(rng: random.Random) -> bytes:
    """Return the bytes of a good NRRD."""
    hu = body(rng)
    head = (
        f"NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: "
        f"{SHAPE[0]} {SHAPE[1]} {SHAPE[2]}\n"
        "space directions: (1,0,0) (0,1.5,0) (0,0,3)\nendian: little\nencoding: raw\nspace origin: (0,5,7)\n\n"
    )
    return head.encode() + bytes(hu.tobytes(order="F"))


def slices(rng: random.Random, uid: str, planes: int = SHAPE[2]) -> list[bytes]:
    """Return the files of a good CT series."""
    hu, files = body(rng, planes), []
    for k in range(planes):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"{uid}.{k}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID, one.Modality = CTImageStorage, f"{uid}.{k}", "CT"
        one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", uid
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 1, 1
        one.PhotometricInterpretation, one.Rows, one.Columns = "MONOCHROME2", SHAPE[1], SHAPE[0]
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 3.0 * k], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.RescaleSlope, one.RescaleIntercept = [1.5, 1.0], 1, -1024
        one.PixelData = (hu[:, :, k].T + 1024).astype(np.int16).tobytes()
        buffer = io.BytesIO()
        one.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    rng.shuffle(files)
    return files


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return ``data`` cut, or with some bytes changed."""
    if rng.random() < 0.4:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        changed[rng.randrange(min(len(changed), rng.choice((400, len(changed)))))] = rng.randrange(256)
    return bytes(changed)


def write(path: Path, data: bytes) -> None:
    """Write a file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class Folder:
    """A random folder of scans: ``good`` are the paths that must be segmented, however many times each."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        self.good: dict[Path, int] = {}
        root.mkdir()
        kinds = [
            self._good_file, self._good_file, self._good_file, self._damaged_file, self._damaged_file, self._misnamed,
            self._series, self._study, self._damaged_series, self._zipped, self._linked, self._label_map,
            self._odd_thing, self._unreadable, self._values,
        ]  # fmt: skip
        for _ in range(rng.randrange(1, 13)):
            kind: Callable[[Path], None] = rng.choice(kinds)
            parent = root.joinpath(*(rng.choice(NAMES) for _ in range(rng.choice((0, 0, 1, 1, 2)))))
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError):
                kind(parent / f"{rng.choice(NAMES)}{rng.randrange(100)}")

    def _good_file(self, stem: Path) -> None:
        suffix, data = self.rng.choice(
            [
                (".nii", nifti), (".nii.gz", lambda rng: gzip.compress(nifti(rng))), (".NII.GZ", nifti),
                (".nrrd", nrrd), (".mgh", mgz), (".mgz", lambda rng: gzip.compress(mgz(rng))),
            ]
        )  # fmt: skip
        self._put(stem, suffix, data(self.rng))

    def _misnamed(self, stem: Path) -> None:
        """Write a good scan under the ending of another format: its content counts."""
        suffix = self.rng.choice((".nii", ".nii.gz", ".nrrd", ".mha", ".mgz"))
        self._put(stem, suffix, self.rng.choice((nifti, nrrd, mgz))(self.rng))

    def _put(self, stem: Path, suffix: str, data: bytes) -> None:
        path = stem.with_name(stem.name + suffix)
        if path.exists() or len(os.fsencode(path.name)) > 240:
            raise FileExistsError
        write(path, data)
        self.good[path] = 1

    def _damaged_file(self, stem: Path) -> None:
        path = stem.with_name(stem.name + self.rng.choice(ENDINGS))
        kinds = (nifti, nrrd, mgz, lambda rng: gzip.compress(nifti(rng)), lambda rng: rng.randbytes(999))
        if not path.exists():
            write(path, damaged(self.rng, self.rng.choice(kinds)(self.rng)) if self.rng.random() < 0.9 else b"")

    def _series(self, stem: Path, planes: int = SHAPE[2]) -> None:
        stem.mkdir(parents=True)
        for number, data in enumerate(slices(self.rng, f"1.2.{self.rng.randrange(10**6)}", planes)):
            write(stem / f"IM{number:03d}", data)
        if self.rng.random() < 0.3:
            write(stem / "readme.txt", b"not a slice")
        self.good[stem] = 1

    def _study(self, stem: Path) -> None:
        """Write two series into one place."""
        self._series(stem)
        for number, data in enumerate(slices(self.rng, f"1.3.{self.rng.randrange(10**6)}")):
            write(stem / f"B{number:03d}", data)
        self.good[stem] = 2

    def _damaged_series(self, stem: Path) -> None:
        self._series(stem)
        del self.good[stem]
        file = self.rng.choice(sorted(path for path in stem.iterdir() if path.name != "readme.txt"))
        if self.rng.random() < 0.4:
            file.unlink()
        else:
            file.write_bytes(damaged(self.rng, file.read_bytes()))

    def _zipped(self, stem: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, data in enumerate(slices(self.rng, f"1.4.{self.rng.randrange(10**6)}")):
                archive.writestr(f"dicom/IM{number}", data)
        self._put(stem, ".zip", buffer.getvalue())

    def _linked(self, stem: Path) -> None:
        """Link to something that is there, to nothing, or round in a circle."""
        there = sorted(path for path in self.root.rglob("*"))
        target = self.rng.choice([*there, self.root, stem.parent, Path("nowhere")])
        stem.parent.mkdir(parents=True, exist_ok=True)
        name = stem.name + self.rng.choice(("", ".nii.gz"))
        if not (stem.parent / name).exists():
            (stem.parent / name).symlink_to(target)

    def _label_map(self, stem: Path) -> None:
        labels = (body(self.rng) > 0).astype(np.uint8)
        header = nib.Nifti1Image(labels, affine_of(self.rng)).header
        stem.parent.mkdir(parents=True, exist_ok=True)
        write_mask(stem.with_name(stem.name + self.rng.choice(tuple(FORMATS.values()))), labels, header)

    def _odd_thing(self, stem: Path) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        match self.rng.randrange(4):
            case 0:
                os.mkfifo(stem.with_name(stem.name + ".nii.gz"))
            case 1:
                stem.with_name(stem.name + ".nii.gz").mkdir()
            case 2:
                write(stem.with_name(stem.name + ".txt"), b"notes")
            case _:
                write(stem.with_name(".hidden.nii.gz"), nifti(self.rng))

    def _unreadable(self, stem: Path) -> None:
        if self.rng.random() < 0.5:
            path = stem.with_name(stem.name + ".nii")
            write(path, nifti(self.rng))
        else:
            path = stem
            write(stem / "a.nii", nifti(self.rng))
        path.chmod(0)

    def _values(self, stem: Path) -> None:
        """Write a volume whose values or grid cannot be used."""
        hu = body(self.rng).astype(np.float32)
        hu = self.rng.choice((hu * np.nan, hu + 1024, hu * 0, hu[:, :, :1], hu[..., None].repeat(2, 3), hu * 10))
        write(stem.with_name(stem.name + ".nii.gz"), gzip.compress(nib.Nifti1Image(hu, affine_of(self.rng)).to_bytes()))


# --- what is promised ------------------------------------------------------------------------------------------------


def snapshot(root: Path, without: Path) -> dict[str, Any]:
    """Return everything below a folder, but for ``without``: kinds, sizes, times and content."""
    found: dict[str, Any] = {}
    for path in _walk(root, without):
        state = path.lstat()
        plain = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        kept = path.readlink() if path.is_symlink() else path.read_bytes() if plain else None
        found[str(path.relative_to(root))] = (state.st_mode, state.st_size if not path.is_dir() else 0, kept)
    return found


def _walk(folder: Path, without: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if path == without:
            continue
        yield path
        if entry.is_dir(follow_symlinks=False) and os.access(path, os.R_OK | os.X_OK):
            yield from _walk(path, without)


def promises(base: Path, seed: int) -> None:
    """Make the folder of a seed below ``base``, segment it, and assert what is promised."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    folder = Folder(base / "scans", rng)
    masks = rng.choice((base / "masks", folder.root / "masks", folder.root / "deep" / "er"))
    kind = rng.choice(("nifti", "nifti", "nrrd", "mha"))
    (base / "other").mkdir()
    (base / "other" / "mine.nii.gz").write_bytes(b"a user's file")
    before = snapshot(base, masks)

    def run() -> Any:
        found = Dataset(find_scans(folder.root))
        with contextlib.redirect_stdout(io.StringIO()):
            return FolderRun(dataset=found, output_dir=masks, runner=runner(), format=kind, progress=False).run()

    try:
        inputs = find_volumes(folder.root)
    except IntakeError as reason:
        assert reason.code == "NO_SCANS" and not folder.good, f"{reason} although {folder.good}"
        return
    names = [one.case.casefold() for one in inputs]
    if len(set(names)) < len(names):
        try:
            run()
        except IntakeError as reason:
            assert reason.code == "DUPLICATE_NAME", reason
            assert not masks.exists(), "written although refused"
            return
        raise AssertionError("two inputs with one mask")
    summary = run()
    before, after = (
        {name: kept for name, kept in one.items() if not masks.is_relative_to(base / name)}
        for one in (before, snapshot(base, masks))
    )
    changed = sorted(ascii(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"changed outside the output folder: {changed}"

    rows = [json.loads(line) for line in (masks / LEDGER).read_bytes().splitlines()]
    ends = {row["case"]: row for row in rows if row["event"] in ("done", "failed")}
    assert len(ends) == len([row for row in rows if row["event"] in ("done", "failed")]), "a case has two ends"
    assert set(ends) == {one.case for one in inputs}, "not one end for each input"
    for path, count in folder.good.items():
        mine = [one for one in inputs if one.path.resolve() == path.resolve()]  # links lead there, too
        assert len(mine) >= count, f"{path} is {len(mine)} inputs, not {count}"
        assert all(ends[one.case]["event"] == "done" for one in mine), [ends[one.case] for one in mine]
    done = [one for one in inputs if ends[one.case]["event"] == "done"]
    expected = EXIT_DONE if len(done) == len(inputs) else EXIT_SOME_FAILED if done else EXIT_NONE_DONE
    assert (summary.done, summary.failed, summary.exit_code) == (len(done), len(inputs) - len(done), expected)

    suffix = FORMATS[kind]
    written = {masks / f"{one.case}{ending}" for one in done for ending in (suffix, ".json")} | {masks / LEDGER}
    there = {path for path in masks.rglob("*") if path.is_file()}
    assert there == written, f"unexpected files: {sorted(map(ascii, there ^ written))}"
    single = runner()
    single.load()
    for one in done:
        case = RunningCase(one.case, one.path, series=one.series, why=one.why)
        for step in (single.prepare, single.infer, single.clean):
            step(case)
        assert case.label_map is not None
        ours = read_label_map(masks / f"{one.case}{suffix}", accept=["FEW_SLICES"])
        assert np.array_equal(ours.array, case.label_map), f"{one.case} is another mask than a single run gives"

    first = {path: path.read_bytes() for path in there}
    again = run()
    assert (again.done, again.failed, again.exit_code) == (0, summary.failed, expected), again
    second = {path: path.read_bytes() for path in masks.rglob("*") if path.is_file()}
    wrote = {path.name for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    assert wrote <= {LEDGER}, f"the second run wrote {wrote}"  # what could not be read is tried again


def try_seed(base: Path, seed: int, why: Path) -> None:
    """Run one seed in a process of its own, as nobody if we are root: root can read everything."""
    codecs.lookup("cp437")  # of zip files; nobody may not be allowed to load it later
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if os.geteuid() == 0:
        user = pwd.getpwnam(NOBODY)
        os.chown(base, user.pw_uid, user.pw_gid)
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    try:
        promises(base, seed)
    except BaseException:
        why.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        sys.exit(1)


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description="Segment random folders and see whether every promise holds.")
    parser.add_argument("found", type=Path, help="a folder for what went wrong")
    parser.add_argument("--folders", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the first folder; the next has the next")
    arguments = parser.parse_args()
    arguments.found.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tried, broken, until = 0, [], time.monotonic() + arguments.seconds
    for seed in range(arguments.seed, arguments.seed + arguments.folders):
        if time.monotonic() > until:
            break
        base = Path(tempfile.mkdtemp(prefix="fuzz-folder-"))
        base.chmod(0o777)
        why = base / "why.txt"
        child = multiprocessing.get_context("fork").Process(target=try_seed, args=(base / "it", seed, why))
        (base / "it").mkdir()
        child.start()
        child.join(HANGS_S)
        if child.is_alive():
            child.kill()
            child.join()
            why.write_text(f"hangs: more than {HANGS_S:g} s")
        if child.exitcode != 0:
            broken.append(seed)
            text = why.read_text() if why.exists() else f"exit code {child.exitcode}"
            (arguments.found / f"seed{seed}.txt").write_text(text)
            print(f"seed {seed}: {text.strip().splitlines()[-1][:300]}", flush=True)
        _remove(base)
        tried += 1
    print(f"{tried} folders, {len(broken)} broke a promise: {broken}")
    return 1 if broken else 0


def _remove(base: Path) -> None:
    for folder, names, _ in os.walk(base):
        for name in names:
            with contextlib.suppress(OSError):
                Path(folder, name).chmod(0o700)
    shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
