"""The page's listening socket and what its threads share, without a robot."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import pytest
from robots import REALTIME, config, until

from contracts.errors import EntracteError
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board
from runtime.operator import hub as hub_module
from runtime.operator import web
from runtime.operator.attend import NOT_SUSPENDED, PAGE_FILE, Attendance, PageFile
from runtime.operator.commands import DESKS, FIRST_WORD, Command, Inbox, unpack
from runtime.operator.doors import Doors
from runtime.operator.floor import Floor
from runtime.operator.hub import TOO_LATE_S, Hub
from runtime.operator.listener import REQUEST_S, Listener, Places, TimedHandler
from runtime.operator.section import OperatorSection
from runtime.operator.status import Looker
from runtime.operator.turns import MOST_KEPT, Sent, Turns
from runtime.operator.window import Window
from runtime.processes.supervisor import make_run
from runtime.run import Run, RunPlan, forget_the_killed
from runtime.teleoperation.page import HandPage


def _sent(number: int, page: str = "page") -> Sent:
    return Sent(time.monotonic(), page, number)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    settings = config("pace=realtime", "operator.web=true", "operator.web_port=0")
    return Run(settings, RunPlan(), str(tmp_path), str(tmp_path), "s")


@pytest.fixture
def board(run: Run) -> Iterator[Board]:
    with Board.create(run.board_path) as board:
        yield board


def test_an_answer_reaches_who_asked_also_when_another_asks_at_that_moment(
    run: Run, board: Board
) -> None:
    hub, floor = Hub(run, board), Floor(board)
    told: dict[Command, str] = {}
    askers = []
    word = FIRST_WORD + 2 * DESKS.index("web")
    for number, command in enumerate((Command.PAUSE, Command.RESUME), 1):
        asker = threading.Thread(
            target=lambda asked=command: told.update(  # type: ignore[misc]
                {asked: hub.ask(asked, _sent(int(asked)))}
            )
        )
        asker.start()  # the second one finds the first one's answer
        until(lambda n=number: unpack(board.word(word))[0] == n)  # type: ignore[misc]
        floor.listen()
        askers.append(asker)
    teller = threading.Thread(target=hub.forever)
    teller.start()
    for asker in askers:
        asker.join()
    hub.stop.set()
    teller.join()
    assert told == {Command.PAUSE: "done", Command.RESUME: "done"}


def test_a_jog_that_a_network_held_up_moves_nothing(run: Run, board: Board) -> None:
    """It is sent on when the network goes again: the key was let go of long before."""
    hub, hand = Hub(run, board), HandPage.create(run.hand_path("web"), 2)
    event = json.loads(hub.event().split(b"data: ")[1])
    assert hub.jog((1.0, 0.0), Sent(event["robot_s"], "page", 1)) == "done"
    wish = hand.read()
    assert wish is not None and wish.values == (1.0, 0.0)
    for old in (event["robot_s"] - TOO_LATE_S, float("nan")):
        with pytest.raises(EntracteError, match="too late to move the arm"):
            hub.jog((-1.0, 0.0), Sent(old, "page", 2))
    assert hand.read() == wish


def test_a_jog_that_comes_after_its_release_moves_nothing(run: Run, board: Board) -> None:
    """A browser has several connections: the press was held up on one, the release came by another."""
    hub, hand = Hub(run, board), HandPage.create(run.hand_path("web"), 2)
    assert hub.jog((0.0, 0.0), _sent(2)) == "done"
    assert hub.jog((1.0, 0.0), _sent(1)) == "overtaken"
    wish = hand.read()
    assert wish is not None and wish.values == (0.0, 0.0)
    assert hub.jog((1.0, 0.0), _sent(2)) == "overtaken", "a browser may send one twice"
    assert hub.jog((1.0, 0.0), _sent(1, "another page")) == "done"
    assert hub.jog((-1.0, 0.0), _sent(3)) == "done"


@pytest.mark.parametrize("command", Command)
def test_a_command_that_a_network_held_up_is_not_done_unless_it_stops_the_arm(
    run: Run, board: Board, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Its page has said NOT SENT and may be gone: the arm went on, or another episode was labelled."""
    monkeypatch.setattr(hub_module, "ANSWER_S", 0.0)
    hub, inbox = Hub(run, board), Inbox(board)
    if command in (Command.STOP, Command.PAUSE):
        assert hub.ask(command, None) == "waiting"
        assert inbox.take() == ("web", command)
        return
    for old in (time.monotonic() - TOO_LATE_S, float("nan")):
        with pytest.raises(EntracteError, match=r"too late for '.*': .* press it again once the"):
            hub.ask(command, Sent(old, "page", 1))
    assert inbox.take() is None
    event = json.loads(hub.event().split(b"data: ")[1])
    assert hub.ask(command, Sent(event["robot_s"], "page", 1)) == "waiting"
    assert inbox.take() == ("web", command)


def test_a_command_that_comes_after_a_later_one_is_not_done_unless_it_stops_the_arm(
    run: Run, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "ANSWER_S", 0.0)
    hub, inbox = Hub(run, board), Inbox(board)

    def does(command: Command, number: int) -> bool:
        hub.ask(command, _sent(number))
        taken = inbox.take()
        inbox.answer(True)
        return taken == ("web", command)

    assert does(Command.PAUSE, 3)
    with pytest.raises(
        EntracteError, match=r"'resume' came again, or after what was pressed later.*again if"
    ):
        hub.ask(Command.RESUME, _sent(2))
    assert inbox.take() is None
    assert does(Command.RESUME, 4)
    assert does(Command.PAUSE, 1)
    assert does(Command.HAND_BACK, 5)
    HandPage.create(run.hand_path("web"), 2)
    hub.jog((1.0, 0.0), _sent(9))
    assert does(Command.END, 8), "jogs come by another connection, ten a second"


