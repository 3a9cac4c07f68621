"""A robot and the CURVE key that its trainer is to have: kept on the signing key's word, taken when the
trainer answers to it, over real sockets; and what somebody with the old CURVE key can do."""

from __future__ import annotations

import contextlib
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from killed_writing import run_killed

from contracts import wire
from contracts.errors import WireError
from contracts.files.keys import KeyStore
from contracts.key_rotation import NEXT_KEY, SERVER_PURPOSE, NextServerKey, announce_next, hex_of
from contracts.messages import AnyMessage, Hello, NextKey, NextKeyStored, RobotKeyStored, Welcome
from contracts.sockets import AllowList, Client, Doorman, KeyPair, Pass, bind_anew, open_socket
from contracts.sockets.curve import new_pair
from runtime.board import LinkState
from runtime.commands import keys as keys_command
from runtime.config import LinkSection, PolicySection, RewardSection, RobotConfig, RobotSection
from runtime.link import sockets as link_sockets
from runtime.link.keys import LinkKeys
from runtime.link.next_key import NextKeyTrial
from runtime.link.sockets import LinkSockets
from runtime.run import Run, RunPlan

NAMES = ("frames", "episodes", "weights", "health")
SIGNING, FOREIGN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
WRITING = """
from pathlib import Path
import msgspec
from contracts.files.keys import KeyStore
from contracts.key_rotation import NextServerKey
store, what = KeyStore(Path(sys.argv[1])), sys.argv[2]
count()
said = msgspec.json.decode(sys.argv[3], type=NextServerKey)
if what == "expect":
    store.expect(said, 9.0)
else:
    store.take_next(said.new)
"""


class Trainer:
    """Whoever has a CURVE key that the robot knows: greets, and says what the test says."""

    def __init__(self, folder: Path, robot_key: str) -> None:
        store = KeyStore(folder / "lab")
        self.first = store.own(make=True)
        store.add(Pass(name="arm", key=robot_key, enrolled_unix_s=1.0))
        self._context = zmq.Context()
        self.door = Doorman(self._context, self.first, load=store.allow_list, stamp=store.stamp)
        self._sockets = {
            name: open_socket(
                self._context, zmq.ROUTER, bind="tcp://127.0.0.1:*", security=self.door
            )
            for name in NAMES
        }
        self.endpoints = {
            name: socket.getsockopt_string(zmq.LAST_ENDPOINT)
            for name, socket in self._sockets.items()
        }
        self.door.start()
        self._robot = b""
        self.hellos = 0
        self.features: tuple[str, ...] = ()
        self.heard: list[AnyMessage] = []

    def turn(self) -> None:
        for name, socket in self._sockets.items():
            with contextlib.suppress(zmq.Again):
                while True:
                    self._take(name, socket.recv_multipart(zmq.NOBLOCK, copy=False))

    def _take(self, name: str, frames: list[zmq.Frame]) -> None:
        assert self.door.admit(frames) is not None
        message = wire.unpack([frame.buffer for frame in frames[1:]]).message
        if not isinstance(message, Hello):
            self.heard.append(message)
            return
        self.hellos += 1
        self._answer(name, frames[0].bytes, Welcome("lab", wire.VERSION, message.features))
        if name == "weights":
            self._robot, self.features = frames[0].bytes, message.features

    def _answer(self, name: str, peer: bytes, message: AnyMessage) -> None:
        self._sockets[name].send_multipart([peer, *wire.pack(message)])

    def say(self, message: AnyMessage) -> None:
        self._answer("weights", self._robot, message)

    def serve_with(self, pair: KeyPair) -> None:
        for name, address in self.endpoints.items():
            bind_anew(self._sockets[name], address, pair)

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close(linger=0)
        self.door.close()
        self._context.term()


