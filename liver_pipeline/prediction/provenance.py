"""Where a mask comes from: hashes, versions, settings, machine, seconds and memory of each stage."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liver_pipeline.io.checksums import content_sha256
from liver_pipeline.io.limits import cores

PACKAGES = (
    "liver-pipeline",
    "torch",
    "monai",
    "numpy",
    "nibabel",
    "itk",
    "isal",
    "connected-components-3d",
    "openvino",
)
VOLATILE = ("timing", "machine")  # what two runs of the same thing may differ in
# What decides no mask; ``accept`` decides whether there is one.
NOT_SETTINGS = ("device", "progress", "verbose", "cache_dir", "training", "R", "probabilities", "quality", "accept")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that touch voxels."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """Return device, processor and cores; no host or user name."""
    found: dict[str, Any] = {"device": str(device), "processor": _processor(), "cores": cores()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def settings_of(thing: Any, depth: int = 12) -> Any:
    """Describe a transform, inferer or anything else by its class and settings, ready for JSON, the same every time.

    Plain values stay; an object becomes its class and public attributes, whoever wrote it; a network its printed
    structure (its weights have their own hash); a partial function its arguments; a function its name with what is
    bound to it; of an object without attributes only the name is known. What a config gives to private attributes is
    known by the config.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if depth == 0:
        return "..."
    if isinstance(thing, Mapping):
        return {str(key): settings_of(thing[key], depth - 1) for key in sorted(thing, key=str)}
    if isinstance(thing, list | tuple):
        return [settings_of(item, depth - 1) for item in thing]
    if isinstance(thing, set | frozenset):
        return sorted(json.dumps(settings_of(item, depth - 1), sort_keys=True) for item in thing)
    if isinstance(thing, torch.nn.Module):
        return {
            "network": type(thing).__qualname__,
            "structure_sha256": content_sha256(str(thing)),
        }
    if isinstance(thing, np.generic | np.ndarray):
        return settings_of(thing.tolist(), depth) if thing.size <= 1000 else content_sha256(thing.tolist())
    return _settings_of_object(thing, depth)


def _settings_of_object(thing: Any, depth: int) -> Any:
    if isinstance(thing, partial):
        return settings_of([thing.func, thing.args, thing.keywords], depth - 1)
    if isinstance(thing, type) or hasattr(thing, "__qualname__"):
        named = f"{thing.__module__}.{thing.__qualname__}"
        cells = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        bound = [cells, getattr(thing, "__defaults__", None), getattr(thing, "__kwdefaults__", None)]
        return {"function": named, "values": settings_of(bound, depth - 1)} if any(bound) else named
    kind = type(thing)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(thing, os.PathLike | torch.dtype | torch.device) or kind.__module__.startswith("enum"):
        return str(thing)
    slots = [slot for base in kind.__mro__ for slot in _named_slots(base)]
    values = {
        **getattr(thing, "__dict__", {}),
        **{slot: getattr(thing, slot) for slot in slots if hasattr(thing, slot)},
    }
    if not values and not hasattr(thing, "__dict__"):
        return name
    public = {k: v for k, v in values.items() if not k.startswith("_") and k not in NOT_SETTINGS}
    return {"class": name, **{key: settings_of(public[key], depth - 1) for key in sorted(public)}}


def _named_slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


class Stages:
    """Seconds, and the most memory the process held, for each named stage of one case.

    Memory is the resident size of the whole process, sampled every 20 ms while a stage runs: stages of neighbouring
    cases overlap in time and show in each other's figures.

    Args:
        began: Called with the name of each stage when it begins.
    """

    def __init__(self, began: Callable[[str], None] = lambda name: None) -> None:
        self._began = began
        self.seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}
        self._running: dict[str, tuple[float, _Peak]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as stage ``name``; a stage that runs twice is added up."""
        self._began(name)
        started, memory = time.perf_counter(), _Peak()
        self._running[name] = started, memory
        try:
            with memory:
                yield
        finally:
            del self._running[name]
            self._add(name, started, memory)

    def _add(self, name: str, started: float, memory: _Peak) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), memory.peak_mb)

    def as_json(self) -> dict[str, dict[str, float]]:
        """Return seconds and peak memory of the process for each stage; of one that runs, what it took until now."""
        until_now = Stages()
        until_now.seconds, until_now.peak_mb = dict(self.seconds), dict(self.peak_mb)
        for name, (started, memory) in self._running.items():
            until_now._add(name, started, memory)
        return {
            name: {"seconds": round(seconds, 4), "process_peak_mb": round(until_now.peak_mb[name], 1)}
            for name, seconds in until_now.seconds.items()
        }


class _Peak:
    """Sample the resident size of this process in a thread while the block runs."""

    def __init__(self) -> None:
        self.peak_mb = resident_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_mb = max(self.peak_mb, resident_mb())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, resident_mb())


def resident_mb() -> float:
    """Return the resident size of this process in MB, 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0
