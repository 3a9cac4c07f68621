"""The arm's process around somebody's own driver: its bugs are faults with the arm in hold, its lost commands
are noticed, its limits must limit, and nobody powers it after a stop.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from robots import until

from contracts.errors import ConfigError, DeviceError
from contracts.specs import ActionSpec
from runtime.arms import ArmState, Glitch
from runtime.arms import protocol as p
from runtime.arms.answering import Answering
from runtime.arms.client import ServedArm
from runtime.arms.guarded import Guarded
from runtime.arms.server import ArmServer
from runtime.arms.sim import SO101_ACTION
from runtime.board import ArmPhase, Board
from runtime.config import ArmSection, GateSection
from runtime.gate.limits import limits_of

POSE = np.zeros(6)


class Own:
    """A driver with six joints that are where they were told to be, until a test gives it a fault."""

    in_control: ClassVar[bool] = False

    def __init__(self) -> None:
        self.at = POSE.copy()
        self.holds = self.enabled = 0
        self.degrees: tuple[float, ...] | None = ()
        self.on: dict[str, Callable[[], Any]] = {}

    def _do(self, what: str) -> None:
        self.on.get(what, lambda: None)()

    def spec(self) -> ActionSpec:
        return SO101_ACTION

    def open(self) -> None:
        self._do("open")

    def read(self) -> ArmState:
        self._do("read")
        return ArmState(self.at.astype(np.float32), time.monotonic())

    def enable(self) -> None:
        self._do("enable")
        self.enabled += 1

    def write(self, targets: np.ndarray) -> None:
        self._do("write")
        self.at = targets

    def hold(self) -> None:
        self.holds += 1
        self._do("hold")

    def release(self) -> None:
        self._do("release")

    def close(self) -> None:
        self._do("close")

    def retries(self) -> int:
        self._do("retries")
        return 0

    def warmest_c(self) -> float:
        return 0.0


class Hosted:
    """A driver in the arm's process as it is, but for the process."""

    def __init__(self, driver: Own, folder: Path) -> None:
        self.driver, self.address = driver, folder / "arm"
        self.board = Board.create(folder / "board")
        section = ArmSection(kind="own", command_timeout_s=30.0, fault_after_s=0.1)
        self.server = ArmServer(section, self.board, Guarded(driver))

    def arm(self) -> ServedArm:
        arm = ServedArm(self.address, "test", 2.0, 5.0)
        arm.take(1)
        return arm

    @contextmanager
    def running(self) -> Iterator[ServedArm]:
        stop = threading.Event()
        with Answering(self.address) as answering:
            self.server.begin()
            answering.begin(self.server.answer)
            thread = threading.Thread(target=self.server.forever, args=(stop,))
            thread.start()
            arm = self.arm()
            try:
                yield arm
            finally:
                stop.set()
                thread.join()
                arm.close()
                self.server.leave()


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    one = Hosted(Own(), tmp_path)
    yield one
    one.board.close()


def _key_error() -> None:
    raise KeyError("gripper")


@pytest.mark.parametrize("where", ["read", "write", "enable", "retries"])
def test_a_bug_in_a_driver_is_a_fault_with_its_words_and_the_arm_in_hold(
    hosted: Hosted, where: str
) -> None:
    with hosted.running() as arm:
        if where != "enable":
            arm.enable()
        hosted.driver.on[where] = _key_error
        with suppress(DeviceError):
            arm.enable() if where == "enable" else arm.write(POSE)
        until(lambda: hosted.board.arm_state == ArmPhase.FAILED)
        with pytest.raises(DeviceError, match=r"driver raised KeyError: found 'gripper'"):
            arm.read()
        until(lambda: hosted.driver.holds > 0)
        hosted.driver.on["hold"] = _key_error
        with pytest.raises(DeviceError, match=r"driver raised KeyError"):
            arm.hold()
        hosted.driver.on.clear()
        arm.hold()  # its process lives, so it can still be held


