"""Devices in a hand: a joystick that SDL itself makes up, and LeRobot objects in LeRobot's own Python."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from robots import config, until

from contracts.errors import ConfigError, DeviceError
from contracts.specs import ActionSpec
from runtime.arms import Glitch
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board
from runtime.operator.commands import Command, Inbox
from runtime.operator.window import Window
from runtime.run import Run, RunPlan
from runtime.teleoperation import Reading, open_teleoperator, server
from runtime.teleoperation.page import JOG, LEADER, HandPage
from runtime.teleoperation.server import Hand

PYTHON = os.environ.get("ENTRACTE_LEROBOT_PYTHON", "")
LEADER_PLUGIN = '''
from dataclasses import dataclass
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.teleoperators.utils import TeleopEvents

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


@TeleoperatorConfig.register_subclass("paper_leader")
@dataclass
class PaperLeaderConfig(TeleoperatorConfig):
    path: str = ""


class PaperLeader(Teleoperator):
    """Its joints are what a file says."""
    config_class = PaperLeaderConfig
    name = "paper_leader"

    def __init__(self, config):
        super().__init__(config)
        self.config, self.up, self.count = config, False, 0

    action_features = property(lambda self: {f"{name}.pos": float for name in NAMES})
    feedback_features = property(lambda self: {})
    is_connected = property(lambda self: self.up)
    is_calibrated = property(lambda self: True)

    def connect(self, calibrate=True):
        print("connecting")  # goes to a log, not into the pipe
        self.up = True

    def calibrate(self): pass
    def configure(self): pass
    def send_feedback(self, feedback): pass

    def get_action(self):
        values = [float(v) for v in open(self.config.path).read().split()]
        if len(values) == 1:
            raise ConnectionError("the leader's cable is out")
        return {f"{name}.pos": value for name, value in zip(NAMES, values)}

    def get_teleop_events(self):
        self.count += 1
        return {TeleopEvents.IS_INTERVENTION: self.count < 3, TeleopEvents.SUCCESS: self.count == 2}

    def disconnect(self):
        self.up = False
'''


class Sdl:
    """SDL's virtual joystick, in the library that pygame brought (SDL_joystick.h)."""

    def __init__(self) -> None:
        pygame = pytest.importorskip("pygame", reason="pygame is not installed (extra gamepad)")
        os.environ["SDL_VIDEODRIVER"] = "dummy"
        os.environ["SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS"] = "1"
        pygame.display.init()
        pygame.joystick.init()
        found = list((Path(pygame.__file__).parent.parent / "pygame.libs").glob("libSDL2-2*"))
        if not found:
            pytest.skip("this pygame has no SDL library of its own to make a joystick with")
        self._sdl = ctypes.CDLL(str(found[0]))
        self._sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        self.index = self._sdl.SDL_JoystickAttachVirtual(1, 6, 8, 0)
        assert self.index >= 0
        self._pad = ctypes.c_void_p(self._sdl.SDL_JoystickOpen(self.index))

    def axis(self, number: int, value: float) -> None:
        self._sdl.SDL_JoystickSetVirtualAxis(self._pad, number, ctypes.c_int16(int(32767 * value)))
        self._sdl.SDL_JoystickUpdate()

    def button(self, number: int, *, down: bool) -> None:
        self._sdl.SDL_JoystickSetVirtualButton(self._pad, number, ctypes.c_uint8(down))
        self._sdl.SDL_JoystickUpdate()

    def unplug(self) -> None:
        if self._pad:
            self._sdl.SDL_JoystickDetachVirtual(self.index)
            self._sdl.SDL_JoystickClose(self._pad)
            self._pad = ctypes.c_void_p()


@pytest.fixture
def sdl() -> Iterator[Sdl]:
    made = Sdl()
    yield made
    made.unplug()


