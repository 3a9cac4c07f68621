"""The operator at the terminal: keys in, words out. Owns the terminal's mode and gives it back in any case.

Only what the terminal itself sends is read, so it needs no rights and works over ssh. Where the input is no
terminal (a pipe), the same characters are read from it. Called by the supervisor some fifty times a second;
never waits.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

from contracts.errors import EntracteError
from runtime.board import Board
from runtime.operator import keys
from runtime.operator.commands import Answer, Command, Desk
from runtime.operator.floor import Flag, read_phase
from runtime.run import Run
from runtime.teleoperation.page import JOG, HandPage

_JOG_S = 0.12
"""How long one press moves a joint: a key held down repeats sooner, a tap moves it a little."""
_PAUSE_S = 2.0
"""How long Ctrl-Z waits for control to have paused: it looks once a tick."""
_WORDS = {
    Command.END: "end of the episode",
    Command.RERECORD: "once more",
    Command.STOP: "stop",
    Command.PAUSE: "paused; space goes on",
    Command.RESUME: "goes on",
    Command.SUCCESS: "success",
    Command.FAILURE: "failure",
    Command.RESET_DONE: "the scene is set",
    Command.TAKE_OVER: "the arm is yours; t hands it back",
    Command.HAND_BACK: "the policy has the arm",
}


def in_front(file: int) -> bool:
    """Whether this terminal's keys are for us: a job in the background that reads them, or sets the mode, is
    stopped by the system."""
    try:
        return os.tcgetpgrp(file) == os.getpgrp()
    except OSError:
        return True  # not the terminal that controls our jobs


class RawTerminal:
    """Keys one by one and unechoed while this is open; Ctrl-C stays what it is, Ctrl-Z sets `asked_to_stop`.

    The old mode comes back on every way out: `close`, an exception, exit, `suspend`; and where the process is
    killed outright, from a shell that waits for the end of a pipe of ours.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.asked_to_stop = False
        self._mode = termios.tcgetattr(file)
        self._guard: subprocess.Popen[bytes] | None = None
        self._watch()
        self._enter()
        atexit.register(self.close)
        self._handlers: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # only the main thread may; others leave Ctrl-Z alone
            self._handlers = {
                number: signal.signal(number, handler)
                for number, handler in (
                    (signal.SIGTSTP, self._stopped),
                    (signal.SIGCONT, self._continued),
                )
            }

    def close(self) -> None:
        """Safe to call twice."""
        if self._file < 0:
            return
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._file, termios.TCSANOW, self._mode)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._file = -1
        atexit.unregister(self.close)
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.write(b"done\n")
                self._guard.stdin.close()
            self._guard.wait()

    def _enter(self) -> None:
        """Never waits for what is still to be printed: a terminal that was stopped by Ctrl-S prints nothing,
        and who writes to it waits. Ctrl-S means nothing while this is open."""
        read, write, control, local, *speeds, special = termios.tcgetattr(self._file)
        special[termios.VMIN], special[termios.VTIME] = 1, 0
        read, local = read & ~termios.IXON, local & ~(termios.ECHO | termios.ICANON)
        mode = [read, write, control, local, *speeds, special]
        termios.tcsetattr(self._file, termios.TCSANOW, mode)

    def suspend(self) -> None:
        """As Ctrl-Z does; returns when the shell lets it go on."""
        self.asked_to_stop = False
        if self._file >= 0 and in_front(self._file):
            termios.tcsetattr(self._file, termios.TCSANOW, self._mode)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        self._go_on()  # where nobody could continue it the system stops nobody

    def _stopped(self, _number: int, _frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def _continued(self, _number: int, _frame: FrameType | None) -> None:
        self._go_on()

    def _go_on(self) -> None:
        signal.signal(signal.SIGTSTP, self._stopped)
        if self._file >= 0 and in_front(self._file):
            self._enter()

    def _watch(self) -> None:
        stty = shutil.which("stty")
        if stty is None:
            return
        saved = subprocess.run(
            [stty, "-g"], stdin=self._file, capture_output=True, text=True, check=False
        ).stdout.strip()
        script = 'trap "" HUP INT TERM; read -r said || "$0" "$1" <&3'
        terminal = os.dup(self._file)
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", script.replace("<&3", f"<&{terminal}"), stty, saved],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(terminal,),
                # In a session of its own it may set the mode without being in the foreground.
                start_new_session=True,
            )
        finally:
            os.close(terminal)


