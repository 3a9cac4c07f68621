"""Keys from enrolment to revocation with the real programs (`enroll`, `serve`, the link, `keys`), all of it
with pickle, marshal and torch.load made to raise."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from daemon_bench import NO_PICKLE, Robot, Trainer, stored, wait
from tiny_package import make_package

from contracts import wire
from contracts.files.keys import KeyStore, fingerprint
from contracts.files.packages import Package
from contracts.messages import (
    EpisodeStart,
    Goodbye,
    Heartbeat,
    Hello,
    NextKeyStored,
    ReleaseNone,
    ReleaseQuery,
    RobotKey,
    Welcome,
)
from contracts.sockets import Client, Pass, open_socket
from contracts.sockets.curve import new_pair
from runtime.slots import SlotStore
from trainer.server_key import ServerKey
from trainer.signing import SigningKey

ROBOT = "bench-0"
PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained" / "policy-open_drawer"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


@pytest.fixture
def trainer(tmp_path: Path, package: Package) -> Iterator[Trainer]:
    (tmp_path / "trainer").mkdir()
    trainer = Trainer(tmp_path / "trainer", package)
    yield trainer
    if trainer.process is not None:
        trainer.stop(signal.SIGKILL)


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, NO_PICKLE, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def command(*words: object) -> str:
    process = start(*words)
    said, complaint = process.communicate(timeout=90)
    assert process.returncode == 0, complaint
    return said


def code_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.search(r"code (\d{3}) (\d{3})", process.stdout.readline())
    assert found is not None
    return found[1] + found[2]


def asked(
    trainer_root: Path, robot: Path, *more: str, name: str = ROBOT
) -> tuple[subprocess.Popen[str], subprocess.Popen[str], str]:
    """Both ends' commands once they show the code, the trainer's first, and the code."""
    listens = ("--listen", "tcp://127.0.0.1:*", *more)
    there = start("trainer.app", "enroll", "--run-dir", trainer_root, *listens)
    assert there.stderr is not None
    address = there.stderr.readline().split()[-1]
    here = start("runtime.app", "enroll", address, "--run-dir", robot, "--set", f"robot.id={name}")
    code = code_of(here)
    assert code == code_of(there)
    return there, here, code


def enroll(trainer_root: Path, robot: Path, *more: str, name: str = ROBOT) -> None:
    """As two people do: one types y, the other gives the code in another terminal."""
    there, here, code = asked(trainer_root, robot, *more, name=name)
    there_said = command("trainer.app", "enroll", "--run-dir", trainer_root, "--yes-code", code)
    assert "the same" in there_said
    _, complaint = here.communicate("y\n", timeout=60)
    assert here.returncode == 0, complaint
    _, complaint = there.communicate(timeout=60)
    assert there.returncode == 0, complaint


def with_keys(robot: Robot) -> Robot:
    link = msgspec.structs.replace(robot.run.config.link, curve="always")
    config = msgspec.structs.replace(robot.run.config, link=link)
    robot.run = msgspec.structs.replace(robot.run, config=config)
    robot.run.save()
    return robot


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


def signs(root: Path) -> str:
    return fingerprint((root / "trainer.pub").read_text().strip())


class Insider:
    """An enrolled robot's key in the wrong hands: it says what it likes."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        store = KeyStore(trainer.root / "keys")
        pair = new_pair()
        store.add(Pass(name=name, key=pair.public, enrolled_unix_s=1.0))
        self._keys = Client(pair, store.own().public)
        self._endpoints = trainer.endpoints
        self._context = zmq.Context()

    def connect(self, socket: str) -> zmq.Socket[bytes]:
        line = open_socket(
            self._context, zmq.DEALER, connect=self._endpoints[socket], security=self._keys
        )
        assert line.poll(20_000, zmq.POLLOUT), "not let in"
        return line

    def say(self, socket: str, *messages, answer: bool = True):
        with self.connect(socket) as line:
            for message in messages:
                line.send_multipart(wire.pack(message))
            if not answer:
                line.close(linger=2000)
                return None
            return wire.unpack(line.recv_multipart()).message if line.poll(20_000) else None


def answer(line: zmq.Socket[bytes]):
    """The next message."""
    assert line.poll(60_000)
    return wire.unpack(line.recv_multipart()).message


