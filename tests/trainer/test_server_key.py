"""The trainer's CURVE key and the next one on disk: whatever is broken off, who knows either gets in."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import zmq
from killed_writing import KILLED, run_killed

from contracts.errors import ConfigError
from contracts.files.keys import KeyStore, write_secret
from contracts.files.lock import locked
from contracts.key_rotation import NextServerKey, read_next
from contracts.sockets import Client, Doorman, Pass, open_socket
from contracts.sockets.curve import new_pair
from trainer import keys_command, server_key
from trainer.door import KEYS_FOLDER
from trainer.server_key import ANNOUNCED, ServerKey
from trainer.signing import SigningKey

WRITING = """
from pathlib import Path
from contracts.files.keys import KeyStore
from trainer.server_key import ServerKey
root, what = Path(sys.argv[1]), sys.argv[2]
key = ServerKey(root, KeyStore(root / "keys"))
count()
if what == "adopt":
    key.adopt(9.0, leave_behind=True)
else:
    key.announce("lab", 5.0, anew=what == "anew")
"""
STEPS = 8
"""At least as many as any of these commands has."""


class Trainer:
    """Its folder, with one robot that is let in, and that robot's."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "trainer"
        self.store = KeyStore(self.root / KEYS_FOLDER)
        self.first = self.store.own(make=True).public
        self.signing = SigningKey(self.root / "releases")
        self.key = ServerKey(self.root, self.store)
        self.robot = KeyStore(folder / "robot" / "keys")
        self.robot.own(make=True)
        self.store.add(self.pass_of("arm", self.robot.own().public))
        signs = self.signing.public
        self.robot.add(Pass(name="lab", key=self.first, enrolled_unix_s=1.0, signing_key=signs))

    def pass_of(self, name: str, key: str) -> Pass:
        return Pass(name=name, key=key, enrolled_unix_s=1.0, holds=self.first)

    def tell(self) -> NextServerKey:
        """As a robot that connects hears it, and acknowledges."""
        message = self.key.told()
        assert message is not None
        said = read_next(message, signing_key=self.signing.public, present=self.known()[0])
        self.robot.expect(said, 2.0)
        self.store.note_held("arm", said.new)
        return said

    def known(self) -> list[str]:
        """What the robot tries, in this order."""
        (lab,) = self.robot.passes()
        return [lab.key, *filter(None, [lab.next_key])]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path)


def lets_in(trainer: Trainer, server: str) -> bool:
    """Whether a daemon that starts now would make a connection with who knows it by that key."""
    with zmq.Context() as inside, zmq.Context() as outside:
        door = Doorman(
            inside, trainer.store.own(), load=trainer.store.allow_list, stamp=trainer.store.stamp
        )
        socket = open_socket(inside, zmq.ROUTER, bind="tcp://127.0.0.1:*", security=door)
        address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        door.start()
        keys = Client(trainer.robot.own(), server)
        robot = open_socket(outside, zmq.DEALER, connect=address, security=keys)
        try:
            for _ in range(200):
                if robot.poll(50, zmq.POLLOUT):
                    return True
                if door.counts["protocol"] >= 2:
                    return False
            raise AssertionError(f"neither let in nor refused: {door.counts}")
        finally:
            robot.close(linger=0)
            socket.close(linger=0)
            door.close()


def broken_off(trainer: Trainer, what: str, left: int) -> None:
    """Killed before its step `left`, or ended where it has no more than that."""
    code = run_killed(WRITING, trainer.root, what, left=left)
    assert left > 0 or code == KILLED, "nothing was killed"
    assert left < STEPS or code == 0, "more steps than are tried"


@pytest.mark.parametrize("left", range(STEPS + 1))
@pytest.mark.parametrize("what", ["announce", "anew", "adopt"])
def test_killed_anywhere_the_robot_knows_what_is_served_and_the_command_can_be_said_again(
    trainer: Trainer, what: str, left: int
) -> None:
    if what != "announce":
        trainer.key.announce("lab", 3.0)
        trainer.tell()
    broken_off(trainer, what, left)
    served = trainer.store.own().public
    assert served in trainer.known()
    assert lets_in(trainer, served)
    if trainer.key.waiting() is not None:
        trainer.tell()  # the daemon goes on telling
    if what != "adopt" or served == trainer.first:
        trainer.key.announce("lab", 6.0)
        said = trainer.tell()
        pair, behind = trainer.key.adopt(9.0)
        assert pair.public == said.new and not behind
    served = trainer.store.own().public
    assert served in trainer.known() and served != trainer.first
    assert lets_in(trainer, served) and not lets_in(trainer, trainer.first)
    assert trainer.store.next() is None and trainer.key.told() is None


def test_the_old_secret_is_gone_once_the_new_one_is_in_use(trainer: Trainer) -> None:
    secret = trainer.store.own().secret
    trainer.key.announce("lab", 3.0)
    trainer.tell()
    trainer.key.adopt(4.0)
    files = [path for path in trainer.root.rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]


