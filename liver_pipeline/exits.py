"""What the exit code of a command says."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_BAD_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NONE_DONE = 4
