"""What the content of a cached case depends on, as one short text: its files, the transforms, and their code."""

from __future__ import annotations

import enum
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import monai
import numpy as np
import torch

from liver_pipeline.data.cache_room import writing_to
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import write_json

_NAMES = ("case", "patient")  # fields of a case that never are paths
BY_VERSION = ("monai", "torch", "numpy", "builtins")  # packages whose code counts by their version


def digest_of(content: Any) -> str:
    """Return 32 hexadecimal digits for what JSON knows; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def recipe_digest(transforms: Iterable[Any]) -> str:
    """Return a digest of transforms: their classes, all their settings, and the code that they run.

    Of MONAI the version counts, of any other package the source files that the transforms come from and those of the
    same package that they import from.

    Raises:
        ValueError: If a setting cannot be told by its value, such as a lambda.
    """
    modules: set[str] = set()
    settings = _describe(list(transforms), modules)
    return digest_of([settings, _sources(modules), monai.__version__])


def _describe(value: Any, modules: set[str]) -> Any:
    """Return ``value`` as what JSON knows; the modules of its classes and functions are added to ``modules``."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, (Path, enum.Enum, torch.dtype, torch.device, np.dtype, slice)):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), list(value.shape), hashlib.blake2b(value.tobytes()).hexdigest()]
    if isinstance(value, torch.Tensor):
        return _describe(value.detach().cpu().numpy(), modules)
    if isinstance(value, Mapping):
        return [[_describe(key, modules), _describe(item, modules)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_describe(item, modules) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_describe(item, modules) for item in value), key=json.dumps)
    if isinstance(value, partial):
        return _describe([value.func, value.args, value.keywords], modules)
    if isinstance(value, MethodType):
        return _describe([value.__self__, value.__name__], modules)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _name(value, modules)
    if hasattr(value, "__dict__"):
        return [_name(type(value), modules), _describe(vars(value), modules)]
    raise ValueError(f"{value!r} of type {type(value).__name__} cannot be told by its value, so nothing can be cached")


def _name(value: Any, modules: set[str]) -> str:
    if value.__name__ == "<lambda>" or getattr(value, "__closure__", None):
        raise ValueError(
            f"{value.__qualname__} in {value.__module__} cannot be told from another; name a plain function"
        )
    modules.add(value.__module__)
    return f"{value.__module__}.{value.__qualname__}"


def _sources(modules: Iterable[str]) -> dict[str, str]:
    """Return a digest of each module's source, and of the modules of its package that it imports from."""
    digests: dict[str, str] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        package = name.partition(".")[0]
        module = sys.modules.get(name)
        if name in digests or package in BY_VERSION or module is None:
            continue
        source = getattr(module, "__file__", None)
        digests[name] = hashlib.blake2b(Path(source).read_bytes()).hexdigest() if source else ""
        for imported in vars(module).values():
            origin = imported.__name__ if isinstance(imported, ModuleType) else getattr(imported, "__module__", None)
            if isinstance(origin, str) and origin.partition(".")[0] == package:
                todo.append(origin)
    return digests


def case_digest(case: Mapping[str, Any], memory: Path) -> str:
    """Return a digest of a case: of each field that names a file or folder the content, of any other the value.

    Args:
        case: Fields by name.
        memory: A folder of small files that remember the content of files by path, size and time of change, so that
            it is read again only when these change.

    Raises:
        OSError: If a file cannot be read.
        CacheError: If ``memory`` cannot be written.
    """
    return digest_of({name: value if name in _NAMES else _field(value, memory) for name, value in case.items()})


def _field(value: Any, memory: Path) -> Any:
    if not isinstance(value, (str, Path)) or not Path(value).exists():
        return value
    path = Path(value)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        return [[str(file.relative_to(path)), _content(file, memory)] for file in inside]
    return _content(path, memory)


def _content(path: Path, memory: Path) -> str:
    """Return the digest of a file's bytes."""
    stat = path.stat()
    state = [str(path.absolute()), stat.st_size, stat.st_mtime_ns]
    remembered = memory / f"{digest_of(state[0])}.json"
    try:
        known = json.loads(remembered.read_text())
        if known[:3] == state:
            return str(known[3])
    except (OSError, ValueError, TypeError):
        pass
    digest = file_sha256(path)
    with writing_to(memory):
        write_json(remembered, [*state, digest])
    return digest
