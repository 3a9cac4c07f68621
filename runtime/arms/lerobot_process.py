"""A program in LeRobot's own Python, spoken to over two pipes: start, ask, end. Knows nothing of robots.

Length-prefixed JSON, numbered, so that an answer which came too late is not taken for the next one, and with
the time from which on nobody waits for it, so that a program which hung does not carry it out later.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

from contracts.errors import ConfigError, DeviceError
from runtime.arms import Glitch

ENVIRONMENT = "ENTRACTE_LEROBOT_PYTHON"
_MAX_BYTES = 1 << 20
_END_S = 5.0
_PASSING = ("ConnectionError", "TimeoutError")
"""Errors of LeRobot's that the next call may not have: it does not repeat what noise broke."""


def find_python(named: str, what: str, option: str) -> str:
    """The Python that has LeRobot: the one that is `named` under `option`, else the environment's."""
    python = os.path.expanduser(named or os.environ.get(ENVIRONMENT, ""))
    if not python:
        raise ConfigError(
            f"a lerobot {what} needs the Python that has LeRobot",
            remedy=f"set {option}, or {ENVIRONMENT}",
        )
    return python


class LeRobotProcess:
    """`script` in `python`, with `words` behind its two pipes. What it prints goes to this process's own log.
    `option` and `log` are what errors name: the key that says which Python, and that log."""

    def __init__(
        self,
        python: str,
        script: Path,
        *words: str,
        option: str = "arm.options.python",
        log: str = "logs/arm.log",
    ) -> None:
        self._log = log
        down_r, self._to = os.pipe()
        self._from, up_w = os.pipe()
        os.set_blocking(self._to, False)  # a program that hangs must not hang this one
        self._unsent = self._received = b""
        self._number = 0
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [python, str(script), str(down_r), str(up_w), *words],
                stdin=subprocess.DEVNULL,  # a question to the user is an error, not a wait
                stdout=2,
                pass_fds=(down_r, up_w),
            )
        except OSError as error:
            os.close(self._to)
            os.close(self._from)
            raise ConfigError(
                f"can't start LeRobot's Python {python}",
                found=error.strerror,
                remedy=f"correct {option}",
            ) from error
        finally:
            os.close(down_r)
            os.close(up_w)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer. Raises `Glitch` for what LeRobot itself calls a lost connection or reply, else
        `DeviceError`."""
        self._number += 1
        give_up_s = time.monotonic() + timeout_s
        try:
            self._send({"n": self._number, "until_s": give_up_s, **request}, give_up_s)
            while True:
                answer = json.loads(self._receive(give_up_s))
                if answer["n"] == self._number:
                    break
        except TimeoutError:
            raise DeviceError(
                f"LeRobot does not answer ({request['do']})",
                found=f"nothing in {timeout_s:g} s",
                remedy=f"see {self._log} in the run folder",
            ) from None
        except (OSError, ValueError) as error:
            code = self._process.poll()
            raise DeviceError(
                f"LeRobot's process has ended ({request['do']})",
                found=str(error) if code is None else f"exit code {code}",
                remedy=f"see {self._log} in the run folder",
            ) from error
        if "error" in answer:
            passing = str(answer["error"]).startswith(_PASSING)
            raise (Glitch if passing else DeviceError)(f"LeRobot: {answer['error']}")
        return dict(answer["ok"])

    def close(self) -> None:
        """Ask it to leave; end it if it doesn't."""
        try:
            self._send({"n": 0, "do": "close"}, time.monotonic() + _END_S)
            self._process.wait(_END_S)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _send(self, message: dict[str, Any], give_up_s: float) -> None:
        """Raises `TimeoutError`: it was not sent, or begun, and then its rest goes first the next time."""
        data = json.dumps(message).encode()
        data = struct.pack("<I", len(data)) + data
        self._write_out(give_up_s)
        self._unsent = data
        try:
            self._write_out(give_up_s)
        except TimeoutError:
            if len(self._unsent) == len(data):
                self._unsent = b""
            raise

    def _write_out(self, give_up_s: float) -> None:
        while self._unsent:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0 or not select.select([], [self._to], [], left_s)[1]:
                raise TimeoutError
            try:
                self._unsent = self._unsent[os.write(self._to, self._unsent) :]
            except BlockingIOError:  # room for some, but not for all of a short one
                time.sleep(0.001)

    def _receive(self, give_up_s: float) -> bytes:
        """Raises `TimeoutError`: what has come of the message counts the next time."""
        self._await(4, give_up_s)
        (size,) = struct.unpack_from("<I", self._received)
        if size > _MAX_BYTES:
            raise ValueError(f"a message of {size} bytes")
        self._await(4 + size, give_up_s)
        message, self._received = self._received[4:], b""
        return message

    def _await(self, size: int, give_up_s: float) -> None:
        """Until so many bytes have come of this message, and no more than that is read."""
        while len(self._received) < size:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0 or not select.select([self._from], [], [], left_s)[0]:
                raise TimeoutError
            piece = os.read(self._from, size - len(self._received))
            if not piece:
                raise ValueError("its pipe is closed")
            self._received += piece
