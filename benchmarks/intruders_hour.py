"""When the attackers of `robot-bench intruders` attack: from the first tick of an episode to its last."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from contracts.errors import EntracteError
from runtime.board import Board, LoopState
from runtime.run import Run

LOOK_S, ENDS_S = 0.005, 60.0
OVER = (LoopState.DONE, LoopState.FAULT, LoopState.ESTOP)
_ROOT = Path(__file__).resolve().parent.parent


class Attackers:
    """`with Attackers(job, run_dir) as attackers:` around one run of the robot in `run_dir`. `counts`, and
    the times of the attempts (`at_s`, monotonic), are known after it."""

    def __init__(self, job: dict[str, Any], run_dir: Path) -> None:
        self._run_dir = run_dir
        self._earlier = self._session()
        self._over = threading.Event()
        command = [sys.executable, "-m", "benchmarks.intruders_attack"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        self._say(json.dumps(job))
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self.counts: dict[str, int] = {}
        self.at_s: list[float] = []

    def __enter__(self) -> Attackers:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Raises `EntracteError` where the attackers ended badly."""
        self._over.set()
        self._thread.join()
        try:
            said, _ = self._process.communicate(timeout=ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        if self._process.returncode and error is None:
            raise EntracteError("the attackers ended with an error", remedy="see what they printed")
        if error is None:
            told = json.loads(said)
            self.counts, self.at_s = told["counts"], told["at_s"]

    def _tell(self) -> None:
        board = self._board()
        if board is not None:
            with board:
                if self._wait(lambda: board.loop_state == LoopState.RUNNING and board.step > 0):
                    self._say("now")
                    self._wait(lambda: board.loop_state in OVER)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdin = None  # or `communicate` would flush it

    def _board(self) -> Board | None:
        """Of the run that starts now; None where it never did."""
        while not self._over.wait(LOOK_S):
            if self._session() not in ("", self._earlier):
                with contextlib.suppress(EntracteError, OSError, ValueError):
                    return Board.open(Run.load(self._run_dir).board_path)
        return None

    def _wait(self, condition: Callable[[], object]) -> bool:
        while not condition():
            if self._over.wait(LOOK_S):
                return False
        return True

    def _session(self) -> str:
        with contextlib.suppress(EntracteError, OSError):
            return Run.load(self._run_dir).session_id
        return ""

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