def test_it_is_not_taken_into_use_before_every_robot_has_it(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.store.add(trainer.pass_of("away", new_pair().public))
    trainer.store.add(trainer.pass_of("gone", new_pair().public))
    trainer.store.revoke("gone", 2.0)
    with pytest.raises(ConfigError, match=r"no next CURVE key waits.*rotate-curve"):
        keys_command.adopt_curve(trainer.root)
    keys_command.rotate_curve(trainer.root)
    assert "have it: none; not yet: arm, away" in capsys.readouterr().out
    trainer.tell()
    keys_command.list_(trainer.root)
    assert "have it: arm; not yet: away" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"all 2 that are let in, found not yet away.*--now"):
        keys_command.adopt_curve(trainer.root)
    assert trainer.store.own().public == trainer.first
    keys_command.adopt_curve(trainer.root, now=True)
    said = capsys.readouterr().out
    assert "left behind: away; for each robot-trainer enroll here" in said
    keys_command.list_(trainer.root)
    lines = {line.partition(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "enroll it again" in lines["away"] and "enroll it again" not in lines["arm"]
    assert "next key" not in lines


def test_saying_it_twice_changes_nothing_and_anew_is_above_the_one_before(trainer: Trainer) -> None:
    first = trainer.key.announce("lab", 3.0)
    assert trainer.key.announce("lab", 4.0) == first
    trainer.tell()
    again = trainer.key.announce("lab", 2.0, anew=True)  # the clock went back
    assert again.number > first.number and again.new != first.new
    with pytest.raises(ConfigError, match="not yet arm"):
        trainer.key.adopt(5.0)
    trainer.tell()
    assert trainer.known() == [trainer.first, again.new]
    # The record is lost, and with it the number: what comes then is above it all the same.
    (trainer.store.folder / ANNOUNCED).unlink()
    assert trainer.key.waiting() is None
    assert trainer.key.announce("lab", 1e9).number > again.number
    trainer.tell()


def test_a_next_key_that_outlived_the_present_one_is_not_used_again(trainer: Trainer) -> None:
    waited = trainer.key.announce("lab", 3.0)
    (trainer.store.folder / "curve.key").unlink()
    trainer.store.own(make=True)
    assert trainer.key.waiting() is None
    said = trainer.key.announce("lab", 4.0)
    assert said.new != waited.new and said.old == trainer.store.own().public
    assert trainer.key.announce("lab", 5.0) == said
    trainer.store.add(trainer.pass_of("arm", trainer.robot.own().public))
    assert trainer.key.adopt(6.0, leave_behind=True)[0].public == said.new


def test_a_key_taken_into_use_by_another_command_is_the_one_that_the_next_follows(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.key.announce("lab", 3.0)
    adopted = trainer.tell().new

    def late(path: Path) -> contextlib.AbstractContextManager[None]:
        """As where `adopt-curve` has the lock, and this command waits for it."""
        monkeypatch.setattr(server_key, "locked", locked)
        ServerKey(trainer.root, trainer.store).adopt(4.0)
        return locked(path)

    monkeypatch.setattr(server_key, "locked", late)
    said = trainer.key.announce("lab", 5.0, anew=True)
    assert said.old == adopted == trainer.store.own().public
    assert trainer.key.waiting() == said, "or no robot would be told of it"


def test_a_broken_off_announcement_goes_on_with_its_key(trainer: Trainer) -> None:
    pair = trainer.store.next(make=True)
    assert pair is not None
    first = trainer.key.announce("lab", 3.0)
    assert first.new == pair.public
    pair = trainer.store.next(anew=True)
    assert pair is not None and pair.public != first.new
    assert trainer.key.announce("lab", 4.0).new == pair.public


def test_what_is_told_is_by_the_signing_key_of_now(trainer: Trainer) -> None:
    trainer.key.announce("lab", 3.0)
    stamp = trainer.key.stamp()
    SigningKey(trainer.root / "releases").rotate("lab", 4.0)
    assert trainer.key.stamp() != stamp
    message = trainer.key.told()
    assert message is not None
    now = SigningKey(trainer.root / "releases").public
    assert read_next(message, signing_key=now, present=trainer.first).old == trainer.first


def test_a_record_that_is_none_is_said_and_a_folder_without_keys(
    trainer: Trainer, tmp_path: Path
) -> None:
    trainer.key.announce("lab", 3.0)
    write_secret(trainer.store.folder / ANNOUNCED, b"{")
    with pytest.raises(ConfigError, match=r"curve\.announced is malformed.*remove it"):
        keys_command.list_(trainer.root)
    with pytest.raises(ConfigError, match="enroll"):
        keys_command.rotate_curve(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="enroll"):
        keys_command.adopt_curve(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
