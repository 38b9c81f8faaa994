"""Ports for servers that tests start and others have to know beforehand."""

from __future__ import annotations

import os
import socket

LOOPBACK = "127.0.0.1"
FIRST, EACH, WORKERS = 10_000, 2_000, 11  # below those that Linux gives to connections, 32768 and above


def _ports_of_this_worker() -> list[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    first, turn = FIRST + worker * EACH, os.getpid() % EACH  # tests that are run twice at once start elsewhere
    return [first + (turn + number) % EACH for number in range(EACH)]


_left = _ports_of_this_worker()


def free_port() -> int:
    """Return a port that nobody listens at; no connection takes it meanwhile, and no other test is given it."""
    while True:
        port = _left.pop()
        with socket.socket() as one:
            try:
                one.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
