"""Work that takes long, beside a loop that must go on, or at once where nothing else is to do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

Background = Callable[[Callable[[], None]], "Future[None]"]
"""Runs something beside the caller, or at once; the future is done when it has ended."""


def at_once(work: Callable[[], None]) -> Future[None]:
    """A `Background` for tests and for a process with nothing else to do."""
    future: Future[None] = Future()
    try:
        work()
        future.set_result(None)
    except Exception as error:
        future.set_exception(error)
    return future
