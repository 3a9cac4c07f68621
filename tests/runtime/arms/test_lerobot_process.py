"""The pipes to LeRobot's process: a child that prints, hangs, answers late or dies."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.errors import ConfigError, DeviceError
from runtime import arms
from runtime.arms import Glitch
from runtime.arms.lerobot_process import LeRobotProcess

CHILD = """
import json, os, struct, sys, time
requests, answers = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
while head := requests.read(4):
    request = json.loads(requests.read(struct.unpack("<I", head)[0]))
    print("a print that must not reach the pipe", flush=True)
    time.sleep(request.get("sleep_s", 0))
    if request["do"] in ("die", "close"):
        os._exit(7)
    answer = {"n": request["n"], "ok": {"echo": request.get("say", "")}}
    if request["do"] == "fail":
        answer = {"n": request["n"], "error": request["say"]}
    data = json.dumps(answer).encode()
    data = struct.pack("<I", len(data)) + data
    for piece in (data[:torn], data[torn:]) if (torn := request.get("torn", 0)) else (data,):
        answers.write(piece)
        answers.flush()
        time.sleep(request.get("torn_s", 0))
"""


@pytest.fixture
def child(tmp_path: Path) -> LeRobotProcess:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return LeRobotProcess(sys.executable, script)


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(child: LeRobotProcess) -> None:
    assert child.ask({"do": "echo", "say": "a" * 100_000}, 20.0)["echo"] == "a" * 100_000
    with pytest.raises(DeviceError, match=r"does not answer \(echo\)"):
        child.ask({"do": "echo", "say": "late", "sleep_s": 0.3}, 0.05)
    assert child.ask({"do": "echo", "say": "next"}, 20.0)["echo"] == "next"
    child.close()


@pytest.mark.parametrize("torn", [2, 4, 9])
def test_an_answer_that_is_torn_by_a_timeout_is_read_to_its_end(
    child: LeRobotProcess, torn: int
) -> None:
    """In its head, behind it or in its body: the next answer begins behind its rest."""
    child.ask({"do": "echo"}, 20.0)
    request = {"do": "echo", "say": "torn", "torn": torn, "torn_s": 1.0}
    with pytest.raises(DeviceError, match=r"does not answer \(echo\)"):
        child.ask(request, 0.5)
    for word in ("next", "after"):
        assert child.ask({"do": "echo", "say": word}, 20.0)["echo"] == word
    child.close()


def test_a_program_that_hangs_with_its_pipe_full_is_waited_for_no_longer_than_said(
    child: LeRobotProcess,
) -> None:
    child.ask({"do": "echo"}, 20.0)
    with pytest.raises(DeviceError, match="does not answer"):
        child.ask({"do": "echo", "sleep_s": 1.0}, 0.05)
    started_s = time.monotonic()
    for _ in range(3):  # more than a pipe holds
        with pytest.raises(DeviceError, match=r"does not answer \(echo\)"):
            child.ask({"do": "echo", "say": "b" * 50_000}, 0.1)
    assert time.monotonic() - started_s < 0.9
    assert child.ask({"do": "echo", "say": "next"}, 20.0)["echo"] == "next"  # none was torn
    child.close()


ROBOT = """
import dataclasses, os, sys, time, types
from pathlib import Path
sys.path.insert(0, os.environ["ARMS"])
import lerobot_child

class Arm:
    name, action_features, observation_features = "own", {"a": float}, {"a": float}
    is_connected = True
    def send_action(self, action):
        time.sleep(action.get("hang_s", 0))
        print("moved to", action["a"], file=open(os.environ["SAID"], "a"))
        return action
    def disconnect(self):
        print("let go", file=open(os.environ["SAID"], "a"))
    def __del__(self):
        print("let go in the end", file=open(os.environ["SAID"], "a"))

class Own(lerobot_child.Robot):
    def __init__(self):
        self.device = Arm()