@pytest.mark.timeout(1800)
def test_the_trainers_curve_key_changes_and_only_who_was_away_is_enrolled_again(
    tmp_path: Path, package: Package, trainer: Trainer
) -> None:
    """What docs/security.md says of it, word for word."""
    folder, away = tmp_path / "robot", tmp_path / "away"
    enroll(trainer.root, folder)
    enroll(trainer.root, away, name="bench-1")
    trainer.start(listen__curve="always")
    store = KeyStore(trainer.root / "keys")
    first = store.own()
    robot = with_keys(Robot(folder, package, trainer, ROBOT)).start()
    other = with_keys(Robot(away, package, trainer, "bench-1"))
    keys = ("trainer.app", "keys")
    where = ("--run-dir", trainer.root)
    try:
        for seq in range(3):
            robot.play(seq, success=True)
        wait("a release", lambda: robot.board.staged_policy_seq == 1)
        command(*keys, "rotate-curve", *where)
        wait("its word", lambda: any(r.get("holds") for r in trainer.records("keys")), 90)
        listed = command(*keys, "list", *where)
        assert f"have it: {ROBOT}; not yet: bench-1" in listed

        process = start(*keys, "adopt-curve", *where)
        _, complaint = process.communicate(timeout=90)
        assert process.returncode == 2 and "not yet bench-1" in complaint and "--now" in complaint
        assert store.own() == first

        # The signing key may change meanwhile.
        command(*keys, "rotate", *where)
        pinned = folder / "trainer.pub"
        wait("it", lambda: fingerprint(pinned.read_text().strip()) == signs(trainer.root))
        assert "left behind: bench-1; for each" in command(*keys, "adopt-curve", "--now", *where)
        # Until the daemon has bound anew, a release may still come over the former key.
        passes = KeyStore(folder / "keys").passes
        wait("the new key", lambda: passes()[0].key == store.own().public, 90)
        for seq in range(3, 6):
            robot.play(seq, success=True)
        wait("a release over the new key", lambda: robot.board.staged_policy_seq == 2, 90)
        (lab,) = KeyStore(folder / "keys").passes()
        assert lab.key == store.own().public != first.public and not lab.next_key

        # Who was away stays outside until it is enrolled again, and has lost nothing.
        other.start()
        other.play(0, success=True)
        wait("its spool", lambda: other.spooled)
        assert "enroll it again" in command(*keys, "list", *where)
        enroll(trainer.root, away, name="bench-1")
        wait("what had waited", lambda: ("bench-1", 0) in stored(trainer))

        # Both ends are started anew with what they have on disk.
        assert robot.stop() == 0 and trainer.stop() == 0
        trainer.start(listen__curve="always")
        robot.start()
        robot.play(6, success=True)
        wait("an episode after a restart", lambda: (ROBOT, 6) in stored(trainer))
        assert robot.stop() == 0 and other.stop() == 0 and trainer.stop() == 0
    finally:
        robot.stop(signal.SIGKILL)
        if other.process is not None:
            other.stop(signal.SIGKILL)
    assert [(name, seq) for name, seq in stored(trainer) if name == ROBOT] == [
        (ROBOT, seq) for seq in range(7)
    ]


def test_a_robot_that_enrolls_while_the_trainers_key_changes_is_not_let_in_by_the_one_gone(
    tmp_path: Path,
) -> None:
    root = tmp_path / "trainer"
    there, here, code = asked(root, tmp_path / "robot")
    store = KeyStore(root / "keys")
    server = ServerKey(root, store)
    server.announce("lab", 3.0)
    server.adopt(4.0)
    command("trainer.app", "enroll", "--run-dir", root, "--yes-code", code)
    here.communicate("y\n", timeout=60)
    _, complaint = there.communicate(timeout=60)
    assert there.returncode == 2 and "enroll again" in complaint, complaint
    assert not store.passes()
    enroll(root, tmp_path / "robot")
    (robot,) = store.passes()
    assert robot.holds == store.own().public


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