def test_pages_that_came_and_went_are_forgotten() -> None:
    turns = Turns()
    for number in range(3 * MOST_KEPT):
        assert turns.is_newer("jog", _sent(1, f"page {number}"))
        assert turns.is_newer("jog", _sent(number + 1)), "who goes on sending is not"
    assert len(turns) == MOST_KEPT
    assert not turns.is_newer("jog", _sent(3 * MOST_KEPT))


def test_several_threads_look_at_once_and_json_takes_every_number(run: Run, board: Board) -> None:
    window, looker = Window.create(run.window_path, SO101_ACTION, 30.0), Looker(run, board)
    pose, stop, errors = np.zeros(6), threading.Event(), list[BaseException]()
    board.loop_rate_hz = float("inf")

    def look() -> None:
        try:
            while not stop.is_set():
                looker.look()
                looker.recent(60.0)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(4000):
            scores = (0.5, float("-inf"), float("nan"))
            window.show((0.01 * number, 0, number, 2, 0, 0.0, *scores, 0), pose, pose, pose)
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert json.loads(json.dumps(looker.look(), allow_nan=False))["rate_hz"] is None
    assert looker.recent(60.0)[0][2:] == (0.5, None, None)


def test_a_page_whose_feed_has_died_ends_so_that_it_is_started_again(
    run: Run, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_hub: Hub) -> NoReturn:
        raise RuntimeError("deque mutated during iteration")

    monkeypatch.setattr(Hub, "forever", broken)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    stop = threading.Event()
    assert web.serve(run, board, stop) is False


def test_who_says_nothing_or_a_little_at_a_time_is_shown_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hangs(_name: str = "") -> NoReturn:
        raise AssertionError("a reverse look-up may hang for a minute")

    monkeypatch.setattr(socket, "getfqdn", hangs)
    server = Listener(("127.0.0.1", 0), TimedHandler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = server.server_address[:2]
    silent, slow = (socket.create_connection(address) for _ in range(2))  # type: ignore[arg-type]
    slow.sendall(b"GET / HTTP/1.1\r\nX: ")
    started_s = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - started_s < 3 * REQUEST_S:
            time.sleep(0.1)
            slow.sendall(b"a")
    assert time.monotonic() - started_s < 2 * REQUEST_S
    silent.settimeout(5.0)
    assert silent.recv(1) == b""
    long = socket.create_connection(address)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        for _ in range(100):
            long.sendall(b"X: " + b"a" * 8000 + b"\r\n")
            time.sleep(0.01)
    server.shutdown()
    server.server_close()
    for one in (silent, slow, long):
        one.close()


def test_the_network_can_take_neither_all_places_nor_those_of_loopback() -> None:
    places = Places(most=10, most_of_one=3, for_loopback=2)
    assert [places.take("10.0.0.1") for _ in range(4)] == [True] * 3 + [False]
    assert [places.take(f"10.0.1.{host}") for host in range(6)] == [True] * 5 + [False]
    assert [places.take("127.0.0.1") for _ in range(3)] == [True] * 2 + [False]
    places.give_back("10.0.0.1")
    assert not places.take("10.0.0.1"), "what came free is loopback's"
    assert places.take("::1")


def test_a_page_on_an_ipv6_address_is_known_by_it(tmp_path: Path) -> None:
    section = OperatorSection(web_address="fd00::7%eth0", web_hosts=("fd00::8", "[fd00::9]"))
    doors = Doors(section, 8700, tmp_path / "key")
    for host in ("[fd00::7]:8700", "[fd00::7]", "[FD00::8]:8700", "[fd00::9]:8700"):
        assert doors.knows_host({"Host": host}), host
    assert not doors.knows_host({"Host": "[fd00::6]:8700"})
    assert Doors(section, 8700, tmp_path / "key").page_key == doors.page_key


def test_where_the_page_is_gets_said_however_early_it_is_served(tmp_path: Path) -> None:
    """The page's process may be quicker than the supervisor that says it."""
    (tmp_path / PAGE_FILE).write_text("of the run before")
    run = make_run(config("operator.web=true", "operator.keys=false"), RunPlan(), tmp_path)
    assert not (tmp_path / PAGE_FILE).exists()
    (tmp_path / PAGE_FILE).write_bytes(msgspec.json.encode(PageFile("http://here/")))
    said: list[str] = []
    with Board.create(run.board_path) as board, Attendance(run, board, None, said.append) as attend:
        attend()
    assert said == ["the robot's page: http://here/"]
    forget_the_killed(tmp_path)


@pytest.mark.parametrize("realtime", [False, True])
def test_a_run_that_reads_no_keys_is_not_suspended_while_its_arm_moves(
    tmp_path: Path, realtime: bool
) -> None:
    """Nobody could pause it, nor wake it but its shell. In lockstep nothing goes on without it."""
    before = signal.getsignal(signal.SIGTSTP)
    settings = config("operator.keys=false", *(REALTIME if realtime else ()))
    run = make_run(settings, RunPlan(), tmp_path)
    said: list[str] = []
    with Board.create(run.board_path) as board, Attendance(run, board, None, said.append) as attend:
        assert (signal.getsignal(signal.SIGTSTP) is not before) is realtime
        if realtime:
            os.kill(os.getpid(), signal.SIGTSTP)
        for _ in range(2):
            attend()
    assert said == [NOT_SUSPENDED] * realtime
    assert signal.getsignal(signal.SIGTSTP) is before
    forget_the_killed(tmp_path)
