"""Batches whose randomness is a function of seed and epoch, so that a training continues exactly after a stop.

Which cases a batch holds, and how each is cropped and augmented, depends on (seed, epoch, position in the epoch) and
on nothing else: not on threads, not on what was drawn before. A checkpoint then needs no state of generators.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Randomizable
from torch.utils.data import Sampler

from liver_pipeline.io.limits import cores

CaseDraw = tuple[int, int]  # seed of the item, index of the case
Order = npt.NDArray[np.int64]  # indices of the cases of an epoch
Batch = tuple[dict[str, Any], "torch.cuda.Event | None"]  # and when its copy to the GPU is done
_Waiting = deque[tuple[list[CaseDraw], Future[Batch]]]  # batches in preparation
Redraw = Callable[[Order, np.random.Generator], Order]


def seed_of(*numbers: int) -> int:
    """Mix whole numbers from 0 into one seed below 2**32; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (all devices) with :func:`seed_of` the numbers."""
    seed = seed_of(*numbers)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from the global generator)
    torch.manual_seed(seed)


class EpochSampler(Sampler[CaseDraw]):
    """Deal the cases of an epoch: a permutation that depends on seed and epoch.

    Args:
        size: Number of cases.
        seed: Seeds the permutations.
        rank: This process takes the positions ``rank, rank + world, ...``.
        world: Number of processes. All get equally many positions; the last ones start the permutation again.
        redraw: Makes another order of a permutation, such as ``HardCases.redraw``.
    """

    def __init__(self, size: int, seed: int, *, rank: int = 0, world: int = 1, redraw: Redraw | None = None) -> None:
        self.size, self.seed, self.rank, self.world = size, seed, rank, world
        self.redraw = redraw
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[CaseDraw]:
        rng = np.random.default_rng(seed_of(self.seed, self.epoch))
        order = rng.permutation(self.size)
        if self.redraw is not None:
            order = self.redraw(order, rng)
        for position in range(self.rank, len(self) * self.world, self.world):
            yield seed_of(self.seed, self.epoch, position), int(order[position % self.size])


class SeededItems(torch.utils.data.Dataset[Any]):
    """Items of a MONAI dataset whose random transforms are seeded before each item.

    Threads may ask for items at the same time: each works with its own copy of the transforms, while what the dataset
    holds in memory is shared.

    Args:
        dataset: Its ``transform`` is a Compose, or anything that is not random.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._idle: deque[Dataset] = deque()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: CaseDraw) -> Any:
        seed, index = draw
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = copy.copy(self.dataset)
            worker.transform = copy.deepcopy(self.dataset.transform)
        if isinstance(worker.transform, Randomizable):
            worker.transform.set_random_state(seed=seed)
        item = worker[index]
        self._idle.append(worker)
        return item


