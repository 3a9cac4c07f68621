"""The arm's process: hosts a `Driver`, reads it without pause and answers control and watchdog.

`python -m runtime.arms.server --run-dir <dir>`. One thread owns the device; another answers, so that control
gets the newest reading, with its age, at once. Fences by lease epoch, puts the arm in hold when commands
cease to come, latches the driver's faults. It never cuts the motors' power but in the configured rest pose.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contracts.errors import DeviceError, EntracteError, SpecMismatch
from contracts.files.packages import read_manifest
from contracts.files.stop_event import StopEvent
from contracts.specs import ActionSpec, action_differences, remedy_for
from runtime.arms import ArmState, Driver, Glitch, degrees_of, make_driver
from runtime.arms import protocol as p
from runtime.arms.answering import Answering, Caller
from runtime.arms.guarded import Guarded
from runtime.board import ArmPhase, Board, StopCheck
from runtime.config import ArmSection
from runtime.control.pacing import percentile
from runtime.run import Run, run_of_process
from runtime.standstill import Finding, Standstill
from runtime.system.log import log_without_errors
from runtime.system.priority import Rank, run_first

EXIT_CANNOT_START = 2
_WINDOW = 1000
_STATISTICS_EVERY = 50
_STANDS_WITHIN_S = 1.0
"""An arm that isn't seen to stand so soon after its last hold keeps its power."""


@dataclass(frozen=True)
class _Asked:
    """What only the device's thread can do, and who waits for it."""

    request: p.Hold | p.Enable
    caller: Caller
    number: int