@pytest.mark.parametrize("adopted", [False, True], ids=["under way", "over"])
def test_a_robot_rotates_its_own_key_while_the_trainers_changes_and_after_it_did(
    tmp_path: Path, trainer: Trainer, adopted: bool
) -> None:
    folder, store = tmp_path / "robot", KeyStore(trainer.root / "keys")
    first, signing = store.own(make=True).public, SigningKey(trainer.root / "releases").public
    robot = KeyStore(folder / "keys")
    old = robot.own(make=True)
    store.add(Pass(name=ROBOT, key=old.public, enrolled_unix_s=1.0, holds=first))
    robot.add(Pass(name="lab", key=first, enrolled_unix_s=1.0, signing_key=signing))
    server = ServerKey(trainer.root, store)
    said = server.announce("lab", 3.0)
    robot.expect(said, 3.0)  # and then it was switched off
    store.note_held(ROBOT, said.new)
    if adopted:
        server.adopt(4.0)
    trainer.start(listen__curve="always")

    settings = ("link.curve=always", f"link.weights={trainer.endpoints['weights']}")
    shared = [word for one in (*settings, f"robot.id={ROBOT}") for word in ("--set", one)]
    told = command("runtime.app", "keys", "rotate", "--run-dir", folder, *shared)
    assert ("in use now: taken" in told) is adopted
    new = robot.own()
    assert new != old and robot.next() is None
    assert {one.key: one.holds for one in store.passes()} == {
        old.public: said.new,
        new.public: said.new,
    }
    if not adopted:
        assert server.adopt(5.0)[1] == [], "it is not asked for its word once more"
    (lab,) = robot.passes()
    assert (lab.key, lab.next_key) == ((said.new, "") if adopted else (first, said.new))
    assert trainer.stop() == 0


def test_a_robots_new_key_and_its_word_that_it_has_the_next_one_come_at_once(
    tmp_path: Path, trainer: Trainer
) -> None:
    store = KeyStore(trainer.root / "keys")
    store.own(make=True)
    trainer.start(listen__curve="always")
    waiting = ServerKey(trainer.root, store).announce("lab", 3.0)
    insider, new = Insider(trainer, "arm-1"), new_pair().public
    with insider.connect("weights") as line:
        for message in (
            hello("arm-1"),
            RobotKey("arm-1", new),
            NextKeyStored("arm-1", waiting.new),
        ):
            line.send_multipart(wire.pack(message))
        wait("its key", lambda: any(one.key == new for one in store.passes()))
        wait("its word", lambda: any(one.holds == waiting.new for one in store.passes()))
    assert trainer.stop() == 0


def test_a_robot_that_knows_no_next_keys_is_told_none_and_goes_on(
    tmp_path: Path, package: Package, trainer: Trainer
) -> None:
    """An older one: it named no such feature. And nobody acknowledges what does not wait, or for another."""
    folder = tmp_path / "robot"
    enroll(trainer.root, folder)
    trainer.start(listen__curve="always")
    store = KeyStore(trainer.root / "keys")
    older = Insider(trainer, "older")
    robot = with_keys(Robot(folder, package, trainer, ROBOT)).start()
    query = ReleaseQuery("older", "policy", package.package_id, 0)
    try:
        with older.connect("weights") as line:
            line.send_multipart(wire.pack(hello("older")))
            assert isinstance(answer(line), Welcome)
            command("trainer.app", "keys", "rotate-curve", "--run-dir", trainer.root)
            wait("the other's word", lambda: trainer.records("keys"), 90)
            # It was told at once: what an older one would have heard comes before this answer.
            line.send_multipart(wire.pack(query))
            assert isinstance(answer(line), ReleaseNone)
            noted = store.passes()
            waiting = store.next()
            assert waiting is not None
            for message in (
                NextKeyStored("older", new_pair().public),
                NextKeyStored(ROBOT, waiting.public),
            ):
                line.send_multipart(wire.pack(message))
            line.send_multipart(wire.pack(query))
            assert isinstance(answer(line), ReleaseNone)
            wait("both refused", lambda: len(trainer.records("malformed")) >= 2)
        assert store.passes() == noted and not next(p for p in noted if p.name == "older").holds
        assert robot.stop() == 0 and trainer.stop() == 0
    finally:
        robot.stop(signal.SIGKILL)


def hello(robot_id: str) -> Hello:
    return Hello(robot_id, "s9", wire.VERSIONS)


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
