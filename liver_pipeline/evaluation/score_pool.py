"""Score many cases side by side, in as many processes as cores and memory allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

from liver_pipeline.evaluation.pairing import Failure, Pair
from liver_pipeline.io.formats import voxel_count
from liver_pipeline.io.limits import cores, total_bytes
from liver_pipeline.io.screen import with_bar

BYTES_PER_VOXEL = 10  # peak of one case over the voxels of its volume; scripts/bench_evaluation.py measures it
PROCESS_BYTES = 300_000_000  # Python with the libraries, before the first case
SMALL_JOB_VOXELS = 20_000_000  # with fewer voxels in all, starting processes costs more than it gains


def score_pairs(
    pairs: Sequence[Pair], score: partial[dict[str, Any] | Failure], workers: int | None, memory_gb: float | None
) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
    """Score pairs in as many processes as cores and memory allow, each result as it comes."""
    n_cores = cores()
    voxels = {pair.case: voxel_count(pair.label)[0] for pair in with_bar(pairs, "Looking at sizes", "case")}
    n_workers = _count_workers(list(voxels.values()), workers or n_cores, memory_gb)
    if workers is None and sum(voxels.values()) < SMALL_JOB_VOXELS:
        n_workers = 1
    if n_workers == 1:
        for pair in pairs:
            yield pair.case, score(pair, threads=n_cores)
        return
    largest_first = sorted(pairs, key=lambda pair: -voxels[pair.case])
    yield from _run_in_pool(largest_first, partial(score, threads=max(1, n_cores // n_workers)), n_workers)


def _run_in_pool(
    pairs: Sequence[Pair], score: partial[dict[str, Any] | Failure], n_workers: int
) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
    """Score in processes; cases of a pool that died get one process each, so that only the guilty one fails."""
    unfinished = {pair.case: pair for pair in pairs}
    try:
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(score, pair): pair.case for pair in pairs}
            for future in as_completed(waiting):
                outcome = future.result()
                del unfinished[waiting[future]]
                yield waiting[future], outcome
    except BrokenProcessPool:
        if n_workers == 1 and len(pairs) == 1:
            detail = f"{pairs[0].label}: the process died, most likely for want of memory"
            yield pairs[0].case, Failure("WORKER_DIED", detail)
            return
        for pair in unfinished.values():
            yield from _run_in_pool([pair], score, 1)


def _count_workers(voxels: Sequence[int], wanted: int, memory_gb: float | None) -> int:
    """As many processes as wanted whose largest cases fit into memory at once; at least one."""
    budget = total_bytes() / 2 if memory_gb is None else memory_gb * 1e9
    n_workers, used = 0, 0.0
    for size in sorted(voxels, reverse=True)[:wanted]:
        used += size * BYTES_PER_VOXEL + PROCESS_BYTES
        if used > budget:
            break
        n_workers += 1
    return max(1, n_workers)
