"""`Arm` for control and watchdog where the arm has a process of its own: connections to its server."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TypeVar

import numpy as np

from contracts.errors import DeviceError
from contracts.specs import ActionSpec
from runtime.arms import ArmState
from runtime.arms import protocol as p
from runtime.system.unix_socket import connect

_A = TypeVar("_A", bound=p.Answer)
_ENABLE_S = 20.0


class _Line:
    """One connection, for one thread at a time; a second one is refused: answers would go astray."""

    def __init__(self, address: Path, give_up_s: float) -> None:
        """Waits until somebody listens. Raises `DeviceError`."""
        self._number = 0
        self._busy = threading.Lock()
        self._socket = connect(address, give_up_s, "the arm's process")

    def ask(self, request: p.AnyRequest, kind: type[_A], timeout_s: float) -> _A:
        if not self._busy.acquire(blocking=False):
            raise DeviceError(
                "two threads speak to the arm at once", remedy="open a connection for each"
            )
        try:
            return self._ask(request, kind, timeout_s)
        finally:
            self._busy.release()

    def close(self) -> None:
        self._socket.close()

    def _ask(self, request: p.AnyRequest, kind: type[_A], timeout_s: float) -> _A:
        self._number += 1
        give_up_s = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(timeout_s)
            self._socket.send(p.encode((self._number, request)))
            while True:
                self._socket.settimeout(max(give_up_s - time.monotonic(), 1e-4))
                data = self._socket.recv(p.MAX_MESSAGE_BYTES)
                if not data:
                    raise DeviceError("the arm's process has ended", remedy="see logs/arm.log")
                number, answer = p.decode_answer(data)
                if number == self._number:
                    break  # others came too late for the request they answer
        except TimeoutError as error:
            raise DeviceError(
                f"the arm's process does not answer (asked to {type(request).__name__.lower()})",
                found=f"nothing in {timeout_s:g} s",
                remedy="see logs/arm.log (control waited for this if its tick stalled)",
            ) from error
        except OSError as error:
            raise DeviceError("the arm's process is gone", found=str(error)) from error
        if isinstance(answer, p.Failed):
            raise DeviceError(answer.what)
        if not isinstance(answer, kind):
            raise DeviceError(
                "the arm's process answered something else", found=type(answer).__name__
            )
        return answer


class ServedArm:
    """One caller. No call waits longer than `answer_timeout_s`, but for opening and `enable`. `enable` has a
    connection of its own, so that the arm can be held meanwhile; other calls are one thread's."""

    in_control = True

    def __init__(
        self, address: Path, caller: str, answer_timeout_s: float, start_timeout_s: float
    ) -> None:
        """Waits until the arm is open. Raises `DeviceError`, with the arm's own sentence if it can't be."""
        self._address, self._answer_timeout_s = address, answer_timeout_s
        self._epoch = 0
        self._line = _Line(address, time.monotonic() + start_timeout_s)
        welcome = self._line.ask(p.Hello(caller), p.Welcome, start_timeout_s)
        self._spec, self.degrees = welcome.spec, welcome.degrees

    def spec(self) -> ActionSpec:
        return self._spec

    def take(self, epoch: int) -> None:
        self._epoch = epoch
        self._ask(p.Take(epoch), p.Done)

    def enable(self) -> None:
        line = _Line(self._address, time.monotonic())
        try:
            accepted = line.ask(p.Enable(self._epoch), p.Done, _ENABLE_S).accepted
        finally:
            line.close()
        if not accepted:
            raise DeviceError("the arm refused to be powered: another process has taken it")

    def read(self) -> ArmState:
        state = self._ask(p.Read(), p.State)
        return ArmState(
            np.array(state.positions, np.float32),
            state.at_s,
            None if state.velocities is None else np.array(state.velocities, np.float32),
            None if state.targets is None else np.array(state.targets, np.float32),
            state.torque,
            state.doubt_s,
        )

    def write(self, targets: np.ndarray) -> bool:
        return self._ask(p.Write(self._epoch, tuple(targets.tolist())), p.Done).accepted

    def hold(self) -> None:
        self._ask(p.Hold(self._epoch), p.Done)

    def close(self) -> None:
        self._line.close()

    def _ask(self, request: p.AnyRequest, kind: type[_A]) -> _A:
        return self._line.ask(request, kind, self._answer_timeout_s)
