"""What the demo looks at while it runs, and where it shows it: board, metrics, terminal, plain lines."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from contracts.errors import EntracteError
from runtime.board import Board
from runtime.demo import view
from runtime.demo.view import State
from runtime.run import Run


class Eye:
    """Looks at the board of a `robot-run` whose folder is `run_dir`; it may not be there yet, or any more."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._board: Board | None = None
        self._last: tuple[float, int] | None = None

    def look(self, state: State) -> None:
        if self._board is None:
            with contextlib.suppress(EntracteError, OSError):
                self._board = Board.open(Run.load(self._run_dir).board_path)
            return
        board = self._board
        state.done = board.episodes_done
        state.process, state.completion = board.reward_process, board.reward_completion
        now_s = time.monotonic()
        if self._last is None or now_s - self._last[0] > 1.0:
            if self._last is not None:
                state.loop_rate_hz = (board.tick - self._last[1]) / (now_s - self._last[0])
            self._last = (now_s, board.tick)
        state.now = "waiting for new weights" if board.waiting_for_release else ""

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


class Follower:
    """Whole new lines of a JSON-lines file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def rows(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


class PlainScreen:
    """A line when something was finished."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._lines, self._say = view.Lines(), say

    def show(self, state: State) -> None:
        for line in self._lines.news(state, time.monotonic()):
            self._say(line)

    def close(self) -> None:
        pass


class LiveScreen:
    """A panel that is redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(), refresh_per_second=5)
        self._live.start()
        self._drawn_s = 0.0

    def show(self, state: State) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s > 0.2:
            self._drawn_s = now_s
            self._live.update(view.panel(state, now_s))

    def close(self) -> None:
        self._live.stop()


class Screen(Protocol):
    """Where the state is shown."""

    def show(self, state: State) -> None: ...

    def close(self) -> None: ...