class Robot:
    """The link's sockets of an enrolled robot, and a trainer at their other end."""

    def __init__(self, folder: Path) -> None:
        self.store = KeyStore(folder / "robot" / "keys")
        self.trainer = Trainer(folder, self.store.own(make=True).public)
        self.first = self.trainer.first.public
        self.store.add(
            Pass(
                name="lab",
                key=self.first,
                enrolled_unix_s=1.0,
                signing_key=hex_of(SIGNING.public_key()),
            )
        )
        self.folder = folder / "robot"
        self.config = RobotConfig(
            robot=RobotSection(id="arm"),
            policy=PolicySection(package="p"),
            reward=RewardSection(package=""),
            link=LinkSection(**self.trainer.endpoints, curve="always"),
        )
        self._run = Run(
            config=self.config,
            plan=RunPlan(),
            run_dir=str(self.folder),
            shm_dir=str(folder),
            session_id="s1",
        )
        self.start()

    def start(self) -> None:
        self.sockets = LinkSockets(self._run)
        self.refused: list[str] = []

    def turn(self) -> None:
        now_s = time.monotonic()
        self.sockets.tick(now_s)
        for name, parts in self.sockets.poll(1):
            try:
                self.sockets.take(name, wire.unpack(parts).message, now_s)
            except WireError as error:
                self.refused.append(str(error))

    def until(self, what: str, condition: Callable[[], object], timeout_s: float = 40.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}"
            self.turn()
            self.trainer.turn()

    def greeted(self) -> None:
        self.until("the greeting", lambda: self.sockets.state() is LinkState.WELCOME)

    def hears(self, message: NextKey) -> None:
        """One announcement, and what the robot makes of it: it acknowledges or refuses."""
        before = len(self.refused) + len(self.trainer.heard)
        self.trainer.say(message)
        self.until("its verdict", lambda: len(self.refused) + len(self.trainer.heard) > before)

    def following(self, number: int = 1, new: str = "", old: str = "") -> NextServerKey:
        return NextServerKey(
            purpose=SERVER_PURPOSE,
            trainer="lab",
            number=number,
            old=old or self.first,
            new=new or new_pair().public,
            created_unix_s=1.0,
        )

    @property
    def lab(self) -> Pass:
        (lab,) = self.store.passes()
        return lab

    def close(self) -> None:
        self.sockets.close()
        self.trainer.close()


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    monkeypatch.setattr(link_sockets, "SILENT_S", 0.5)
    monkeypatch.setattr(link_sockets, "FAILED_S", 1.0)
    robot = Robot(tmp_path)
    yield robot
    robot.close()


def test_announced_kept_acknowledged_and_taken_when_the_trainer_answers_to_it(
    robot: Robot, capsys: pytest.CaptureFixture[str]
) -> None:
    robot.greeted()
    assert NEXT_KEY in robot.trainer.features
    pair = new_pair()
    robot.hears(announce_next(robot.following(new=pair.public), SIGNING))
    assert robot.trainer.heard == [NextKeyStored("arm", pair.public)]
    assert (robot.lab.key, robot.lab.next_key) == (robot.first, pair.public)

    stamp = robot.store.stamp()
    robot.hears(announce_next(robot.following(new=pair.public), SIGNING))
    assert len(robot.trainer.heard) == 2 and robot.store.stamp() == stamp, "told again"

    robot.trainer.serve_with(pair)
    robot.until("the new key", lambda: robot.lab.key == pair.public)
    assert (robot.lab.next_key, robot.lab.next_number) == ("", 0)
    robot.until("its loss of the old one", lambda: robot.sockets.state() is LinkState.ALONE)
    robot.greeted()
    said = capsys.readouterr().err
    assert said.count("is kept until") == 1 and said.count("is in use now: taken") == 1


def test_a_trainer_that_is_only_away_is_known_by_the_same_key_when_it_is_back(
    robot: Robot,
) -> None:
    robot.greeted()
    robot.hears(announce_next(robot.following(), SIGNING))
    before = robot.lab
    robot.trainer.serve_with(new_pair())  # neither key: as good as away
    robot.until("attempts", lambda: robot.trainer.door.counts["protocol"] >= 4)
    hellos = robot.trainer.hellos
    robot.until("more", lambda: robot.trainer.door.counts["protocol"] >= 14)
    assert robot.trainer.hellos == hellos and robot.lab == before
    robot.trainer.serve_with(robot.trainer.first)
    robot.until("its return", lambda: robot.trainer.hellos >= hellos + 2)
    robot.greeted()
    assert robot.lab == before


def test_a_robot_that_was_off_while_the_key_changed_finds_the_trainer(robot: Robot) -> None:
    robot.greeted()
    pair = new_pair()
    robot.hears(announce_next(robot.following(new=pair.public), SIGNING))
    robot.sockets.close()
    robot.trainer.serve_with(pair)
    robot.start()
    robot.greeted()
    assert robot.lab.key == pair.public


