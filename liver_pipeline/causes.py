"""What a component of a config raised, behind what MONAI wraps around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

MENDABLE = (ValueError, OSError, RuntimeError, ModuleNotFoundError)  # what a user can do something about


def unwrapped(error: BaseException) -> tuple[BaseException, str]:
    """Return the exception that MONAI wraps where a config cannot be built, or the one given.

    With it comes the name of the component of others that raised it, whose words do not say what in the config they
    are about; "" if it was one of this package.
    """
    foreign = ""
    while error.__cause__ is not None and (wrapped := re.match("Failed to (instantiate|evaluate)", str(error))):
        if built := re.match("Failed to instantiate component '(?!liver_pipeline)([^']+)'", wrapped.string):
            foreign = built[1]
        error = error.__cause__
    return error, foreign


@contextmanager
def as_raised() -> Iterator[None]:
    """Raise what a component of this package raises as it is: who calls from Python catches it by its own type."""
    try:
        yield
    except RuntimeError as error:
        cause, foreign = unwrapped(error)
        if cause is error or foreign or not isinstance(cause, MENDABLE):
            raise
        raise cause from cause.__cause__
