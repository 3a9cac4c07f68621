"""Keys at a real pseudo-terminal: what they ask for, and that the terminal is as before in every case."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from robots import REALTIME, config, policy_package, until

from runtime.board import Board
from runtime.operator import keys
from runtime.operator.commands import Command, Inbox
from runtime.operator.floor import Flag, Floor, Phase, read_phase
from runtime.operator.terminal import Terminal
from runtime.run import Run, RunPlan
from runtime.teleoperation.page import HandPage

CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
from pathlib import Path
from runtime.board import Board
from runtime.run import Run
from runtime.operator.terminal import Terminal
run = Run.load(Path(sys.argv[1]))
with Board.open(run.board_path) as board, Terminal(run, board) as keyboard:
    while True:
        keyboard()
        if sys.argv[2] == "raise":
            raise RuntimeError("crashed")
        if sys.argv[2] == "exit":
            sys.exit(3)
        time.sleep(0.01)
"""


def _run(folder: Path) -> Run:
    run = Run(
        config=config(), plan=RunPlan(), run_dir=str(folder), shm_dir=str(folder), session_id="s"
    )
    run.save()
    Board.create(run.board_path).close()
    return run


def _pressed(names: str) -> list[str]:
    return keys.split(names, complete=True)[0]


def test_keys_are_what_lerobots_are_and_more() -> None:
    assert _pressed("\x1b[C\x1b[D \x1bsf") == ["right", "left", "space", "escape", "s", "f"]
    assert _pressed("\x1bOC\x1b[3~x\x1b[15~") == ["right", "x"], "Delete and F5 mean nothing"
    assert keys.split("s\x1b[", complete=False) == (["s"], "\x1b["), "an arrow in two pieces"
    running, paused = Flag(0), Flag.PAUSED
    for key, flags, wanted in (
        ("right", running, Command.END),
        ("n", running, Command.RESET_DONE),
        ("left", running, Command.RERECORD),
        ("escape", running, Command.STOP),
        ("space", running, Command.PAUSE),
        ("space", paused, Command.RESUME),
        ("S", running, Command.SUCCESS),
        ("f", running, Command.FAILURE),
        ("t", running, Command.TAKE_OVER),
        ("t", Flag.MATCHING, Command.HAND_BACK),
        ("q", running, None),
    ):
        assert keys.command_for(key, flags) is wanted, key


def test_keys_reach_control_and_jog_an_arm_that_was_taken_over(tmp_path: Path) -> None:
    run = _run(tmp_path)
    ours, theirs = pty.openpty()
    said: list[str] = []
    page = HandPage.create(run.hand_path("terminal"), 6)
    now_s = 100.0
    with Board.open(run.board_path) as board, os.fdopen(theirs) as source:
        floor = Floor(board, can_take_over=True)
        floor.enter(Phase.RUNNING)
        with Terminal(run, board, source, said.append, lambda: now_s) as terminal:

            def press(text: str) -> None:
                nonlocal now_s
                os.write(ours, text.encode())
                for _ in range(3):
                    now_s += 0.06
                    terminal()
                    floor.listen()

            press(" ")
            assert floor.paused
            press(" ")
            assert not floor.paused
            press("t")
            assert floor.wants_helm == "terminal"
            floor.flag(Flag.TAKEN_OVER, True)
            press("3\x1b[A")
            wish = page.read()
            assert wish is not None
            assert wish.values == (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
            assert wish.until_s < now_s + 0.15, "a key that is let go stops the arm"
            press("t")
            floor.flag(Flag.TAKEN_OVER, False)
            assert floor.wants_helm == ""
            press("s")
            assert (floor.ends, floor.label) == ("operator", True)
            os.write(ours, b"\x1b")
            terminal()
            assert board.estop_requested == 0, "it may be the beginning of an arrow"
            now_s += 0.06
            terminal()
            assert board.estop_requested == 1
        assert "success" in said
    os.close(ours)


def test_without_a_terminal_the_same_letters_are_read_from_what_there_is(tmp_path: Path) -> None:
    run = _run(tmp_path)
    read, write = os.pipe()
    said: list[str] = []
    with Board.open(run.board_path) as board, os.fdopen(read) as source:
        floor, inbox = Floor(board), Inbox(board)
        floor.enter(Phase.LABEL)
        with Terminal(run, board, source, said.append) as terminal:
            terminal()
            board.label_wanted = 4
            terminal()
            terminal()
            assert [text for text in said if "succeed" in text] == said, "asked once"
            os.write(write, b"hm?\nF\n")
            terminal()
            terminal()
            assert inbox.take() == ("terminal", Command.FAILURE)
            os.close(write)
            terminal()


@pytest.mark.parametrize("end", ["raise", "exit", "SIGTERM", "SIGKILL", "SIGINT"])
def test_the_terminal_is_as_before_however_the_process_ends(tmp_path: Path, end: str) -> None:
    run = _run(tmp_path)
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), end],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if end.startswith("SIG"):
        until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON)
        assert termios.tcgetattr(theirs)[3] & termios.ISIG, "Ctrl-C is still Ctrl-C"
        assert not termios.tcgetattr(theirs)[0] & termios.IXON, "Ctrl-S must not stop who prints"
        time.sleep(0.2)
        process.send_signal(getattr(signal, end))
    process.communicate(timeout=20)
    until(lambda: termios.tcgetattr(theirs) == before, 5.0)
    os.close(ours)
    os.close(theirs)
    assert run.desk_path("terminal").exists()


