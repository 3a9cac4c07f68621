"""The way in of processes that stand beside the loop and may end without it: page, viewer, teleoperator."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from contracts.errors import EntracteError
from contracts.files.stop_event import StopEvent
from runtime.board import Board
from runtime.run import Run, run_of_process
from runtime.system.log import log_without_errors

Serve = Callable[[Run, Board, threading.Event], bool | None]
"""Until the event is set; False: one of its parts died before."""


def run_beside(name: str, module: str, serve: Serve, *, niceness: int = 0) -> int:
    """Exit code of `python -m <module> --run-dir <dir>`: SIGTERM sets the event, Ctrl-C is the supervisor's
    affair. `niceness` above 0: worth less than a tick. Threads that hang keep nobody."""
    log_without_errors()
    run = run_of_process(module)
    stop = StopEvent()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(niceness)
    try:
        with Board.open(run.board_path) as board:
            code = 1 if serve(run, board, stop) is False else 0
            sys.stderr.flush()
            if threading.active_count() > 1:  # before the board is closed under the threads' feet
                os._exit(code)
            return code
    except EntracteError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
