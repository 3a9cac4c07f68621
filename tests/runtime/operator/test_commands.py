"""Commands of people: none lost, none done twice, and only those that mean something now."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import EntracteError
from runtime.board import Board
from runtime.operator.commands import DESKS, Answer, Command, Desk, Inbox
from runtime.operator.floor import (
    LATE_S,
    Flag,
    Floor,
    Phase,
    read_helm,
    read_outcomes,
    read_phase,
)

BUT_STOP = sorted(set(Command) - {Command.STOP})


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), sends=st.lists(st.sampled_from(BUT_STOP), max_size=40))
def test_whatever_the_order_of_turns_each_command_is_taken_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sends: list[Command]
) -> None:
    """Front ends, control and a front end that dies and comes back take turns as they like."""
    rng = random.Random(seed)
    with Board.create(tmp_path_factory.mktemp("board") / "board") as board:
        desks = {name: Desk(board, name) for name in DESKS}
        inbox, taken = Inbox(board), {name: list[Command]() for name in DESKS}
        given_to = {name: list[Command]() for name in DESKS}
        answered = {name: list[int]() for name in DESKS}
        for command in [*sends, *[None] * 200]:
            name = rng.choice(DESKS)
            if command is not None:
                try:
                    desks[name].send(command)
                    given_to[name].append(command)
                except EntracteError:
                    pass
            for _ in range(rng.randrange(4)):
                turn = rng.choice(DESKS)
                answered[turn] += [a.number for a in desks[turn].pump()]
                if rng.random() < 0.5 and (asked := inbox.take()) is not None:
                    taken[asked[0]].append(asked[1])
                    inbox.answer(True)
                if rng.random() < 0.1 and not desks[turn]._waiting and command is None:
                    desks[turn] = Desk(board, turn)  # started again
        for name in DESKS:
            for _ in range(60):
                desks[name].pump()
                while (asked := inbox.take()) is not None:
                    taken[asked[0]].append(asked[1])
                    inbox.answer(True)
        assert taken == given_to
        assert all(sorted(set(a)) == a for a in answered.values()), "an answer was told twice"


def test_a_stop_does_not_wait_in_line(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        desk = Desk(board, "web")
        for _ in range(8):
            desk.send(Command.PAUSE)
        with pytest.raises(EntracteError, match="has not answered"):
            desk.send(Command.PAUSE)
        assert board.estop_requested == 0
        desk.send(Command.STOP)
        assert board.estop_requested == 1


def test_one_process_at_a_time_sits_at_a_desk(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        first = Desk(board, "terminal", tmp_path / "lock")
        with pytest.raises(EntracteError, match="another process gives"):
            Desk(board, "terminal", tmp_path / "lock")
        first.close()
        Desk(board, "terminal", tmp_path / "lock").close()


def _ask(board: Board, floor: Floor, desk: Desk, command: Command) -> Answer:
    desk.send(command)
    desk.pump()
    floor.listen()
    return desk.pump()[-1].answer


def test_a_command_that_means_nothing_now_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        floor, desk = Floor(board), Desk(board, "web")
        for phase, command in (
            (Phase.STARTING, Command.END),
            (Phase.SETTING_UP, Command.SUCCESS),
            (Phase.RESET, Command.RERECORD),
            (Phase.RESET, Command.TAKE_OVER),
            (Phase.RUNNING, Command.RESET_DONE),
            (Phase.RUNNING, Command.TAKE_OVER),
            (Phase.ENDED, Command.FAILURE),
        ):
            floor.enter(phase)
            assert _ask(board, floor, desk, command) is Answer.REFUSED, (phase, command)
        assert (floor.ends, floor.label, floor.wants_helm) == ("", None, "")
        assert not floor.reset_done
        board.set_word(99, (7 << 8) | 99)  # no command has this code
        floor.listen()
        assert board.word(100) == (7 << 8) | Answer.REFUSED


def test_a_pause_lasts_until_a_person_ends_it_and_a_label_until_the_next_episode(
    tmp_path: Path,
) -> None:
    with Board.create(tmp_path / "board") as board:
        floor, desk = Floor(board), Desk(board, "terminal")
        floor.enter(Phase.RUNNING)
        assert _ask(board, floor, desk, Command.PAUSE) is Answer.DONE
        assert _ask(board, floor, desk, Command.PAUSE) is Answer.DONE
        assert _ask(board, floor, desk, Command.SUCCESS) is Answer.DONE
        assert (floor.ends, floor.label) == ("operator", True)
        floor.enter(Phase.SETTING_UP)
        floor.enter(Phase.RUNNING)
        assert (floor.ends, floor.label, floor.paused) == ("", None, True)
        assert read_phase(board) == (Phase.RUNNING, Flag.PAUSED)
        assert _ask(board, floor, desk, Command.RESUME) is Answer.DONE
        assert not floor.paused
        floor.count(True)
        floor.count(False)
        floor.count(None)
        assert read_outcomes(board) == (1, 2)
        floor.count(True)
        floor.count_back()
        assert read_outcomes(board) == (1, 2)


def test_an_end_that_came_late_does_not_begin_the_next_episode(tmp_path: Path) -> None:
    now_s = 0.0
    with Board.create(tmp_path / "board") as board:
        floor, desk = Floor(board, now_s=lambda: now_s), Desk(board, "web")
        floor.enter(Phase.RESET)  # the arm goes home, say
        for command in (Command.END, Command.RESET_DONE):
            assert _ask(board, floor, desk, command) is Answer.REFUSED
        floor.wait_for_reset(True)
        assert _ask(board, floor, desk, Command.END) is Answer.REFUSED, "nobody reacts so soon"
        assert not floor.reset_done
        now_s += LATE_S
        assert _ask(board, floor, desk, Command.END) is Answer.DONE
        assert floor.reset_done
        floor.wait_for_reset(False)
        floor.wait_for_reset(True)
        assert not floor.reset_done, "it was said of another scene"


def test_front_ends_see_which_desk_has_the_helm(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        floor = Floor(board, can_take_over=True)
        floor.enter(Phase.RUNNING)
        assert read_helm(board) == ""
        for name in DESKS:
            assert _ask(board, floor, Desk(board, name), Command.TAKE_OVER) is Answer.DONE
            assert read_helm(board) == name
            assert read_phase(board) == (Phase.RUNNING, Flag.CAN_TAKE_OVER)
