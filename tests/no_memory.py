"""A device without memory, for tests on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = ("slice", "permute", "alias", "detach", "view", "select")  # which take no memory


class NoMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A device that has no memory for operation number ``at``, and room again once it was relieved."""

    def __init__(self, at: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at, self.count, self.quiet = at, 0, False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.quiet and function.__name__.partition(".")[0] not in VIEWS:
            self.count += 1
            if self.count == self.at:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return function(*args, **(kwargs or {}))
