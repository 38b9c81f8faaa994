"""Training batches of synthetic scans: threads fill a pool on the device while the network trains on what is in it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from liver_pipeline.synthesis.generator import ScanGenerator

WAIT_S = 0.01  # between two looks whether a thread has made a sample
FIRST_SAMPLES_S = 300.0  # for the first samples


class SyntheticBatches:
    """An endless supply of windows, dealt in epochs of a fixed number of batches.

    With threads, which samples a batch holds depends on how fast they are made: the samples are those of the seed,
    their order is not. Without threads each batch is made when it is asked for, and depends on seed and epoch alone.

    Args:
        generator: Makes the samples.
        batch_size: Windows in a batch.
        batches: In an epoch.
        pool_size: Samples kept on the device; the oldest makes room for a new one. A sample is thus seen several times
            where training is faster than making, each time a little lighter, darker and noisier.
        threads: That make samples, each on its own CUDA stream; 0 makes them when asked for.
        start_with: Samples to wait for at the start.
        jitter: Most that an image is scaled by and moved by, and sd of noise, of the range 0 to 1.
    """

    def __init__(
        self,
        generator: ScanGenerator,
        *,
        batch_size: int,
        batches: int,
        pool_size: int = 320,
        threads: int = 2,
        start_with: int = 40,
        jitter: Sequence[float] = (0.04, 0.015, 0.02),
    ) -> None:
        self.generator, self.batch_size, self.batches = generator, batch_size, batches
        self.pool_size, self.threads, self.start_with = pool_size, threads, max(batch_size, min(start_with, pool_size))
        self.jitter = tuple(jitter)
        self.epoch, self.made, self._busy_s = 0, 0, 0.0
        self._pool: list[tuple[Tensor, Tensor]] = []
        self._indices = itertools.count()
        self._workers: list[threading.Thread] = []
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = random.Random(f"{self.generator.seed} {self.epoch}")  # noqa: S311 (no secret)
        if self.threads:
            self._start()
        for batch in range(self.batches):
            if self.threads:
                self._raise_error()
                chosen = [self._take(rng.randrange(len(self._pool))) for _ in range(self.batch_size)]
            else:
                first = ((self.epoch - 1) * self.batches + batch) * self.batch_size
                chosen = [self.generator.window(first + i) for i in range(self.batch_size)]
            yield self._collate(chosen, rng)

    def attach(self, engine: Engine) -> None:
        """End the threads when a training ends, however it does."""
        for event in (Events.COMPLETED, Events.EXCEPTION_RAISED):
            engine.add_event_handler(event, self._close_for, event)

    def _close_for(self, *args: Any) -> None:
        self.close()
        for argument in args:
            if isinstance(argument, BaseException):  # a handler of exceptions takes their place
                raise argument

    def close(self) -> None:
        """End the threads and free the pool."""
        self._stop.set()
        for worker in self._workers:
            worker.join()
        if self._workers:
            seconds = self._busy_s / max(1, self.made)
            tqdm.write(f"{self.made} samples made in {len(self._workers)} threads, {1000 * seconds:.0f} ms each")
        self._workers.clear()
        self._pool.clear()

    def _start(self) -> None:
        """Start the threads, once, and wait for the first samples."""
        if not self._workers:
            self._stop.clear()
            self._indices = itertools.count(self.epoch * 10**6)  # a training that goes on sees new samples
            self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self.threads)]
            for worker in self._workers:
                worker.start()
        waited = 0.0
        while len(self._pool) < self.start_with and waited < FIRST_SAMPLES_S:
            self._raise_error()
            time.sleep(WAIT_S)
            waited += WAIT_S
        if len(self._pool) < self.batch_size:
            raise RuntimeError(f"only {len(self._pool)} samples after {waited:.0f} s, fewer than a batch needs")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"a generator thread failed: {self._error}") from self._error

    def _work(self) -> None:
        device = self.generator.grid.device
        stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                with torch.cuda.stream(stream):  # of None does nothing
                    image, label = self.generator.window(next(self._indices))
                    image = image.to(torch.float16)
                if stream is not None:
                    stream.synchronize()  # only whole samples enter the pool
                self._put((image, label), time.monotonic() - started)
        except BaseException as error:  # raised where the batches are asked for
            self._error = error

    def _put(self, sample: tuple[Tensor, Tensor], seconds: float) -> None:
        self._busy_s += seconds
        if len(self._pool) < self.pool_size:
            self._pool.append(sample)
        else:
            self._pool[self.made % self.pool_size] = sample
        self.made += 1

    def _take(self, place: int) -> tuple[Tensor, Tensor]:
        image, label = self._pool[place]
        if image.is_cuda:  # made on another stream: its memory stays until this one has read it
            for tensor in (image, label):
                tensor.record_stream(torch.cuda.current_stream(image.device))
        return image, label

    def _collate(self, chosen: Sequence[tuple[Tensor, Tensor]], rng: random.Random) -> dict[str, Tensor]:
        """Return images (B, 1, X, Y, Z), float32, and labels (B, 1, X, Y, Z), uint8."""
        gain, offset, grain = self.jitter
        images = []
        for image, _ in chosen:
            bright = image.float() * rng.uniform(1 - gain, 1 + gain) + rng.uniform(-offset, offset)
            images.append(bright.add_(torch.randn_like(bright), alpha=rng.uniform(0, grain)).clamp_(0, 1))
        return {"image": torch.stack(images)[:, None], "label": torch.stack([label for _, label in chosen])[:, None]}


class SyntheticCases(Dataset[dict[str, Any]]):
    """A fixed set of samples, made once: what a training is validated on, from a seed that it never trains on.

    Items hold ``image``, (1, X, Y, Z), float32, and ``label``, (1, X, Y, Z), uint8, on the generator's device.

    Args:
        generator: Makes the samples.
        count: How many.
    """

    def __init__(self, generator: ScanGenerator, count: int) -> None:
        self.items = [
            {"image": image[None], "label": label[None]} for image, label in map(generator.window, range(count))
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.items[index])