def test_a_gamepad_jogs_commands_once_a_press_and_says_when_it_is_gone(sdl: Sdl) -> None:
    sdl.axis(2, -1.0)  # a trigger at rest
    sdl.axis(5, 0.0)  # one that SDL has not heard of yet
    sdl.axis(4, -1.0)  # a stick that is pushed, or a trigger that nobody named
    pad = open_teleoperator("gamepad", {"index": sdl.index}, SO101_ACTION)
    still = pad.read()
    assert still == Reading(shares=(0.0,) * 6)
    sdl.axis(0, 0.05)
    assert pad.read().shares == (0.0,) * 6, "a stick that doesn't quite return moves nothing"
    sdl.axis(0, 1.0)
    sdl.axis(1, 1.0)
    sdl.axis(2, 1.0)
    shares = pad.read().shares
    assert shares is not None
    assert shares[0] == pytest.approx(1.0, abs=1e-3)
    assert shares[1] == pytest.approx(-1.0, abs=1e-3), "pulled towards one: down"
    assert shares[4] == pytest.approx(1.0, abs=1e-3), "a trigger pulled whole"
    assert shares[2] == 0.0
    sdl.axis(4, 0.0)
    assert pad.read().shares[2] == 0.0
    sdl.axis(4, -1.0)
    assert pad.read().shares[2] == pytest.approx(1.0, abs=1e-3), "it counts once it was let go"
    assert shares[5] == 0.0, "nobody has touched that one: SDL says 0 of it, and it is no pull"
    sdl.axis(5, 0.5)
    assert pad.read().shares[5] == pytest.approx((0.75 - 0.12) / 0.88, abs=1e-3)
    sdl.axis(5, 0.0)
    assert pad.read().shares[5] > 0.0, "touched once, 0 is half-way"
    sdl.axis(5, -1.0)
    assert pad.read().shares[5] == 0.0, "let go"
    sdl.button(0, down=True)
    assert pad.read().commands == (Command.SUCCESS,)
    assert pad.read().commands == (), "held down, it is pressed once"
    sdl.button(0, down=False)
    sdl.button(6, down=True)
    assert pad.read().commands == (Command.STOP,)
    sdl.unplug()

    def gone() -> bool:
        try:
            pad.read()
        except DeviceError as error:
            return "gone" in str(error)
        return False

    until(gone, 3.0)


def test_a_pad_that_falls_silent_with_its_stick_pushed_moves_nothing_any_more(sdl: Sdl) -> None:
    """Its radio died: SDL keeps the last value, and says seconds later that it is gone, or never."""
    now_s = 100.0
    options = {"index": sdl.index, "now_s": lambda: now_s}
    pad = open_teleoperator("gamepad", options, SO101_ACTION)
    sdl.axis(0, 0.0)
    pad.read()

    def pushed() -> float:
        shares = pad.read().shares
        assert shares is not None and not any(shares[1:])
        return shares[0]

    sdl.axis(0, 1.0)
    assert pushed() == pytest.approx(1.0, abs=1e-3)
    now_s += 0.6
    assert pushed() > 0.9, "a hand that holds a stick is not still for long"
    sdl.axis(0, 0.99)
    assert pushed() > 0.9
    now_s += 0.6
    assert pushed() > 0.9, "counted from the last change"
    now_s += 0.2
    assert pushed() == 0.0
    other = Sdl()
    other.axis(0, 1.0)
    assert pushed() == 0.0, "another pad's events say nothing of this one"
    other.unplug()
    sdl.axis(0, 0.98)
    assert pushed() > 0.9, "it is heard again"
    now_s += 0.8
    assert pushed() == 0.0
    sdl.button(0, down=True)
    assert pushed() > 0.9, "whatever on it changes, its radio lives"
    with pytest.raises(ConfigError, match="still_s"):
        open_teleoperator("gamepad", {"index": sdl.index, "still_s": 0.0}, SO101_ACTION)


def test_a_device_waits_for_its_robot_however_long_engines_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: float(next(hours))))
    run, stop = Run(config(), RunPlan(), str(tmp_path), str(tmp_path), "test"), threading.Event()
    found: list[ActionSpec | None] = []
    job = threading.Thread(target=lambda: found.append(server._await_robot(run, stop)))
    job.start()
    time.sleep(0.2)
    Window.create(run.window_path, SO101_ACTION, 30.0)
    job.join(20.0)
    stop.set()
    assert found and found[0] is not None and found[0].names == SO101_ACTION.names


def test_no_gamepad_or_a_button_that_means_nothing_is_one_sentence(sdl: Sdl) -> None:
    with pytest.raises(DeviceError, match="no gamepad"):
        open_teleoperator("gamepad", {"index": sdl.index + 1}, SO101_ACTION)
    with pytest.raises(ConfigError, match="can't mean 'dance'"):
        open_teleoperator("gamepad", {"buttons": {0: "dance"}}, SO101_ACTION)
    with pytest.raises(ConfigError, match="teleoperator_options"):
        open_teleoperator("gamepad", {"colour": "red"}, SO101_ACTION)
    with pytest.raises(ConfigError, match="no teleoperator named 'mind'"):
        open_teleoperator("mind", {}, SO101_ACTION)


