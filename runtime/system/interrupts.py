"""What asks a program to end in order: Ctrl-C, a service manager, a terminal that goes away (ssh)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handlers = dict[int, Any]


def when_asked_to_end(handler: Callable[[int, FrameType | None], None]) -> Handlers:
    """Call `handler` on SIGINT, SIGTERM and SIGHUP (not where `nohup` asked that it be ignored); returns what
    was called before, for `put_back`. Main thread only."""
    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    return {number: signal.signal(number, handler) for number in asked}


def put_back(handlers: Handlers) -> None:
    """As it was before `when_asked_to_end`."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
