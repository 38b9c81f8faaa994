"""Preprocessed cases on disk, built once and memory-mapped: a training item reads its window, not the volume."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from monai.data import Dataset, MetaTensor
from tqdm import tqdm

from liver_pipeline.data.cache_key import case_digest, digest_of, recipe_digest
from liver_pipeline.data.cache_room import REMEMBERED, Room, writing_to
from liver_pipeline.io.checksums import DamagedFileError, verify_archive
from liver_pipeline.io.file_names import case_name
from liver_pipeline.io.files import remove, whole_file

FORMAT = 1  # of the files
SUFFIX = ".pt"
Item = dict[str, Any]


class _Entry(NamedTuple):
    """A prepared case: its file, the digests of its scan and of that with the label map, and what the latter holds."""

    path: Path
    scan: str
    content: str
    held_classes: list[bool]
    unnamed_labels: str


class CaseCache:
    """Cases after the transforms that are the same each time, one file a case.

    A file's name is a digest of the contents of the case's files, of the transforms with all their settings, and of
    their code. It appears whole or not at all, so that runs and processes may share the folder: they wait for what
    another one builds. Images are kept as float16, which rounds a value by at most 1/2048 of itself (0.1 HU in a window
    of 425 HU; values beyond 65504 stay float32); whole numbers are kept as they are.

    Args:
        folder: Of the cache.
        transforms: Applied in order to a case's dictionary of paths; none of them random.
        max_gb: Room for all cases; when it is used up, those not used for longest go, but none that a live run needs.
        window: Voxels of a training window along R, A, S. The axis along which it is thinnest lies slowest on disk, so
            that a slice is read as few pages.
    """

    def __init__(
        self,
        folder: str | Path,
        transforms: Sequence[Callable[[Item], Item]],
        *,
        max_gb: float,
        window: Sequence[int],
    ) -> None:
        self.folder, self.transforms = Path(folder), list(transforms)
        self.order = [int(axis) for axis in np.argsort(window, kind="stable")]
        self.recipe = digest_of([FORMAT, self.order, recipe_digest(self.transforms)])
        self.room = Room(self.folder, suffix=SUFFIX, max_bytes=max_gb * 1e9)
        self._entries: dict[str, _Entry] = {}  # by case, once prepared

    def path(self, case: Mapping[str, Any]) -> Path:
        """Return the file of a case as its scans are now, whether it is there or not.

        Raises:
            OSError: If a scan cannot be read.
        """
        return self.folder / f"{digest_of([self.recipe, case_digest(case, self.folder / REMEMBERED)])}{SUFFIX}"

    def scan_digest(self, case: Mapping[str, Any]) -> str:
        """Return what tells the scan of a case from others: a digest of its files, whatever they are called.

        Raises:
            OSError: If it cannot be read.
        """
        known = self._entries.get(case["case"])
        return self._scan(case) if known is None else known.scan

    def _scan(self, case: Mapping[str, Any]) -> str:
        return case_digest({"image": case["image"]}, self.folder / REMEMBERED)

    def content_digest(self, case: Mapping[str, Any]) -> str:
        """Return what tells a case from what it was before: a digest of scan and label map, and what its values mean.

        Raises:
            OSError: If they cannot be read.
        """
        known = self._entries.get(case["case"])
        return self._content(case) if known is None else known.content

    def _content(self, case: Mapping[str, Any]) -> str:
        told = {name: case[name] for name in ("image", "label", "label_map") if name in case}
        return case_digest(told, self.folder / REMEMBERED)

    def prepare(self, case: Mapping[str, Any]) -> None:
        """See to it that a case is in the cache, whole; one that is there is compared with its checksums.

        Raises:
            ValueError: What is wrong with the case (an IntakeError with its code).
            OSError: If its files cannot be read.
            CacheError: If the disk or the cache is full, or the folder cannot be written.
        """
        path = self.path(case)
        lock = FileLock(path.with_suffix(".lock"))
        with writing_to(self.folder):
            self.room.claim(path.stem)
        if self._fault(path) is not None:
            with writing_to(self.folder):
                lock.acquire()
            try:
                if (fault := self._fault(path)) is not None:
                    if fault:
                        tqdm.write(f"{path} is damaged ({fault}) and is built again")
                    self._build(case, path)
            finally:
                lock.release()
            with writing_to(self.folder):
                remove(path.with_suffix(".lock"))
        item = read_entry(path)
        held = [len(indices) > 0 for indices in item.get("label_cls_indices", ())]
        digests = self._scan(case), self._content(case)
        self._entries[case["case"]] = _Entry(path, *digests, held, item.get("unnamed_labels", ""))

    def load(self, case: Mapping[str, Any]) -> Item:
        """Return a prepared case; its volumes are mapped from disk, and writing to them does not change the file."""
        try:
            return read_entry(self._entry(case).path)
        except FileNotFoundError:  # removed by hand
            self.prepare(case)
            return read_entry(self._entry(case).path)

    def held_classes(self, case: Mapping[str, Any]) -> list[bool]:
        """Tell which classes a case holds, by what ``ClassesToIndicesd`` found in its label map."""
        return self._entry(case).held_classes

    def unnamed_labels(self, case: Mapping[str, Any]) -> str:
        """Tell which values of a case's label map became background, not being named; "" for none."""
        return self._entry(case).unnamed_labels

    def _entry(self, case: Mapping[str, Any]) -> _Entry:
        if case["case"] not in self._entries:
            self.prepare(case)
        return self._entries[case["case"]]

    def _fault(self, path: Path) -> str | None:
        """Return what is wrong with a file of the cache, "" where it is not there, None where it is whole."""
        try:
            verify_archive(path)
            with writing_to(self.folder):
                os.utime(path)  # used now
        except FileNotFoundError:
            return ""
        except DamagedFileError as error:
            return str(error)
        return None

    def _build(self, case: Mapping[str, Any], path: Path) -> None:
        item = dict(case)
        for transform in self.transforms:  # not Compose, which hides errors in RuntimeErrors
            item = transform(item)
        content = {key: self._packed(value) for key, value in item.items()}
        with writing_to(self.folder):
            self.room.make(_bytes(content))
            with whole_file(path) as temporary, temporary.open("wb") as file:
                torch.save(content, file)

    def _packed(self, value: Any) -> Any:
        if isinstance(value, MetaTensor):
            meta = {key: _plain(entry) for key, entry in value.meta.items() if key != "affine"}
            return {"volume": self._compact(value.as_tensor()), "affine": value.affine.clone(), "meta": meta}
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return self._compact(torch.as_tensor(value))
        return [self._packed(entry) for entry in value] if isinstance(value, (list, tuple)) else _plain(value)

    def _compact(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of (C, X, Y, Z), or of anything else as it is, in the dtype and the order of the file."""
        axes = [0, *(1 + axis for axis in self.order)] if tensor.ndim == 4 else list(range(tensor.ndim))
        dtype = torch.float16 if tensor.dtype == torch.float32 and _fits_half(tensor) else tensor.dtype
        stored = torch.empty([tensor.shape[axis] for axis in axes], dtype=dtype).copy_(tensor.permute(axes))
        return stored.permute(np.argsort(axes).tolist())


class CachedCases(Dataset):
    """A MONAI dataset of cases from a :class:`CaseCache`.

    Args:
        data: Cases; one without a name, as MONAI Label gives them, is known by its image's.
        transform: Applied to a case as it comes from the cache: its volumes are mapped, and may be float16.
        cache: Holds the cases.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Any, cache: CaseCache) -> None:
        super().__init__([case if "case" in case else _named(case) for case in data], transform)
        self.cache = cache

    def _transform(self, index: int) -> Any:
        return self.transform(self.cache.load(self.data[index]))


def _named(case: Mapping[str, Any]) -> Item:
    return {**case, "case": case_name(Path(case["image"]).name)}


def read_entry(path: Path) -> Item:
    """Return the item in a file of the cache, mapped; without comparing checksums."""
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return {key: _unpacked(value) for key, value in content.items()}


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"volume", "affine", "meta"}:
        return MetaTensor(value["volume"], affine=value["affine"], meta=value["meta"])
    return value


def _fits_half(tensor: torch.Tensor) -> bool:
    lowest, highest = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(1), torch.zeros(1))
    return bool(max(-lowest, highest) <= torch.finfo(torch.float16).max)


def _plain(value: Any) -> Any:
    """Return a value as what ``torch.load(weights_only=True)`` reads.

    Raises:
        TypeError: If there is no such thing.
    """
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        return (value.as_tensor() if isinstance(value, MetaTensor) else value).clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    raise TypeError(f"a {type(value).__name__} cannot be cached: {value!r}")


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(_bytes(entry) for entry in entries)
