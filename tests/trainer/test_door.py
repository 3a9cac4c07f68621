"""A robot that is let in gives itself a new key: what it may not do with that. And what robots hear of the
trainer's new keys while a command changes them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.errors import WireError
from contracts.files import atomic, keys
from contracts.files.keys import KeyStore, write_secret
from contracts.files.lock import locked
from contracts.key_rotation import NEXT_KEY, announce, follow, read_next
from contracts.messages import NextKey, RobotKey, TrainerKeys
from contracts.sockets import Pass, Visitor
from contracts.sockets.curve import new_pair
from trainer import door as door_module
from trainer.config import LimitsSection, ListenSection
from trainer.door import Door
from trainer.metrics import Metrics, read_metrics
from trainer.server_key import ServerKey
from trainer.signing import CHAIN_FILE, LOCK_FILE, NEXT_FILE, SigningKey

A, B, GONE = (new_pair().public for _ in range(3))


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    store = KeyStore(tmp_path / "keys")
    store.own(make=True)
    for name, key in (("a", A), ("b", B), ("gone", GONE)):
        store.add(Pass(name=name, key=key, enrolled_unix_s=1.0))
    store.revoke("gone", 2.0)
    return store


@pytest.fixture
def door(tmp_path: Path, store: KeyStore) -> Iterator[Door]:
    with zmq.Context() as context:
        metrics = Metrics(tmp_path / "metrics.jsonl")
        door = Door(context, tmp_path, ListenSection(curve="always"), LimitsSection(), metrics)
        yield door
        door.doorman.close()


@pytest.mark.parametrize("taken", [A, B, GONE], ids=["its own", "another's", "a revoked one"])
def test_no_key_that_is_known_already_becomes_a_robots_new_one(
    door: Door, store: KeyStore, taken: str
) -> None:
    before = store.passes()
    with pytest.raises(WireError, match="known already"):
        door.renew(Visitor(1, "a", A), RobotKey("a", taken))
    store.settle(A)
    assert store.passes() == before
    assert store.allow_list().problem(GONE, time.time()) == "revoked"


def test_a_new_key_told_twice_is_taken_once(door: Door, store: KeyStore) -> None:
    new = new_pair().public
    message = RobotKey("a", new)
    for _ in range(2):
        assert door.renew(Visitor(1, "a", A), message).key == new
    assert [one.key for one in store.passes() if one.name == "a"] == [A, new]
    store.settle(new)
    assert [one.key for one in store.passes() if one.name == "a"] == [new]


def test_a_new_key_has_its_robots_word_on_the_next_one_also_where_both_come_at_once(
    door: Door, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, new = (new_pair().public for _ in range(2))

    def late(path: Path) -> contextlib.AbstractContextManager[None]:
        """As where the acknowledgement has the lock, and the new key waits for it."""
        monkeypatch.setattr(keys, "locked", locked)
        assert store.note_held("a", held)
        return locked(path)

    monkeypatch.setattr(keys, "locked", late)
    door.renew(Visitor(1, "a", A), RobotKey("a", new))
    mine = {one.key: one.holds for one in store.passes() if one.name == "a"}
    assert mine == {A: held, new: held}


def test_who_was_revoked_a_moment_ago_gives_itself_no_new_key(door: Door, store: KeyStore) -> None:
    """The doorman looks at its list a few times a second; this is told within that time."""
    store.revoke("a", 3.0)
    with pytest.raises(WireError, match="not valid"):
        door.renew(Visitor(1, "a", A), RobotKey("a", new_pair().public))
    assert all(one.problem(time.time()) for one in store.passes() if one.name == "a")


def believed(heard: list[TrainerKeys | NextKey], pinned: str, store: KeyStore) -> str:
    """The next key (Z85) that a robot with that signing key takes of a chain and a next key after it."""
    chain, message = heard
    assert isinstance(chain, TrainerKeys) and isinstance(message, NextKey)
    newest = follow(pinned, chain.statements)
    return read_next(message, signing_key=newest, present=store.own().public).new


def test_who_greets_right_after_a_rotation_hears_a_next_key_by_the_end_of_the_chain(
    door: Door, store: KeyStore, tmp_path: Path
) -> None:
    waiting = ServerKey(tmp_path, store).announce("lab", 3.0)
    signing = SigningKey(tmp_path / "releases")
    pinned = signing.public
    assert [type(one) for one in door.news()] == [NextKey]
    assert door.to_tell(()) == []
    for _ in range(2):
        signing.rotate("lab", 4.0)
        assert believed(door.to_tell((NEXT_KEY,)), pinned, store) == waiting.new
    # Those that are connected hear it as well, though the one who greeted made the door look.
    assert believed(door.news(), pinned, store) == waiting.new
    assert door.news() == []


def test_in_the_midst_of_a_rotation_no_next_key_is_told(
    door: Door, store: KeyStore, tmp_path: Path
) -> None:
    ServerKey(tmp_path, store).announce("lab", 3.0)
    signing = SigningKey(tmp_path / "releases")
    pinned, old, new = signing.public, signing.private(), Ed25519PrivateKey.generate()
    assert [type(one) for one in door.news()] == [NextKey]
    with locked(tmp_path / LOCK_FILE):
        write_secret(tmp_path / NEXT_FILE, new.private_bytes_raw())
        statement = announce(old, new, trainer="lab", now_unix_s=4.0)
        atomic.write_bytes(tmp_path / CHAIN_FILE, msgspec.json.encode((statement,)))
        assert [type(one) for one in door.to_tell((NEXT_KEY,))] == [TrainerKeys]
        waiting = ServerKey(tmp_path, store).announce("lab", 5.0, anew=True)
        told = door.news()
        assert [type(one) for one in told] == [TrainerKeys]
    SigningKey(tmp_path / "releases")  # it ends
    assert believed([*told, *door.news()], pinned, store) == waiting.new


def test_who_could_not_keep_the_new_signing_key_hears_of_it_again(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A robot whose disk was full refused every release from then on."""
    SigningKey(tmp_path / "releases").rotate("lab", 3.0)
    (first,) = door.news()
    assert door.news() == []
    monkeypatch.setattr(door_module, "TELL_AGAIN_S", 0.0)
    assert door.news() == [first] and door.news() == [first]


def test_a_chain_that_is_damaged_while_it_serves_ends_no_daemon(door: Door, tmp_path: Path) -> None:
    """Looking at it did; a start afterwards did not look."""
    chain = tmp_path / CHAIN_FILE
    chain.write_bytes(b"[")
    assert door.news() == [] and door.news() == []
    noted = [r for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "keys"]
    assert len(noted) == 1 and "malformed" in noted[0]["problem"]
    chain.unlink()
    SigningKey(tmp_path / "releases").rotate("t", 1.0)
    assert [type(one) for one in door.news()] == [TrainerKeys]
