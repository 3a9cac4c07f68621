"""What a person asks for between two ticks is not lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from people import Person, expert, robot, rows
from robots import until

from runtime.operator.commands import Answer, Command

SLOW = ["loop.rate_hz=2", "loop.watchdog_timeout_s=3", "loop.lease_s=3", "episode.max_s=3"]


@pytest.mark.parametrize(
    ("command", "field", "wanted"),
    [(Command.SUCCESS, "operator_success", True), (Command.RERECORD, "reason", "rerecord")],
)
def test_what_is_answered_in_the_tick_after_the_end_is_done(
    tmp_path: Path, command: Command, field: str, wanted: object
) -> None:
    with robot(tmp_path, expert(1, "idle"), "episode.label=keys", *SLOW) as machine:
        person = Person(machine.board, machine.run)
        until(lambda: machine.board.step >= 6)
        time.sleep(0.2)  # the scene is told, and the loop waits for its next tick
        assert person.ask(command) is Answer.DONE
        until(lambda: bool(rows(machine.run)))
    assert rows(machine.run)[0][field] == wanted
