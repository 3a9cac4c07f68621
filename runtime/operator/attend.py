"""Where people are met by `robot-run` itself: the terminal's keys, and a word on where the page is."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

import msgspec

from contracts.errors import EntracteError
from runtime.board import Board
from runtime.operator.terminal import Terminal, in_front
from runtime.run import Run

PAGE_FILE = "operator.json"
"""In the run folder: where the page is, `PageFile`."""


NOT_SUSPENDED = (
    "not suspended: no keys are read here that could pause the arm first, and it would go on by itself; "
    "Ctrl-C ends the run in order"
)


class PageFile(msgspec.Struct, frozen=True):
    """`url`: to open in a browser; it holds no token."""

    url: str


def read_page(run_dir: Path) -> PageFile | None:
    """Where the page of this run is, once it is served."""
    try:
        return msgspec.json.decode((run_dir / PAGE_FILE).read_bytes(), type=PageFile)
    except (OSError, msgspec.MsgspecError):
        return None


def say(text: str) -> None:
    """To the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


class Attendance:
    """`with Attendance(run, board) as attend:` and `attend()` whenever there is time; never waits."""

    def __init__(
        self,
        run: Run,
        board: Board,
        source: TextIO | None = None,
        say: Callable[[str], None] = say,
    ) -> None:
        self._run, self._say = run, say
        source = sys.stdin if source is None else source
        wanted = run.config.operator.keys and _can_ask(source, run.config.episode.label == "keys")
        self._terminal: Terminal | None = None
        if wanted:
            try:
                self._terminal = Terminal(run, board, source, say)
            except EntracteError as error:
                say(str(error))
        self._page_wanted = run.config.operator.web
        self._before: Any = None
        """What Ctrl-Z did before; None: it is left alone."""
        self._told_to_suspend = False

    def __enter__(self) -> Attendance:
        reads_keys = self._terminal is not None and self._terminal.reads_keys
        if self._run.config.pace == "realtime" and not reads_keys:
            with contextlib.suppress(ValueError):  # only the main thread may
                self._before = signal.signal(signal.SIGTSTP, self._stay)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal is not None:
            self._terminal.close()
        if self._before is not None:
            signal.signal(signal.SIGTSTP, self._before)

    def __call__(self) -> None:
        if self._told_to_suspend:
            self._told_to_suspend = False
            self._say(NOT_SUSPENDED)
        if self._terminal is not None:
            self._terminal()
        if self._page_wanted and (page := read_page(Path(self._run.run_dir))) is not None:
            self._page_wanted = False
            self._say(f"the robot's page: {page.url}")

    def _stay(self, _number: int, _frame: FrameType | None) -> None:
        self._told_to_suspend = True


def _can_ask(source: TextIO | None, label_wanted: bool) -> bool:
    """A terminal in the foreground; or whatever there is, where a label must come from somewhere."""
    try:
        if source is None or source.fileno() < 0:
            return False
        return in_front(source.fileno()) if source.isatty() else label_wanted
    except (ValueError, OSError):
        return False
