"""Batches depend on seed, epoch and position, and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from liver_pipeline.data.loaders import BatchLoader, EpochSampler, seed_of
from tests.waiting import wait_for


def loader(num_threads: int, **options: Any) -> BatchLoader:
    volumes = torch.arange(20.0 * 27).reshape(20, 1, 3, 3, 3)
    data = [{"image": volume, "label": volume.clone()} for volume in volumes]
    flips = [RandFlipd(["image", "label"], prob=0.5, spatial_axis=axis) for axis in range(3)]
    transform = Compose([*flips, RandGaussianNoised("image", prob=0.5, std=0.01)])
    dataset = CacheDataset(data, transform, progress=False)
    return BatchLoader(dataset, batch_size=3, seed=1, num_threads=num_threads, **options)


def epoch(batches: BatchLoader, number: int) -> list[dict[str, torch.Tensor]]:
    batches.set_epoch(number)
    return list(batches)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_threads_change_neither_order_nor_content(num_threads: int) -> None:
    for number in (1, 2):
        for a, b in zip(epoch(loader(0), number), epoch(loader(num_threads), number), strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["label"], b["label"])


def test_image_and_label_are_flipped_together_in_threads() -> None:
    batches = loader(8)
    for number in range(10):
        for batch in epoch(batches, number):
            assert (batch["image"] - batch["label"]).abs().max() < 0.5  # voxels differ by 1 or more, noise by less


def test_an_epoch_does_not_depend_on_those_before_it_and_differs_from_them() -> None:
    batches = loader(2)
    first, second = epoch(batches, 1), epoch(batches, 2)
    again = epoch(loader(2), 2)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(second, again, strict=True))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))


def test_the_next_epoch_is_begun_while_one_ends() -> None:
    batches = loader(2)
    loaded: list[Any] = []
    load = batches._load
    batches._load = lambda draws: loaded.append(draws) or load(draws)  # type: ignore[method-assign,func-returns-value]
    epoch(batches, 1)
    wait_for(lambda: len(loaded) >= len(batches) + 2)
    assert len(loaded) == len(batches) + 2
    for number in (2, 7):  # the one that was begun, and another one
        for a, b in zip(epoch(batches, number), epoch(loader(0), number), strict=True):
            assert torch.equal(a["image"], b["image"])
    assert len(loaded) >= 3 * len(batches) + 2
    assert len({tuple(draws) for draws in loaded[: 2 * len(batches)]}) == 2 * len(batches)  # none was made twice


def test_an_epoch_that_is_redrawn_when_one_ends_is_the_new_one() -> None:
    batches, turned = loader(2, redraw=lambda order, _: order), loader(0, redraw=lambda order, _: order[::-1])
    epoch(batches, 1)
    batches.draws.redraw = turned.draws.redraw
    for a, b in zip(epoch(batches, 2), epoch(turned, 2), strict=True):
        assert torch.equal(a["image"], b["image"])


def test_an_epoch_that_is_left_early_leaves_no_thread_behind() -> None:
    import threading

    before = set(threading.enumerate())
    batches = iter(loader(4))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


def test_processes_share_the_epoch_out_batch_by_batch() -> None:
    whole = EpochSampler(8, seed=3)
    parts = [EpochSampler(8, seed=3, rank=rank, world=2) for rank in range(2)]
    assert sorted(index for _, index in whole) == list(range(8))
    one, two = list(whole), [list(part) for part in parts]
    for step in range(4):  # a step of one process with batch 2 is a step of two processes with batch 1
        assert {one[2 * step], one[2 * step + 1]} == {two[0][step], two[1][step]}
    assert [len(EpochSampler(7, seed=0, rank=rank, world=2)) for rank in range(2)] == [4, 4]


def test_neighbouring_seeds_are_unrelated() -> None:
    assert len({seed_of(a, b) for a in range(50) for b in range(50)}) == 2500
