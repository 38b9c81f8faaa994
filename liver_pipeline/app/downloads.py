"""What a case gives to take away: single files, its captures as a zip, and all of it as one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse

from liver_pipeline.app.cases import CaseFolder
from liver_pipeline.app.uploads import Refusal
from liver_pipeline.io.file_names import DESCRIPTION, DICOM_ENDINGS, EDITED, PAGE, RECORD, SCORES
from liver_pipeline.reports.viewer import POLICY

DOWNLOADS = {  # name: what the file is called behind the case's name, and its type
    "mask.nii.gz": (".nii.gz", "application/gzip"),
    "record.json": (RECORD, "application/json"),
    "table.json": (DESCRIPTION, "application/json"),
    "scores.json": (SCORES, "application/json"),
    "page.html": (PAGE, "text/html"),
    "seg.dcm": (DICOM_ENDINGS["seg"], "application/dicom"),
    "sr.dcm": (DICOM_ENDINGS["sr"], "application/dicom"),
    "captures.zip": (DICOM_ENDINGS["sc"], "application/zip"),  # a folder on disk
    "edited.nii.gz": (f"{EDITED}.nii.gz", "application/gzip"),
    "edited.json": (f"{EDITED}{RECORD}", "application/json"),
}
DICOM = ("seg.dcm", "sr.dcm", "captures.zip")
OF_THE_MASK_NOW = ("table.json", "scores.json", "page.html", *DICOM)  # of the corrected mask, where there is one
EVERYTHING = "everything.zip"


def downloads_of(cases: CaseFolder, case: str) -> list[str]:
    """Return the names of what a case has; NoSuchCase if there is none."""
    return [name for name, (ending, _) in DOWNLOADS.items() if cases.result(case, ending).exists()]


def download(cases: CaseFolder, case: str, name: str) -> Response:
    """Return one of the :data:`DOWNLOADS` of a case, or :data:`EVERYTHING`.

    Raises:
        NoSuchCase: If there is no such case.
        Refusal: NOT_FOUND if it has no such result.
    """
    there = downloads_of(cases, case)
    if name not in there and not (name == EVERYTHING and there):
        raise Refusal(404, "NOT_FOUND", "the case has no such result, or not yet")
    names = there if name == EVERYTHING else [name]
    if name.endswith(".zip"):
        files = [found for one in names for found in _files(_path(cases, case, one), one)]
        return StreamingResponse(zipped(files), media_type="application/zip", headers=attachment(f"{case}-{name}"))
    headers = {"Content-Security-Policy": POLICY} if name == "page.html" else attachment(f"{case}-{name}")
    return FileResponse(_path(cases, case, name), media_type=DOWNLOADS[name][1], headers=headers)


def _path(cases: CaseFolder, case: str, name: str) -> Path:
    return cases.result(case, f"{cases.kind(case) if name in OF_THE_MASK_NOW else ''}{DOWNLOADS[name][0]}")


def attachment(name: str) -> dict[str, str]:
    """Return the headers that have a browser save an answer under a name."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _files(path: Path, name: str) -> list[tuple[str, Path]]:
    """Return what a result is in a zip: itself, or the files of its folder."""
    folder = name.removesuffix(".zip")
    return [(f"{folder}/{file.name}", file) for file in sorted(path.iterdir())] if path.is_dir() else [(name, path)]


class _Outbox(io.RawIOBase):
    """What was written and not yet taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


def zipped(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield a zip of files under the names that go with them, part by part: it exists nowhere as a whole."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w") as archive:
        for name, path in files:
            member = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            member.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(member, "w") as target:
                while part := source.read(1 << 20):
                    target.write(part)
                    yield outbox.take()
    yield outbox.take()
