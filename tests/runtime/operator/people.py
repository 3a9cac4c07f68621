"""A robot on the bench in real time and somebody who sees what the board says, for the tests beside this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robots import REALTIME, config, until

from runtime.board import Board
from runtime.operator.commands import Answer, Command, Desk
from runtime.operator.floor import Phase, read_phase
from runtime.operator.window import Row, Window
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import Run, RunPlan


def robot(folder: Path, plan: RunPlan, *overrides: str) -> Supervisor:
    """The watchdog is patient: these tests are not about it, and share their cores."""
    more = ["loop.watchdog_timeout_s=1", "loop.lease_s=1", "episode.max_s=60", *overrides]
    return Supervisor(make_run(config(*REALTIME, *more), plan, folder))


def expert(episodes: int, style: str = "random", *, labels: bool = False) -> RunPlan:
    return RunPlan(
        purpose="record", driver="expert", style=style, episodes=episodes, sink="none",
        label_steps=labels,
    )  # fmt: skip


class Person:
    """At a front end's desk."""

    def __init__(self, board: Board, run: Run, desk: str = "device") -> None:
        self.board, self.run = board, run
        self._desk = Desk(board, desk, run.desk_path(desk))

    def ask(self, command: Command) -> Answer:
        self._desk.send(command)
        answers: list[Answer] = []

        def answered() -> bool:
            answers.extend(found.answer for found in self._desk.pump())
            return bool(answers)

        until(answered)
        return answers[0]

    def sees(self, phase: Phase, step: int = 0) -> None:
        until(lambda: read_phase(self.board)[0] is phase and self.board.step >= step)


def rows(run: Run) -> list[dict[str, Any]]:
    """What the diary has of each episode."""
    path = Path(run.run_dir) / "episodes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ticks(run: Run) -> list[Row]:
    return Window.open(run.window_path).since(0)[0]