@pytest.mark.lerobot
@pytest.mark.skipif(not PYTHON, reason="set ENTRACTE_LEROBOT_PYTHON to a Python with LeRobot")
def test_a_lerobot_leader_is_read_mapped_and_its_events_are_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paper_leader_plugin.py").write_text(LEADER_PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    joints = tmp_path / "joints"
    joints.write_text("1 2 3 4 5 60")
    options = {
        "teleop": {"type": "paper_leader", "path": str(joints)},
        "imports": ["paper_leader_plugin"],
        "python": PYTHON,
        "scale": [-1, 1, 1, 1, 1, 0.5],
        "offset": [0, 0, 0, 0, 10, 0],
    }
    leader = open_teleoperator("lerobot", options, SO101_ACTION)
    first = leader.read()
    assert first.targets == (-1.0, 2.0, 3.0, 4.0, 15.0, 30.0)
    assert first.commands == (Command.TAKE_OVER,)
    assert leader.read().commands == (Command.SUCCESS,)
    assert leader.read().commands == (Command.HAND_BACK,)
    joints.write_text("0")
    with pytest.raises(Glitch):
        leader.read()
    joints.write_text("1 2 3 4 5 60")
    assert leader.read().targets == first.targets, "the same process goes on"
    leader.close()
    options["teleop"] = {"type": "so101_leader_of_nobody"}
    with pytest.raises(DeviceError, match="LeRobot has no teleoperator of type"):
        open_teleoperator("lerobot", options, SO101_ACTION)


def test_a_python_that_is_not_there_is_the_teleoperators(tmp_path: Path) -> None:
    options = {"teleop": {"type": "x"}, "python": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match=r"correct operator\.teleoperator_options\.python"):
        open_teleoperator("lerobot", options, SO101_ACTION)


class Noisy:
    """Every other reading is lost, and from the 20th on all are."""

    rate_hz = 500.0
    count = 0

    def read(self) -> Reading:
        self.count += 1
        if self.count % 2 or self.count >= 20:
            raise Glitch("a reply was lost")
        return Reading(targets=(float(self.count), 0.0))

    def close(self) -> None:
        pass


def test_a_lost_reply_is_passed_over_and_a_lost_device_is_not(tmp_path: Path) -> None:
    run = Run(
        config=config("operator.leader_timeout_s=0.1"),
        plan=RunPlan(),
        run_dir=str(tmp_path),
        shm_dir=str(tmp_path),
        session_id="s",
    )
    page, device = HandPage.create(run.hand_path("device"), 2), Noisy()
    Window.create(run.window_path, SO101_ACTION, 30.0)
    with Board.create(run.board_path) as board:
        hand = Hand(run, board, device)
        began_s = time.monotonic()
        with pytest.raises(Glitch):
            hand.forever(threading.Event())
        assert time.monotonic() - began_s > 0.1
        hand.close()
    wish = page.read()
    assert wish is not None and wish.values[0] == 18.0, "the last one that was read"


def test_a_page_whose_writer_died_half_way_is_whole_again_after_the_next(tmp_path: Path) -> None:
    page = HandPage.create(tmp_path / "hand", 1)
    page.write(JOG, (1.0,), 1.0, 2.0)
    page._words[2] += 1  # killed after the mark that it is being written
    assert page.read() is None
    HandPage.open(tmp_path / "hand").write(JOG, (2.0,), 3.0, 4.0)
    wish = page.read()
    assert wish is not None and wish.values == (2.0,)
    assert page._words[2] % 2 == 0


def test_a_reading_becomes_a_page_and_commands_at_the_devices_desk(tmp_path: Path) -> None:
    run = Run(
        config=config(),
        plan=RunPlan(),
        run_dir=str(tmp_path),
        shm_dir=str(tmp_path),
        session_id="s",
    )
    page = HandPage.create(run.hand_path("device"), 2)
    Window.create(run.window_path, SO101_ACTION, 30.0)

    class Device:
        rate_hz = 50.0

        def read(self) -> Reading:
            return Reading()

        def close(self) -> None:
            pass

    with Board.create(run.board_path) as board:
        hand = Hand(run, board, Device())
        now_s = time.monotonic()
        hand.take(Reading(targets=(1.0, 2.0), commands=(Command.TAKE_OVER,)), now_s)
        wish = page.read()
        assert wish is not None and (wish.kind, wish.values, wish.at_s) == (LEADER, (1, 2), now_s)
        hand._desk.pump()
        assert Inbox(board).take() == ("device", Command.TAKE_OVER)
        hand.take(Reading(shares=(0.5, 0.0)), now_s)
        wish = page.read()
        assert wish is not None and (wish.kind, wish.values) == (JOG, (0.5, 0.0))
        assert now_s < wish.until_s < now_s + 0.3
        hand.close()