class BatchLoader(DataLoader):
    """A DataLoader that prepares batches in threads; their number changes neither order nor content of the batches.

    While an epoch ends and is validated, the threads go on with the first batches of the next one. Batches hold plain
    tensors: a network that is given a MetaTensor gives views of its outputs to the layers that change them in place,
    and the backward pass then copies each gradient three times. With a GPU as ``device`` a batch is copied there while
    the training steps before it run.

    Args:
        dataset: A MONAI dataset.
        batch_size: Cases in a batch.
        seed: Seeds order, crops and augmentation.
        num_threads: Batches in preparation at the same time; 0 prepares each when it is asked for.
        rank: See :class:`EpochSampler`.
        world: See :class:`EpochSampler`.
        redraw: See :class:`EpochSampler`.
        device: Where the batches are to be; None leaves them where the dataset has them.
        options: Other arguments of PyTorch's DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
        num_threads: int = 0,
        rank: int = 0,
        world: int = 1,
        redraw: Redraw | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        self.draws = EpochSampler(len(dataset), seed, rank=rank, world=world, redraw=redraw)
        self.items = SeededItems(dataset)
        super().__init__(self.items, batch_size=batch_size, sampler=self.draws, **options)
        self.num_threads = num_threads
        self.epoch = 0
        self._ahead: tuple[ThreadPoolExecutor, _Waiting] | None = None
        on_gpu = device is not None and torch.device(device).type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def _batches(self, epoch: int) -> list[list[CaseDraw]]:
        assert self.batch_sampler is not None
        self.draws.epoch = epoch
        return list(self.batch_sampler)

    def _load(self, draws: Sequence[CaseDraw]) -> Batch:
        batch = without_metadata(self.collate_fn([self.items[draw] for draw in draws]))
        batch = pinned(batch) if self.pin_memory else batch
        if self._stream is None:
            return batch, None
        with torch.cuda.stream(self._stream):
            moved = {key: _moved(value, self._stream.device) for key, value in batch.items()}
        return moved, self._stream.record_event()

    @staticmethod
    def _arrived(loaded: Batch) -> dict[str, Any]:
        """Let what the caller does next on the GPU come after the copy."""
        batch, copied = loaded
        if copied is not None:
            for value in batch.values():
                if isinstance(value, torch.Tensor):
                    current = torch.cuda.current_stream(value.device)
                    current.wait_event(copied)
                    value.record_stream(current)
        return batch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # PyTorch's gives a class of its own
        batches = self._batches(self.epoch)
        if self.num_threads == 0:
            yield from (self._arrived(self._load(draws)) for draws in batches)
            return
        pool, waiting = self._ahead or (one_core_each(self.num_threads), deque())
        self._ahead = None
        if [draws for draws, _ in waiting] != batches[: len(waiting)]:  # another epoch, or it was redrawn
            for _, begun in waiting:
                begun.cancel()
            waiting.clear()
        coming = [*batches, *self._batches(self.epoch + 1)[: self.num_threads]][len(waiting) :]
        given = 0  # batches
        try:
            while given < len(batches):
                while coming and len(waiting) <= self.num_threads:
                    draws = coming.pop(0)
                    waiting.append((draws, pool.submit(self._load, draws)))
                batch = self._arrived(waiting.popleft()[1].result())
                given += 1
                if given == len(batches):
                    self._ahead = (pool, waiting)
                yield batch
        finally:
            if given < len(batches):
                pool.shutdown(cancel_futures=True)


def without_metadata(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch with tensors in place of MetaTensors, which share their memory."""
    return {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in batch.items()}


def _moved(value: Any, device: torch.device) -> Any:
    """Return a tensor on ``device``, without waiting for the copy; anything else as it is."""
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def pinned(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch whose CPU tensors lie in memory that a GPU can copy from while it computes."""
    return {
        key: value.pin_memory() if isinstance(value, torch.Tensor) and value.device.type == "cpu" else value
        for key, value in batch.items()
    }


class SeedEpochs:
    """Seed everything random at the start of each epoch: global generators (dropout) and the loader.

    Attach it to the trainer, before the other handlers.
    """

    def __init__(self, loader: BatchLoader, seed: int) -> None:
        self.loader, self.seed = loader, seed

    def attach(self, engine: Engine) -> None:
        """Seed when an epoch starts, which is before its first batch is prepared."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        seed_everything(self.seed, engine.state.epoch, engine.state.rank)
        self.loader.set_epoch(engine.state.epoch)


def one_core_each(count: int) -> ThreadPoolExecutor:
    """Return a pool of ``count`` threads, but no more than there are cores, whose PyTorch operations run on one core.

    The caller keeps its own number.
    """
    torch.get_num_threads()  # settles the number of the calling thread, which the workers' would otherwise become
    return ThreadPoolExecutor(min(count, cores()), initializer=torch.set_num_threads, initargs=(1,))


def left_in_place(batch: Mapping[str, Any], *_: Any, **__: Any) -> tuple[Any, Any]:
    """Return image and label of a batch where they are: an inferer that streams brings windows to the GPU itself."""
    return batch["image"], batch["label"]
