"""A robot that is let in gives itself a new key: what it may not do with that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from contracts.errors import WireError
from contracts.files.keys import KeyStore
from contracts.messages import RobotKey
from contracts.sockets import Pass, Visitor
from contracts.sockets.curve import new_pair
from trainer.config import LimitsSection, ListenSection
from trainer.door import Door
from trainer.metrics import Metrics

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


def test_who_was_revoked_a_moment_ago_gives_itself_no_new_key(door: Door, store: KeyStore) -> None:
    """The doorman looks at its list a few times a second; this is told within that time."""
    store.revoke("a", 3.0)
    with pytest.raises(WireError, match="not valid"):
        door.renew(Visitor(1, "a", A), RobotKey("a", new_pair().public))
    assert all(one.problem(time.time()) for one in store.passes() if one.name == "a")