def test_ctrl_z_pauses_gives_the_terminal_back_and_going_on_takes_it_again(tmp_path: Path) -> None:
    run = _run(tmp_path)
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "run"],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=(said := (tmp_path / "said").open("w")).fileno(),
        preexec_fn=os.setpgrp,  # noqa: PLW1509 an orphaned group is not stopped by Ctrl-Z
    )
    said.close()

    def says(words: str) -> bool:
        return words in (tmp_path / "said").read_text()

    until(lambda: says("Esc stop"), 20.0)
    process.send_signal(signal.SIGTSTP)
    until(
        lambda: says("not suspended"), 20.0
    )  # nobody listens: the arm would go on without its Esc
    assert not termios.tcgetattr(theirs)[3] & termios.ICANON and not says("suspended, the arm")
    with Board.open(run.board_path) as board:
        floor = Floor(board)

        def paused() -> bool:
            floor.listen()
            return floor.paused

        until(paused, 5.0)  # the pause of before is taken late
        until(lambda: says("paused; space goes on"), 5.0)
        process.send_signal(signal.SIGTSTP)
        until(lambda: paused() and termios.tcgetattr(theirs) == before, 5.0)
        assert says("suspended, the arm is paused")
    process.send_signal(signal.SIGCONT)
    until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON, 5.0)
    process.kill()
    process.wait()
    until(lambda: termios.tcgetattr(theirs) == before, 5.0)
    os.close(ours)
    os.close(theirs)


class AtTerminal:
    """A program at a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.keys, self.screen = pty.openpty()
        self._seen = b""
        self.process = subprocess.Popen(
            command,
            stdin=self.screen,
            stdout=self.screen,
            stderr=self.screen,
            preexec_fn=self._take,  # noqa: PLW1509 system calls only
            pass_fds=[self.screen],
            env=os.environ | {"LC_ALL": "C", "PS1": "$ "},
        )

    def _take(self) -> None:
        os.setsid()
        fcntl.ioctl(self.screen, termios.TIOCSCTTY, 0)

    def press(self, text: str) -> None:
        os.write(self.keys, text.encode())

    def says(self, words: str, times: int = 1) -> bool:
        while select.select([self.keys], [], [], 0.0)[0]:
            self._seen += os.read(self.keys, 4096)
        return self._seen.count(words.encode()) >= times

    def close(self) -> None:
        os.close(self.keys)
        os.close(self.screen)


def _eval_command(tmp_path: Path) -> tuple[list[str], Path]:
    """Of a run of nine long episodes on the bench, and its folder."""
    package = policy_package(tmp_path / "package").folder
    folder = tmp_path / "run"
    overrides = [*REALTIME, "loop.watchdog_timeout_s=1", "loop.lease_s=1", "episode.max_s=60"]
    command = [
        *(sys.executable, "-m", "runtime.app", "eval", "--package", str(package)),
        *("--task", "open-drawer", "--episodes", "9", "--run-dir", str(folder)),
        *(flag for override in overrides for flag in ("--set", override)),
    ]
    return command, folder


def test_robot_run_obeys_the_keys_of_its_terminal(tmp_path: Path) -> None:
    """The whole program: end, then the emergency stop."""
    command, folder = _eval_command(tmp_path)
    at = AtTerminal(*command)
    until(lambda: at.says("Esc stop"), 60.0)
    until(lambda: (folder / "config.json").exists() and Run.load(folder).board_path.exists())
    with Board.open(Run.load(folder).board_path) as board:
        until(lambda: board.step > 5, 60.0)
        at.press("\x1b[C")
        until(lambda: board.episodes_done == 1)
        until(lambda: at.says("end of the episode"))
        until(lambda: board.step > 5)
        at.press("\x1b")
        until(lambda: board.estop_requested == 1)
    until(lambda: at.says("emergency stop") and at.process.poll() is not None, 30.0)
    assert at.process.returncode == 5
    assert termios.tcgetattr(at.screen)[3] & termios.ICANON
    assert not Path(Run.load(folder).shm_dir).exists()
    at.close()


def test_robot_run_pauses_the_arm_before_ctrl_z_suspends_it(tmp_path: Path) -> None:
    """From a shell with job control: only a process of its group is suspended, the arm's are not."""
    command, folder = _eval_command(tmp_path)
    at = AtTerminal("/bin/sh", "-i")
    at.press(shlex.join(command) + "\n")
    until(lambda: at.says("Esc stop"), 60.0)
    until(lambda: (folder / "config.json").exists() and Run.load(folder).board_path.exists())
    with Board.open(Run.load(folder).board_path) as board:
        until(lambda: board.step > 5, 60.0)
        at.press("\x1a")
        until(lambda: at.says("Stopped"), 20.0)
        assert Flag.PAUSED in read_phase(board)[1], "who is suspended reads no Esc"
        assert at.says("the arm is paused")
        stood_at = board.step
        at.press("fg\n")
        until(lambda: not termios.tcgetattr(at.screen)[3] & termios.ICANON, 20.0)
        assert board.step == stood_at and Flag.PAUSED in read_phase(board)[1]
        at.press(" ")
        until(lambda: board.step > stood_at, 20.0)
        at.press("\x1b")
        until(lambda: board.estop_requested == 1)
    until(lambda: at.says("emergency stop"), 30.0)
    at.press("exit\n")
    until(lambda: at.process.poll() is not None, 30.0)
    assert not Path(Run.load(folder).shm_dir).exists()
    at.close()