def test_a_state_with_another_number_of_joints_is_a_fault(hosted: Hosted) -> None:
    with hosted.running() as arm:
        hosted.driver.at = np.zeros(5)
        until(lambda: hosted.board.arm_state == ArmPhase.FAILED)
        with pytest.raises(DeviceError, match=r"a state of shape \(5,\)"):
            arm.read()


@pytest.mark.parametrize("what", ["velocities", "targets"])
def test_so_is_one_whose_velocities_or_targets_are_not_the_arms(hosted: Hosted, what: str) -> None:
    wrong: dict[str, Any] = {what: np.zeros(5)}
    hosted.driver.read = lambda: ArmState(POSE, time.monotonic(), **wrong)  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=rf"{what} of shape \(5,\)"):
        Guarded(hosted.driver).read()


def test_counters_that_are_no_numbers_are_a_fault_and_not_the_end_of_the_arms_process(
    hosted: Hosted,
) -> None:
    with hosted.running() as arm:
        arm.enable()
        hosted.driver.retries = lambda: None  # type: ignore[assignment,method-assign,return-value]
        until(lambda: hosted.board.arm_state == ArmPhase.FAILED)
        arm.hold()


def test_a_reading_stays_as_it_was_whatever_its_driver_writes_next(hosted: Hosted) -> None:
    own = np.zeros(6, np.float32)
    hosted.driver.read = lambda: ArmState(own, time.monotonic())  # type: ignore[method-assign]
    state = Guarded(hosted.driver).read()
    own[:] = 9.0
    assert not state.positions.any()


def test_what_a_driver_reckons_in_numpy_reaches_the_loop(hosted: Hosted) -> None:
    class Reckoned(Own):
        def read(self) -> ArmState:
            times_s = np.array([time.monotonic()] * 2)
            return ArmState(list(self.at), times_s.mean(), torque=np.bool_(True))  # type: ignore[arg-type]

    one = Hosted(Reckoned(), hosted.address.parent)
    with one.running() as arm:
        state = arm.read()
        assert state.torque is True and type(state.at_s) is float
        np.testing.assert_array_equal(state.positions, POSE)
    one.board.close()