class Terminal:
    """`with Terminal(run, board) as keyboard:` and `keyboard()` whenever there is time."""

    def __init__(
        self,
        run: Run,
        board: Board,
        source: TextIO = sys.stdin,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `EntracteError` if another terminal has this robot."""
        self._run, self._board, self._say, self._now_s = run, board, say, now_s
        self._file = source.fileno()
        self._desk = Desk(board, "terminal", run.desk_path("terminal"))
        self._raw = RawTerminal(self._file) if os.isatty(self._file) else None
        self._text, self._text_s = "", 0.0
        self._ended = False
        self._asked = 0
        self._joint = 0
        self._page: HandPage | None = None
        self._waited = False
        self._pause, self._pause_by_s = 0, 0.0
        """The pause that Ctrl-Z waits for, by its number, and until when."""
        if self._raw is not None:
            say(keys.HELP)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self) -> None:
        """Take the keys that were pressed, post what they ask for, say what came of it."""
        self._tell()
        self._prompt()
        for key in self._pressed():
            self._press(key)
        if self._raw is not None and self._raw.asked_to_stop:
            self._pause_to_suspend(self._raw)
        self._tell()

    def _tell(self) -> None:
        """Post what waits, and say what became of what was asked for: each answer is given out once."""
        for answered in self._desk.pump():
            if answered.number == self._pause and answered.answer is Answer.DONE:
                self._suspend()
                continue
            refused = answered.answer is Answer.REFUSED
            scene = answered.command is Command.END and self._waited
            words = _WORDS[Command.RESET_DONE if scene else answered.command]
            self._say(f"not now: {words}" if refused else words)

    @property
    def reads_keys(self) -> bool:
        """Key by key, from a terminal of its own; else lines, of labels alone."""
        return self._raw is not None

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
        self._desk.close()

    # -- inside

    def _pause_to_suspend(self, raw: RawTerminal) -> None:
        """Who is suspended reads no Esc, and the robot's processes go on: the arm must stand before."""
        now_s = self._now_s()
        if not self._pause:
            self._pause_by_s = now_s + _PAUSE_S
            try:
                self._pause = self._desk.send(Command.PAUSE)
            except EntracteError as error:
                raw.asked_to_stop = False
                self._say(f"not suspended: {error}")
        elif now_s > self._pause_by_s:
            raw.asked_to_stop, self._pause = False, 0
            self._say("not suspended: the robot has not paused yet, and will as soon as it answers")

    def _suspend(self) -> None:
        self._pause = 0
        if self._raw is not None:
            self._say("suspended, the arm is paused: fg takes the keys again, then space goes on")
            self._raw.suspend()

    def _prompt(self) -> None:
        wanted = self._board.label_wanted
        if wanted and wanted != self._asked:
            self._asked = wanted
            self._say("did it succeed? s or f (← once more, → leave it open)")
        waits = Flag.WAITS_FOR_RESET in read_phase(self._board)[1]
        if waits and not self._waited:
            self._say("set the scene, then n or →")
        self._waited = waits

    def _pressed(self) -> list[str]:
        now_s = self._now_s()
        if self._raw is not None and not in_front(self._file):
            return []
        while not self._ended and select.select([self._file], [], [], 0.0)[0]:
            try:
                data = os.read(self._file, 256)
            except OSError:
                data = b""
            if not data:
                self._ended = True  # end of input, or the terminal is gone: the run goes on
                break
            self._text += data.decode(errors="ignore")
            self._text_s = now_s
        names, self._text = keys.split(
            self._text, complete=self._ended or now_s - self._text_s >= keys.ESCAPE_S
        )
        return names

    def _press(self, key: str) -> None:
        flags = read_phase(self._board)[1]
        if flags & (Flag.TAKEN_OVER | Flag.MATCHING) and self._jogs(key):
            return
        command = keys.command_for(key, flags)
        if command is None:
            return
        if command is Command.TAKE_OVER and self._run.config.operator.teleoperator == "keyboard":
            self._say(keys.JOG_HELP)
        try:
            self._desk.send(command)
        except EntracteError as error:
            self._say(str(error))

    def _jogs(self, key: str) -> bool:
        if self._run.config.operator.teleoperator != "keyboard":
            return False
        if key.isdigit() and key != "0":
            page = self._hand()
            self._joint = min(int(key), page.joints if page else 1) - 1
            self._say(f"joint {self._joint + 1}")
            return True
        if key in ("up", "down"):
            self._jog(1.0 if key == "up" else -1.0)
            return True
        return False

    def _jog(self, share: float) -> None:
        page, now_s = self._hand(), self._now_s()
        if page is not None:
            shares = tuple(share if joint == self._joint else 0.0 for joint in range(page.joints))
            page.write(JOG, shares, now_s, now_s + _JOG_S)

    def _hand(self) -> HandPage | None:
        if self._page is None:
            with contextlib.suppress(EntracteError):
                self._page = HandPage.open(self._run.hand_path("terminal"))
        return self._page