def test_a_trainer_that_answers_to_its_announced_key_may_take_its_time(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`keys rotate` while an announced key waits: once it was welcomed no other key is tried."""
    monkeypatch.setattr(keys_command, "TRIED_S", 2.0)
    robot.greeted()
    robot.sockets.close()
    pair, trainer, done = new_pair(), robot.trainer, threading.Event()
    robot.store.expect(robot.following(new=pair.public), 9.0)
    trainer.serve_with(pair)

    def slowly() -> None:
        while not done.wait(0.005):
            trainer.turn()
            if trainer.heard:
                (key,) = trainer.heard
                assert not done.wait(3 * keys_command.TRIED_S)  # longer than each key is tried
                trainer.say(RobotKeyStored(key.key))
                trainer.heard.clear()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(slowly)
        try:
            keys = LinkKeys(robot.config.link, robot.folder)
            keys_command.announce(robot.config, keys, new_pair().public, answer_s=60.0)
        finally:
            done.set()
            robot.start()
    serving.result()
    assert "is in use now: taken" in capsys.readouterr().out
    assert robot.lab.key == pair.public


def test_who_has_the_old_curve_key_alone_puts_no_key_of_his_in_its_place(
    robot: Robot, capsys: pytest.CaptureFixture[str]
) -> None:
    robot.greeted()
    his, before = new_pair(), robot.lab
    said = robot.following(9, his.public)
    genuine = announce_next(robot.following(3), SIGNING)
    for message in (
        announce_next(said, FOREIGN),
        NextKey(announce_next(said, SIGNING).statement, genuine.signature),
        NextKey(genuine.statement.replace(b"3", b"4", 1), genuine.signature),
        announce_next(said, FOREIGN),
    ):
        robot.hears(message)
    assert robot.sockets.refused == {"signature": 4} and robot.lab == before
    assert not robot.trainer.heard
    robot.trainer.serve_with(his)
    robot.until("attempts", lambda: robot.trainer.door.counts["protocol"] >= 4)
    hellos = robot.trainer.hellos
    robot.until("more", lambda: robot.trainer.door.counts["protocol"] >= 14)
    assert robot.lab == before and robot.trainer.hellos == hellos
    assert capsys.readouterr().err.count("not signed by this trainer's key") == 1


def test_an_old_announcement_is_not_heard_again(robot: Robot) -> None:
    robot.greeted()
    first, second = robot.following(1), robot.following(2)
    for said in (first, second):
        robot.hears(announce_next(said, SIGNING))
    robot.hears(announce_next(first, SIGNING))
    robot.hears(announce_next(robot.following(2), SIGNING))
    robot.hears(announce_next(robot.following(3, old=new_pair().public), SIGNING))
    robot.hears(announce_next(robot.following(3, new=robot.first), SIGNING))
    assert robot.sockets.refused == {"replay": 2, "foreign": 1, "key": 1}
    assert (robot.lab.key, robot.lab.next_key) == (robot.first, second.new)
    assert [m.key for m in robot.trainer.heard if isinstance(m, NextKeyStored)] == [
        first.new,
        second.new,
    ]


def test_a_robot_that_was_left_behind_says_what_to_do_once(
    robot: Robot, capsys: pytest.CaptureFixture[str]
) -> None:
    robot.greeted()
    capsys.readouterr()
    robot.trainer.serve_with(new_pair())
    told: list[str] = []

    def said() -> bool:
        told.append(capsys.readouterr().err)
        return "robot-trainer enroll there with robot-run enroll here" in "".join(told)

    robot.until("a sentence", said)
    count = robot.trainer.door.counts["protocol"]
    robot.until("more attempts", lambda: robot.trainer.door.counts["protocol"] >= count + 8)
    said()
    assert "".join(told).count("makes no connection with this robot's keys") == 1


@pytest.mark.parametrize("left", range(5))
@pytest.mark.parametrize("what", ["expect", "take"])
def test_killed_while_it_writes_a_robot_starts_with_a_key_that_connects(
    robot: Robot, what: str, left: int
) -> None:
    robot.greeted()
    pair = new_pair()
    said = robot.following(new=pair.public)
    robot.sockets.close()
    if what == "take":
        robot.store.expect(said, 9.0)
    text = announce_next(said, SIGNING).statement.decode()
    run_killed(WRITING, robot.store.folder, what, text, left=left)
    known = {robot.lab.key, robot.lab.next_key} - {""}
    if what == "take":
        robot.trainer.serve_with(pair)  # or nothing would have answered to it
        assert pair.public in known
    else:
        assert robot.first in known
    robot.start()
    robot.greeted()
    if what == "expect":
        robot.hears(announce_next(said, SIGNING))
        assert robot.lab.next_key == pair.public
    else:
        assert robot.lab.key == pair.public


def test_the_trial_is_made_again_where_libzmq_gave_it_up(tmp_path: Path) -> None:
    """Another program answered at the trainer's port for a moment."""
    mine, lab = new_pair(), new_pair()
    known = AllowList([Pass(name="arm", key=mine.public, enrolled_unix_s=1.0)])
    other = tcp.create_server(("127.0.0.1", 0))
    address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
    with (
        zmq.Context() as context,
        contextlib.closing(Doorman(context, lab, load=lambda: known)) as door,
        contextlib.closing(
            NextKeyTrial(context, address, Hello("arm", "s1", wire.VERSIONS), 0.3)
        ) as trial,
    ):
        client = Client(mine, lab.public)
        assert not trial.answered(client, time.monotonic())
        end, _ = other.accept()
        other.close()
        end.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(80))
        time.sleep(0.1)
        end.close()
        with open_socket(context, zmq.ROUTER, bind=address, security=door) as bound:
            door.start()
            deadline = time.monotonic() + 5.0
            while not trial.answered(client, time.monotonic()):
                assert time.monotonic() < deadline, "given up"
                if bound.poll(5):
                    bound.send_multipart([bound.recv_multipart()[0], b"anything"])
