"""Clocks that are set while a program runs: what has lasted and what is old is told without them."""

from __future__ import annotations

import time

import pytest

from liver_pipeline.io.clocks import Ages, Beginning

HOUR = 3600.0


class Clocks:
    """A clock that is set, and one that is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.passed = 1e9, 50.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.passed)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


def old(ages: Ages, seconds: float) -> list[str]:
    return [name for name, age in ages.look().items() if age >= seconds]


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize("jump", [-5 * HOUR, 5 * HOUR])
def test_what_has_lasted_is_what_has_passed(clocks: Clocks, jump: float) -> None:
    began = Beginning()
    clocks.wait(7.0)
    clocks.wall += jump
    assert began.seconds == pytest.approx(7.0)


def test_what_is_found_is_as_old_as_the_clock_says_and_grows_older_as_time_passes(clocks: Clocks) -> None:
    ages = Ages({"old": clocks.wall - 2 * HOUR, "new": clocks.wall, "of tomorrow": clocks.wall + 24 * HOUR}.copy)
    assert old(ages, HOUR) == ["old"] and old(ages, 0.0) == ["old", "new", "of tomorrow"]
    clocks.wait(HOUR)
    assert old(ages, HOUR) == ["old", "new", "of tomorrow"]


@pytest.mark.parametrize("jump", [-30 * 365 * 24 * HOUR, -5 * HOUR, 5 * HOUR, 30 * 365 * 24 * HOUR])
def test_however_the_clock_is_set_what_came_since_is_kept_for_its_time(clocks: Clocks, jump: float) -> None:
    files = {"before": clocks.wall}
    ages = Ages(files.copy)
    assert old(ages, HOUR) == []
    clocks.wait(60.0)
    files["since"] = clocks.wall
    clocks.wall += jump
    assert old(ages, HOUR) == []
    clocks.wait(HOUR - 60.0)
    assert old(ages, HOUR) == ["before"]
    clocks.wait(60.0)
    assert old(ages, HOUR) == ["before", "since"]
    files["since"] = clocks.wall  # it has changed
    assert old(ages, HOUR) == ["before"]
    clocks.wait(HOUR)
    assert old(ages, HOUR) == ["before", "since"]


def test_what_is_gone_and_comes_again_is_new(clocks: Clocks) -> None:
    files = {"a": clocks.wall - 2 * HOUR}
    ages = Ages(files.copy)
    assert old(ages, HOUR) == ["a"]
    changed = files.pop("a")
    assert old(ages, HOUR) == []
    files["a"] = changed
    assert old(ages, HOUR) == []