lerobot_child.KINDS["robot"] = Own
lerobot_child.main()
"""


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LeRobotProcess:
    """Our program in LeRobot's Python with somebody's robot in it."""
    (tmp_path / "robot.py").write_text(ROBOT)
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.setenv("ARMS", str(Path(arms.__file__).parent))
    return LeRobotProcess(sys.executable, tmp_path / "robot.py", "robot")


def test_a_write_that_nobody_waits_for_any_more_is_not_carried_out(
    robot: LeRobotProcess, tmp_path: Path
) -> None:
    robot.ask({"do": "write", "action": {"a": 1}}, 20.0)
    for number in (2, 3):  # it hangs in the first; the other one waits in the pipe
        with pytest.raises(DeviceError, match=r"does not answer \(write\)"):
            robot.ask({"do": "write", "action": {"a": number, "hang_s": 0.4}}, 0.05)
    robot.ask({"do": "write", "action": {"a": 4}}, 20.0)
    robot.close()
    assert (tmp_path / "said").read_text().split("\n")[:-1] == [f"moved to {n}" for n in (1, 2, 4)]


def test_an_arm_can_be_held_after_all_its_processes_were_asked_to_end(
    robot: LeRobotProcess, tmp_path: Path
) -> None:
    robot.ask({"do": "write", "action": {"a": 1}}, 20.0)
    robot._process.terminate()
    robot.ask({"do": "write", "action": {"a": 2}}, 20.0)
    robot.close()
    assert robot._process.returncode == 0
    assert (tmp_path / "said").read_text().split("\n")[:-1] == ["moved to 1", "moved to 2"]


@pytest.mark.parametrize("end", ["close", "gone", "gone while it worked"])
def test_a_robot_is_never_disconnected(robot: LeRobotProcess, tmp_path: Path, end: str) -> None:
    robot.ask({"do": "write", "action": {"a": 1}}, 20.0)
    process = robot._process
    if end == "close":
        robot.close()
    else:
        if end != "gone":
            with pytest.raises(DeviceError):
                robot.ask({"do": "write", "action": {"a": 1, "hang_s": 0.2}}, 0.05)
        os.close(robot._to)
        os.close(robot._from)
    assert process.wait(10) == 0
    assert "let go" not in (tmp_path / "said").read_text()


def test_no_part_of_a_robot_cuts_its_torque() -> None:
    from runtime.arms.lerobot_child import keep_power

    @dataclass
    class Arm:
        disable_torque_on_disconnect: bool = True

    @dataclass
    class Two:
        left_arm_config: Arm
        others: dict[str, list[Arm]]

    two = Two(Arm(), {"right": [Arm()]})
    keep_power(two)
    assert not two.left_arm_config.disable_torque_on_disconnect
    assert not two.others["right"][0].disable_torque_on_disconnect


def test_units_are_those_of_every_part_of_a_robot() -> None:
    from runtime.arms.lerobot_child import in_degrees

    @dataclass
    class One:
        use_degrees: bool

    @dataclass
    class Two:
        arms: dict[str, One]

    assert in_degrees(One(False)) is False
    assert in_degrees(Two({"left": One(True), "right": One(True)})) is True
    assert in_degrees(Two({"left": One(True), "right": One(False)})) is None
    assert in_degrees(Two({})) is None


def test_lost_replies_are_glitches_and_the_rest_is_final(child: LeRobotProcess) -> None:
    with pytest.raises(Glitch):
        child.ask({"do": "fail", "say": "ConnectionError: Failed to sync read"}, 20.0)
    with pytest.raises(DeviceError, match="no such joint") as caught:
        child.ask({"do": "fail", "say": "KeyError: no such joint"}, 20.0)
    assert not isinstance(caught.value, Glitch)
    with pytest.raises(DeviceError, match="has ended"):
        child.ask({"do": "die"}, 20.0)
    started_s = time.monotonic()
    child.close()
    assert time.monotonic() - started_s < 4.0


def test_a_python_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"can't start LeRobot's Python .*correct arm.options.python"
    ):
        LeRobotProcess(str(tmp_path / "python"), tmp_path / "child.py")
