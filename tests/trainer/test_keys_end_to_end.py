"""Keys from enrolment to revocation with the real programs (`enroll`, `serve`, the link, `keys`), all of it
with pickle, marshal and torch.load made to raise."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_bench import NO_PICKLE, Robot, Trainer, package, stored, trainer, wait
from keyed_programs import (
    PRETRAINED,
    ROBOT,
    Insider,
    asked,
    command,
    enroll,
    hello,
    signs,
    start,
    with_keys,
)

from contracts.files.keys import KeyStore
from contracts.files.packages import Package
from contracts.messages import (
    EpisodeStart,
    Goodbye,
    Heartbeat,
    RobotKey,
)
from contracts.sockets.curve import new_pair
from runtime.weights.slots import SlotStore

__all__ = ["package", "trainer"]


def test_from_enrolment_to_revocation_and_back(
    tmp_path: Path, package: Package, trainer: Trainer
) -> None:
    folder = tmp_path / "robot"
    enroll(trainer.root, folder)
    trainer.start(listen__curve="always")
    robot = with_keys(Robot(folder, package, trainer, ROBOT)).start()
    try:
        for seq in range(3):
            robot.play(seq, success=True)
        wait("a release over CURVE", lambda: robot.board.staged_policy_seq == 1)

        # The trainer signs with another key from now on; the robot takes it on the old one's word.
        before = (folder / "trainer.pub").read_text()
        command("trainer.app", "keys", "rotate", "--run-dir", trainer.root)
        wait("the new signing key", lambda: (folder / "trainer.pub").read_text() != before)
        for seq in range(3, 6):
            robot.play(seq, success=True)
        wait("a release by the new key", lambda: robot.board.staged_policy_seq == 2)

        # The robot's own key, while everything runs.
        store = KeyStore(trainer.root / "keys")
        (old,) = store.passes()
        settings = (
            "link.curve=always",
            f"link.weights={trainer.endpoints['weights']}",
            f"robot.id={ROBOT}",
        )
        shared = [word for one in settings for word in ("--set", one)]
        command("runtime.app", "keys", "rotate", "--run-dir", folder, *shared)
        robot.play(6, success=True)
        wait("an episode under the new key", lambda: (ROBOT, 6) in stored(trainer))
        wait("the old key's end", lambda: len(store.passes()) == 1)
        assert store.passes()[0].key != old.key

        listed = command("trainer.app", "keys", "list", "--run-dir", trainer.root)
        assert f"{ROBOT}: " in listed and "good" in listed
        command("trainer.app", "keys", "revoke", ROBOT, "--run-dir", trainer.root)
        wait("its refusal", lambda: trainer.records("robot")[-1]["state"] == "lost")
        robot.play(7, success=True)
        wait("its spool", lambda: robot.spooled)
        assert (ROBOT, 7) not in stored(trainer)

        enroll(trainer.root, folder)
        wait("what had waited", lambda: (ROBOT, 7) in stored(trainer))
        assert robot.stop() == 0 and trainer.stop() == 0
    finally:
        robot.stop(signal.SIGKILL)
    assert stored(trainer) == [(ROBOT, seq) for seq in range(8)], "nothing lost, nothing twice"
    counts = trainer.records("door")[-1]["counts"]
    assert counts["cut off"] and counts["revoked"]


def test_after_a_leak_and_with_another_trainer_releases_come_as_documented(
    tmp_path: Path, package: Package, trainer: Trainer
) -> None:
    """What docs/security.md says under "what to do when", word for word."""
    folder = tmp_path / "robot"
    enroll(trainer.root, folder)
    trainer.start(listen__curve="always")
    robot = with_keys(Robot(folder, package, trainer, ROBOT)).start()
    other = Trainer(tmp_path / "other", package)
    try:
        for seq in range(3):
            robot.play(seq, success=True)
        wait("a release", lambda: robot.board.staged_policy_seq == 1)

        # The signing key may have leaked.
        name = socket.gethostname()
        said = command("runtime.app", "keys", "revoke", name, "--run-dir", folder)
        assert "taken from: nobody" in said and "1" in said
        assert trainer.stop() == 0
        command("trainer.app", "keys", "replace", "--run-dir", trainer.root)
        assert f"releases are signed by: {signs(trainer.root)}" in command(
            "trainer.app", "keys", "list", "--run-dir", trainer.root
        )
        trainer.start(listen__curve="always")
        enroll(trainer.root, folder)
        for seq in range(3, 6):
            robot.play(seq, success=True)
        wait("a release by the new key", lambda: robot.board.staged_policy_seq == 2)
        slots = SlotStore.open(folder / "slots" / "policy").state().slots.values()
        assert {s.publish_seq: s.state for s in slots if s.publish_seq} == {
            1: "quarantined",
            2: "staged",
        }

        # The trainer is replaced.
        assert trainer.stop() == 0
        other.endpoints = trainer.endpoints
        other.root.mkdir()
        enroll(other.root, folder, "--name", "other")
        command("runtime.app", "keys", "revoke", name, "--run-dir", folder)
        assert "newest release seen 2" in command(
            "runtime.app", "slots", "list", "--run-dir", folder
        )
        other.start(listen__curve="always", release__above=2)
        for seq in range(6, 9):
            robot.play(seq, success=True)
        wait("a release of the other trainer", lambda: robot.board.staged_policy_seq == 3)
        assert robot.stop() == 0 and other.stop() == 0
    finally:
        robot.stop(signal.SIGKILL)
        if other.process is not None:
            other.stop(signal.SIGKILL)
    assert stored(trainer) + stored(other) == [(ROBOT, seq) for seq in range(9)]


def test_who_enrolls_under_a_known_name_is_told_whose_place_it_would_take(tmp_path: Path) -> None:
    root = tmp_path / "trainer"
    enroll(root, tmp_path / "robot")
    before = KeyStore(root / "keys").passes()
    there, here, _ = asked(root, tmp_path / "another")
    assert there.stdout is not None
    assert f"a robot '{ROBOT}' is let in already" in there.stdout.readline()
    there.communicate("n\n", timeout=60)
    here.communicate("n\n", timeout=60)
    assert KeyStore(root / "keys").passes() == before


def test_a_robots_key_speaks_for_that_robot_alone(tmp_path: Path, trainer: Trainer) -> None:
    KeyStore(trainer.root / "keys").own(make=True)
    trainer.start(listen__curve="always")
    insider = Insider(trainer, "arm-1")
    answer = insider.say("episodes", hello("arm-2"))
    assert isinstance(answer, Goodbye) and answer.reason == "identity"
    foreign = Heartbeat("arm-2", "s9", 1, "running", 0, 0, 30.0, 0.0, 0, 0, 0)
    insider.say("health", foreign, answer=False)
    start_of = EpisodeStart("arm-2", "s9", 0, "", "", "refine", 0, "", 0, "", -1, 0.0)
    insider.say("frames", start_of, answer=False)
    wait("both", lambda: len([r for r in trainer.records("malformed")]) >= 2)
    stolen = insider.say("weights", hello("arm-1"), RobotKey("arm-2", new_pair().public))
    assert stolen is None or not hasattr(stolen, "key")
    assert trainer.stop() == 0
    counts = trainer.records("door")[-1]["counts"]
    assert counts["another robot's id"] >= 3
    assert not trainer.records("robot") and len(KeyStore(trainer.root / "keys").passes()) == 1


def test_off_loopback_nothing_is_bound_without_keys(tmp_path: Path) -> None:
    words = ["trainer.app", "serve", "--run-dir", tmp_path / "t", "--set", "refiner.kind=''"]
    words += ["--set", "reward.model=success", "--set", "listen.frames=tcp://192.0.2.77:5701"]
    process = start(*words)
    _, complaint = process.communicate(timeout=90)
    assert process.returncode == 2 and "robot-trainer enroll" in complaint, complaint
    assert not (tmp_path / "t" / "endpoints.json").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "import pickle; pickle.loads(b'')",
        "import pickle; pickle.Unpickler(None)",
        "import marshal; marshal.loads(b'i\\0\\0\\0\\0')",
        "import torch; torch.load('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
    ],
)
def test_the_trap_of_these_tests_springs(statement: str) -> None:
    command_line = [sys.executable, NO_PICKLE, "-c", statement]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "code out of data" in done.stderr


def test_a_robot_without_the_keys_that_it_needs_does_not_start(tmp_path: Path) -> None:
    words = ["runtime.app", "start", "--run-dir", tmp_path / "r", "--package", PRETRAINED]
    process = start(*words, "--set", "link.weights=tcp://192.0.2.77:5703")
    _, complaint = process.communicate(timeout=90)
    assert process.returncode == 2 and "enroll" in complaint, complaint
    assert not (tmp_path / "r" / "logs").exists()