@pytest.mark.parametrize("what", ["a state that can't be sent", "an error", "a broken accept"])
def test_nothing_that_goes_wrong_in_answering_keeps_anybody_from_asking_for_hold(
    hosted: Hosted, what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with hosted.running() as watchdog:
        watchdog.hold()
        if what == "a broken accept":
            with monkeypatch.context() as patch:
                patch.setattr(Answering, "_attend", _no_more_files)
                comes = threading.Thread(target=hosted.arm, daemon=True)
                comes.start()
                until(lambda: "no more files" in capfd.readouterr().err)
            comes.join()
        else:
            said: Any = p.State((0.0,), np.float64(time.monotonic()), None, None, True)
            wrong = (lambda: said) if what == "a state that can't be sent" else _key_error
            monkeypatch.setattr(hosted.server, "_read_out", wrong)
            named = "TypeError" if what == "a state that can't be sent" else "KeyError: 'gripper'"
            for _ in range(3):
                with pytest.raises(DeviceError, match=f"the arm's process could not .*{named}"):
                    watchdog.read()
        watchdog.hold()
        assert hosted.arm().spec() == SO101_ACTION  # and whoever comes new is let in


def _no_more_files(*_: object) -> None:
    raise OSError("no more files")


def test_commands_that_are_lost_for_too_long_are_a_fault(hosted: Hosted) -> None:
    def lost() -> None:
        raise Glitch("the command was lost")

    with hosted.running() as arm:
        arm.enable()
        hosted.driver.on["write"] = lost
        for _ in range(3):
            assert arm.write(POSE)
        hosted.driver.on.clear()
        assert arm.write(POSE)  # noise that passed is nothing
        time.sleep(0.15)
        hosted.driver.on["write"] = lost
        assert arm.write(POSE)
        assert hosted.board.arm_state == ArmPhase.POWERED
        with pytest.raises(DeviceError, match="the command was lost"):
            for _ in range(100):
                arm.write(POSE)
                time.sleep(0.01)
        assert hosted.driver.holds == 1


@pytest.mark.parametrize("word", ["estop_requested", "stop_requested"])
def test_after_a_stop_nothing_is_powered(hosted: Hosted, word: str) -> None:
    with hosted.running() as arm:
        setattr(hosted.board, word, 1)
        with pytest.raises(DeviceError, match=r"stop was asked for: no motor was powered"):
            arm.enable()
        assert hosted.driver.enabled == 0
        setattr(hosted.board, word, 0)
        hosted.driver.on["enable"] = lambda: setattr(hosted.board, word, 1)
        with pytest.raises(DeviceError, match="stop was asked for: the arm is powered and in hold"):
            arm.enable()
        assert (hosted.driver.enabled, hosted.driver.holds) == (1, 1)
        with pytest.raises(DeviceError, match="before the motors were powered"):
            arm.write(POSE)


def test_what_has_power_after_a_failed_start_is_held(hosted: Hosted) -> None:
    def half() -> None:
        raise DeviceError("servo 4 does not take its power")

    with hosted.running() as arm:
        hosted.driver.on["enable"] = half
        with pytest.raises(DeviceError, match="servo 4"):
            arm.enable()
        assert hosted.board.arm_state == ArmPhase.FAILED
        before = hosted.driver.holds
        assert before > 0
        arm.hold()
        assert hosted.driver.holds == before + 1
    assert hosted.driver.holds > before + 1, "nor is it left as it is at the end"


def test_a_reading_says_how_long_it_took(hosted: Hosted) -> None:
    read = hosted.driver.read

    def slow() -> ArmState:
        time.sleep(0.03)
        state = read()
        time.sleep(0.06)
        return state

    with hosted.running() as arm:
        assert arm.read().doubt_s > 0.0
        hosted.driver.read = slow  # type: ignore[method-assign]
        until_s = time.monotonic() + 10.0
        while (doubt_s := arm.read().doubt_s) < 0.06:
            assert time.monotonic() < until_s
        assert doubt_s < 1.0
        hosted.driver.read = lambda: replace(slow(), doubt_s=math.nan)  # type: ignore[method-assign]
        assert 0.06 <= arm.read().doubt_s < 1.0


def test_the_arm_can_be_spoken_to_while_it_is_powered_and_by_one_thread_at_a_time(
    hosted: Hosted,
) -> None:
    with hosted.running() as arm:
        asked, go_on = threading.Event(), threading.Event()

        def enable() -> None:
            asked.set()
            go_on.wait(20.0)

        hosted.driver.on["enable"] = enable
        refused = []

        def power() -> None:
            with pytest.raises(DeviceError, match="emergency stop was asked for") as caught:
                arm.enable()
            refused.append(caught.value)

        powering = threading.Thread(target=power)
        powering.start()
        assert asked.wait(10.0)
        for _ in range(20):
            arm.read()
        hosted.board.estop_requested = 1
        held: list[BaseException | None] = []

        def hold() -> None:
            while not held:
                try:
                    arm.hold()
                    held.append(None)
                except DeviceError as error:
                    if "two threads" not in str(error):  # a reading below was under way
                        held.append(error)

        holding = threading.Thread(target=hold)
        holding.start()
        given_up_s = time.monotonic() + 10.0
        with pytest.raises(DeviceError, match="two threads speak to the arm at once"):
            while time.monotonic() < given_up_s:  # the other thread is on its way
                arm.read()
                time.sleep(0.001)
        go_on.set()
        powering.join()
        holding.join()
        assert refused and held == [None]
        assert hosted.driver.holds == 2  # that of the emergency stop, and the one asked for


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("max_velocity", math.nan, "the arm's max_velocity of shoulder_lift.pos"),
        ("max_acceleration", 0.0, "the arm's max_acceleration of shoulder_lift.pos"),
        ("max_velocity", math.inf, "a finite number above 0, found inf"),
        ("low", math.nan, "the arm's low of shoulder_lift.pos"),
        ("low", 200.0, "the arm's range of shoulder_lift.pos: expected low < high"),
    ],
)
def test_limits_that_limit_nothing_are_refused(limit: str, value: float, words: str) -> None:
    values = list(getattr(SO101_ACTION, limit))
    values[1] = value
    spec = msgspec.structs.replace(SO101_ACTION, **{limit: tuple(values)})

    class Wrong(Own):
        def spec(self) -> ActionSpec:
            return spec

    for use in (lambda: limits_of(spec, GateSection(), 30.0), lambda: Guarded(Wrong())):
        with pytest.raises(ConfigError) as caught:
            use()
        assert words in str(caught.value)


