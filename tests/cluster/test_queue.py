"""Which case is next, and what the death of a worker means for those it had."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.cluster.queue import DEATHS, CaseQueue
from liver_pipeline.io.discovery import ScanInput

A, B, C = (ScanInput(Path(name), name) for name in "abc")


def test_a_worker_has_two_cases_and_no_more() -> None:
    queue = CaseQueue([A, B, C])
    assert queue.next_for([]) == A
    assert queue.next_for([A]) == B
    assert queue.next_for([A, B]) is None
    assert len(queue) == 1


def test_a_case_whose_worker_died_goes_last_and_alone() -> None:
    queue = CaseQueue([A, B, C])
    queue.next_for([])
    assert not queue.worker_died(A)
    assert queue.next_for([]) == B
    assert queue.next_for([B]) == C
    assert queue.next_for([C]) is None  # it would die with A
    assert queue.next_for([]) == A
    assert queue.next_for([A]) is None


def test_the_third_death_is_the_end_of_a_case_and_a_lost_node_is_no_death() -> None:
    queue = CaseQueue([A])
    for death in range(1, DEATHS + 1):
        assert queue.next_for([]) == A
        queue.put_back(A)
        assert queue.next_for([]) == A
        assert queue.worker_died(A) == (death == DEATHS)
    assert len(queue) == 0


@given(st.integers(0, 12), st.lists(st.integers(0, 11)), st.randoms(use_true_random=False))
def test_every_case_comes_to_one_end_whichever_kill_their_workers(
    count: int, killers: list[int], chance: object
) -> None:
    """Two workers; a killer takes its neighbour along, and no more than once."""
    queue = CaseQueue(ScanInput(Path(), str(number)) for number in range(count))
    workers: list[list[ScanInput]] = [[], []]
    ends: list[tuple[str, bool]] = []
    while len(queue) or any(workers):
        for has in workers:
            while (one := queue.next_for(has)) is not None:
                has.append(one)
        has = chance.choice([worker for worker in workers if worker])  # type: ignore[attr-defined]
        if int(has[0].case) in killers:
            ends += [(one.case, False) for one in has if queue.worker_died(one)]
            has.clear()
        else:
            ends.append((has.pop(0).case, True))
    assert sorted(ends) == sorted((str(number), number not in killers) for number in range(count))
