from __future__ import annotations

import pytest
import torch

from liver_pipeline.synthesis import ScanGenerator, SyntheticBatches, SyntheticCases


class Counting(ScanGenerator):
    """Makes windows that hold their index, without painting anything."""

    def window(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == 13:
            raise ValueError("thirteen")
        return torch.full((8, 8, 8), index % 100 / 200), torch.full((8, 8, 8), index % 3, dtype=torch.uint8)


def batches(threads: int, **options: int) -> SyntheticBatches:
    generator = Counting((8, 8, 8), 30.0)
    return SyntheticBatches(generator, batch_size=2, batches=3, threads=threads, jitter=(0, 0, 0), **options)


def test_without_threads_an_epochs_batches_depend_on_the_epoch_alone() -> None:
    loader = batches(0)
    assert len(loader) == 3
    loader.set_epoch(2)
    first = [batch["image"][:, 0, 0, 0, 0].tolist() for batch in loader]
    assert first == [pytest.approx([i / 200, (i + 1) / 200]) for i in (6, 8, 10)]
    again = [batch["image"][:, 0, 0, 0, 0].tolist() for batch in loader]
    assert again == first


def test_batches_are_what_the_trainer_takes() -> None:
    batch = next(iter(batches(0)))
    assert batch["image"].shape == batch["label"].shape == (2, 1, 8, 8, 8)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)


def test_threads_fill_a_pool_of_bounded_size_and_end_when_closed() -> None:
    loader = batches(2, pool_size=5, start_with=5)
    loader.set_epoch(1)
    assert len(list(loader)) == 3
    assert len(loader._pool) == 5
    workers = list(loader._workers)
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert not loader._pool


def test_an_error_in_a_thread_reaches_the_training() -> None:
    loader = batches(1, pool_size=40, start_with=30)
    loader.set_epoch(0)  # its samples begin with 0, and sample 13 fails
    with pytest.raises(RuntimeError, match="thirteen"):
        list(loader)
    loader.close()


def test_validation_cases_are_made_once_and_stay() -> None:
    cases = SyntheticCases(Counting((8, 8, 8), 30.0), 3)
    assert len(cases) == 3
    assert cases[2]["image"].shape == (1, 8, 8, 8)
    assert cases[2]["image"] is cases[2]["image"]