@pytest.mark.parametrize(("where", "released"), [(0.0, 1), (math.nan, 0), (50.0, 0)])
def test_power_is_cut_in_the_rest_pose_and_nowhere_else(
    hosted: Hosted, where: float, released: int
) -> None:
    section = ArmSection(kind="own", at_close="release", rest_pose=(0.0,) * 6)
    cuts: list[bool] = []
    hosted.driver.on["release"] = lambda: cuts.append(True)
    server = ArmServer(section, hosted.board, Guarded(hosted.driver))
    server.begin()
    server._may_be_powered = True
    hosted.driver.at = np.array([0.0, where, 0.0, 0.0, 0.0, 0.0])
    server._read()
    server.leave()
    assert (len(cuts), hosted.driver.holds) == (released, 1)


@pytest.mark.parametrize("how", ["moved on unread", "moves", "can't be held", "stands"])
def test_power_is_not_cut_of_an_arm_that_was_not_seen_to_stand_in_its_rest_pose(
    hosted: Hosted, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM comes in the middle of a motion too: whoever started the arm's process was killed."""
    driver, cuts = hosted.driver, list[bool]()
    section = ArmSection(kind="own", at_close="release", rest_pose=(0.0,) * 6)
    server = ArmServer(section, hosted.board, Guarded(driver))
    server.begin()
    server._may_be_powered = True

    def move() -> None:
        driver.at = POSE + 4.0 * math.sin(20.0 * time.monotonic())

    def deaf() -> None:
        raise DeviceError("hold can't be verified: servo 2")

    driver.on = {"release": lambda: cuts.append(True)}
    if how == "moved on unread":
        driver.at = POSE + 40.0
    elif how == "moves":
        driver.on["read"] = move
    elif how == "can't be held":
        driver.on["hold"] = deaf
    server.leave()
    assert len(cuts) == (how == "stands")
    said = "hold can't be verified" if how == "can't be held" else "the motors stay powered"
    assert (said in capfd.readouterr().err) == (how != "stands")


def test_readings_dated_by_the_wall_clock_are_refused() -> None:
    """None of them would ever be too old."""

    class Wall(Own):
        def read(self) -> ArmState:
            return ArmState(self.at.astype(np.float32), time.time())

    with pytest.raises(DeviceError, match=r"another clock .*time\.monotonic"):
        Guarded(Wall()).read()


def test_what_a_driver_says_of_its_units_reaches_the_loop(hosted: Hosted) -> None:
    for said in ((), (1.1,) * 6, None):
        hosted.driver.degrees = said
        one = Hosted(hosted.driver, hosted.address.parent)
        with one.running() as arm:
            assert arm.degrees == said
        one.board.close()
        hosted.address.unlink(missing_ok=True)


def test_a_driver_that_cant_even_open_says_so_in_one_sentence(hosted: Hosted) -> None:
    hosted.driver.on["open"] = _key_error
    with pytest.raises(DeviceError, match="driver raised KeyError"):
        Guarded(hosted.driver).open()