class ArmServer:
    """`answer` is called by the answering thread, everything else by the device's. `driver` raises
    `DeviceError` and nothing else (`Guarded`)."""

    def __init__(self, section: ArmSection, board: Board, driver: Driver) -> None:
        self._section, self._board, self._driver = section, board, driver
        self._spec = driver.spec()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._asked: deque[_Asked] = deque()
        self._targets: np.ndarray | None = None
        self._epoch = 0
        self._latched_epoch = -1
        """Commands of this epoch and older ones are refused: the arm went into hold by itself under it."""
        self._state: ArmState | None = None
        self._fault = ""
        self._powered = False
        self._may_be_powered = False
        """From before the first servo gets power: if that fails half-way, what has power must be held."""
        self._lost_since_s = math.inf
        """Since when every command was lost on its way; inf: the last one was not."""
        self._commanded_s = math.inf
        """When the last command that moves was given; inf in hold."""
        self._complete_s = math.inf
        self._times_s: deque[float] = deque(maxlen=_WINDOW)

    # -- the answering thread

    def answer(self, caller: Caller, number: int, request: p.AnyRequest) -> p.AnyAnswer | None:
        """None: answered later, by the device's thread."""
        match request:
            case p.Hello():
                return p.Welcome(self._spec, degrees_of(self._driver))
            case p.Take():
                self._newest_epoch(request.epoch)
                return p.Done()
            case p.Read():
                return self._read_out()
            case p.Write():
                return self._accept(request)
            case p.Hold() | p.Enable():
                with self._lock:
                    self._asked.append(_Asked(request, caller, number))
                    if isinstance(request, p.Hold):
                        self._targets = None  # what was asked before must not move it after
                self._wake.set()
                return None

    def _newest_epoch(self, epoch: int) -> int:
        """The board's counts too: whoever took the lease there may not have spoken yet."""
        self._epoch = max(self._epoch, epoch, self._board.lease_epoch)
        return self._epoch

    def _read_out(self) -> p.AnyAnswer:
        state = self._state
        if self._fault:
            return p.Failed(self._fault)
        if state is None:
            return p.Failed("the arm has not been read yet")
        return p.State(
            tuple(state.positions.tolist()),
            state.at_s,
            None if state.velocities is None else tuple(state.velocities.tolist()),
            None if state.targets is None else tuple(state.targets.tolist()),
            state.torque,
            state.doubt_s,
        )

    def _accept(self, request: p.Write) -> p.AnyAnswer:
        if self._fault:
            return p.Failed(self._fault)
        if len(request.targets) != len(self._spec.names):
            return p.Failed(f"a command has {len(request.targets)} entries: the arm is in hold")
        if not all(map(math.isfinite, request.targets)):
            return p.Failed("a command holds NaN or infinity: it was not given to the arm")
        if not self._powered:
            return p.Failed("a command before the motors were powered")
        with self._lock:
            if request.epoch < self._newest_epoch(0) or request.epoch <= self._latched_epoch:
                self._board.arm_refused += 1
                return p.Done(accepted=False)
            self._targets = np.array(request.targets, np.float64)
        self._wake.set()
        return p.Done()

    # -- the device's thread

    def begin(self) -> None:
        """The first reading: nobody is told that the arm is open before. Raises `DeviceError`."""
        self._complete_s = time.monotonic()
        while self._state is None:
            self._read()
            if self._fault:
                raise DeviceError(self._fault)

    def forever(self, stop: threading.Event) -> None:
        """Read at the configured rate, carry out what was asked as soon as it is."""
        period_s = 1.0 / self._section.read_rate_hz
        due_s = time.monotonic()
        while not stop.is_set():
            self._wake.wait(max(0.0, due_s - time.monotonic()))
            self._wake.clear()
            self._carry_out()
            now_s = time.monotonic()
            if now_s >= due_s:
                self._read()
                # Late: the next one a period from now, not at once.
                due_s = max(due_s + period_s, time.monotonic())
            self._watch_commands()

    def _carry_out(self) -> None:
        with self._lock:
            targets, self._targets = self._targets, None
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
        # Within one round a hold has the last word, whatever order they came in.
        if targets is not None and not any(isinstance(one.request, p.Hold) for one in asked):
            self._write(targets)
        for one in asked:
            answer: p.AnyAnswer
            try:
                answer = self._do(one.request)
            except DeviceError as error:
                answer = p.Failed(str(error))
            one.caller.send(one.number, answer)

    def _do(self, request: p.Hold | p.Enable) -> p.Done:
        if isinstance(request, p.Hold):
            self._newest_epoch(request.epoch)
            self._hold()
            return p.Done()
        if self._fault:
            raise DeviceError(self._fault)
        if request.epoch < self._newest_epoch(request.epoch):
            return p.Done(accepted=False)
        self._require_no_stop("no motor was powered")
        self._may_be_powered = True
        try:
            self._driver.enable()
        except DeviceError as error:
            self._fail(str(error))
            raise
        self._board.arm_state = ArmPhase.POWERED
        try:  # it takes a while, in which a person may have changed his mind
            self._require_no_stop("the arm is powered and in hold")
        except DeviceError:
            self._hold()
            raise
        self._powered = True
        self._read()
        return p.Done()

    def _require_no_stop(self, how_it_is: str) -> None:
        board = self._board
        if board.estop_requested or board.stop_requested:
            asked = "an emergency stop" if board.estop_requested else "a stop"
            raise DeviceError(f"{asked} was asked for: {how_it_is}", remedy="start again")

    def _write(self, targets: np.ndarray) -> None:
        if self._fault:
            return
        self._commanded_s = time.monotonic()
        try:
            self._driver.write(targets)
            self._lost_since_s = math.inf
        except Glitch as error:  # without a read-back nobody else would see it
            self._lost_since_s = min(self._lost_since_s, self._commanded_s)
            if self._commanded_s - self._lost_since_s > self._section.fault_after_s:
                self._fail(str(error))
        except DeviceError as error:
            self._fail(str(error))

    def _hold(self) -> None:
        """Raises `DeviceError` if it can't be verified."""
        self._commanded_s = self._lost_since_s = math.inf
        if self._may_be_powered:
            self._driver.hold()

    def _read(self) -> None:
        if self._fault:
            return
        started_s = time.monotonic()
        try:
            state = self._driver.read()
            self._board.arm_retries = self._driver.retries()
        except Glitch as error:
            with contextlib.suppress(DeviceError):
                self._board.arm_retries = self._driver.retries()
            if time.monotonic() - self._complete_s > self._section.fault_after_s:
                self._fail(str(error))
            return
        except DeviceError as error:
            self._fail(str(error))
            return
        self._state, self._complete_s = state, time.monotonic()
        self._times_s.append(self._complete_s - started_s)
        self._count()

    def _count(self) -> None:
        board = self._board
        board.arm_readings += 1
        board.arm_read_max_s = max(board.arm_read_max_s, self._times_s[-1])
        if board.arm_readings % _STATISTICS_EVERY == 0:
            board.arm_read_p99_s = percentile(sorted(self._times_s), 0.99)
            with contextlib.suppress(DeviceError):
                board.arm_warmest_c = self._driver.warmest_c()

    def _watch_commands(self) -> None:
        """Commands ceased to come while the arm was under way: hold, until somebody takes it anew."""
        if time.monotonic() - self._commanded_s <= self._section.command_timeout_s:
            return
        with self._lock:
            self._latched_epoch = self._newest_epoch(0)
            self._targets = None
        self._board.arm_timeouts += 1
        print(
            f"arm: no command for {self._section.command_timeout_s:g} s: the arm is put in hold",
            file=sys.stderr,
        )
        try:
            self._hold()
        except DeviceError as error:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        """Latch a fault; the servos that still listen hold."""
        self._fault = why
        self._board.arm_state = ArmPhase.FAILED
        print(f"arm: {why}", file=sys.stderr)
        try:
            self._hold()
        except DeviceError as error:
            print(f"arm: {error}", file=sys.stderr)

    # -- the end

    def leave(self) -> None:
        """Hold, and release only as `arm.at_close` and the pose allow."""
        if not self._may_be_powered:
            return
        try:
            self._hold()
            if self._section.at_close == "release" and not self._fault:
                self._require_rest()
                self._driver.release()
        except DeviceError as error:
            print(f"arm: {error}", file=sys.stderr)

    def _require_rest(self) -> None:
        """That the arm is seen to stand in its rest pose: it may be asked to leave in the middle of a motion,
        and its newest reading be of before that. Raises `DeviceError`."""
        started_s = time.monotonic()
        check = Standstill(self._spec.names, started_s, _STANDS_WITHIN_S)
        found: Finding | None = None
        while found is None:
            try:
                state = self._driver.read()
                found = check.add(replace(state, targets=None))  # hold has read those back
            except Glitch as error:
                found = check.lost(time.monotonic(), error)
            found = found or check.silent(time.monotonic() - started_s)
            time.sleep(1.0 / self._section.read_rate_hz)
        if found.check is not StopCheck.VERIFIED:
            raise DeviceError(f"the motors stay powered: {found.note}")
        off = np.abs(state.positions - np.array(self._section.rest_pose, np.float32))
        worst = int(off.argmax())
        if off[worst] > self._section.rest_tolerance:
            name, unit = self._spec.names[worst], self._spec.units[worst]
            far = f"{name} is {off[worst]:.1f} {unit} from its rest pose"
            raise DeviceError(f"the motors stay powered: {far}")


def check_policy(run: Run, spec: ActionSpec) -> None:
    """The arm's own look at the policy, before it is opened: names, order, units and ranges of the joints.
    Raises `SpecMismatch`. (Control checks cameras and states as well, before it asks for power.)"""
    folder = run.config.policy.package
    if run.plan.driver != "policy" or not folder:
        return
    required = read_manifest(Path(folder)).action
    found = action_differences(required, spec) if required is not None else []
    if found:
        raise SpecMismatch(
            f"the policy {folder} was made for another arm: " + "; ".join(found),
            remedy=remedy_for(found, "use a package trained for this arm, or fix arm.options"),
        )


def check_section(section: ArmSection, spec: ActionSpec) -> None:
    """What of `arm.*` can only be checked against the arm. Raises `SpecMismatch`."""
    if section.rest_pose and len(section.rest_pose) != len(spec.names):
        raise SpecMismatch(
            "arm.rest_pose",
            expected=f"{len(spec.names)} numbers, for {', '.join(spec.names)}",
            found=len(section.rest_pose),
        )


def _serve(run: Run, board: Board, answering: Answering, stop: threading.Event) -> None:
    driver = Guarded(make_driver(run))
    spec = driver.spec()
    check_policy(run, spec)
    check_section(run.config.arm, spec)
    driver.open()
    try:
        server = ArmServer(run.config.arm, board, driver)
        server.begin()
        board.arm_state = ArmPhase.OPEN
        answering.begin(server.answer)
        run_first(Rank.BUS)
        try:
            server.forever(stop)
        finally:
            server.leave()
    finally:
        with contextlib.suppress(DeviceError):
            driver.close()


def main() -> int:
    run = run_of_process("runtime.arms.server")
    stop = StopEvent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    sys.setswitchinterval(0.0005)  # one thread may keep the other waiting no longer than this
    with Board.open(run.board_path) as board, Answering(run.arm_address) as answering:
        try:
            _serve(run, board, answering, stop)
        except Exception as error:
            # Those who wait for the arm to open are told why it doesn't.
            why = str(error)
            if not isinstance(error, EntracteError):
                traceback.print_exc()
                why = f"the arm's process failed: {type(error).__name__}: {error}"
            answering.refuse(why)
            print(f"arm: {why}", file=sys.stderr)
            sys.stderr.flush()
            return EXIT_CANNOT_START
    return 0


if __name__ == "__main__":
    log_without_errors()
    code = main()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)  # a driver's own threads must not keep a process alive whose arm is in hold
