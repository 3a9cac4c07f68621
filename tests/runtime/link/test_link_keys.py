"""Whose releases a robot takes when trainers change: what docs/security.md tells people to do, done."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.enrolment import PROTOCOL, Commitment
from contracts.errors import ConfigError
from contracts.files.keys import KeyStore
from contracts.key_rotation import announce, hex_of
from contracts.messages import TrainerKeys
from contracts.release import ReleaseManifest
from contracts.sockets.curve import new_pair
from runtime.commands import enroll as enroll_command
from runtime.commands import keys as keys_command
from runtime.config import load_config
from runtime.link.keys import LinkKeys
from runtime.weights.slots import SlotStore

CONFIG = load_config(None, [])
KEYS = {name: Ed25519PrivateKey.generate() for name in ("old", "new", "newer")}
HEX = {name: hex_of(key.public_key()) for name, key in KEYS.items()}


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    KeyStore(tmp_path / CONFIG.link.keys).own(make=True)
    return tmp_path


def enroll(robot: Path, name: str, signing_key: str, days: float = 0) -> list[str]:
    said = Commitment(PROTOCOL, name, new_pair().public, signing_key, b"")
    return enroll_command.keep(CONFIG, robot, said, 1.0, days)


def keys(robot: Path) -> LinkKeys:
    return LinkKeys(CONFIG.link, robot)


def taken_from(robot: Path) -> str:
    path = robot / CONFIG.link.trainer_key
    return path.read_text().strip() if path.exists() else ""


def waiting(robot: Path) -> SlotStore:
    """A release that acts, one that is staged, and one that is arriving."""
    store = SlotStore(robot / "slots" / "policy", "p")
    for seq in (1, 2, 3):
        manifest = ReleaseManifest(
            *("policy", "p", seq, 0, 0, f"w{seq}", "a" * 64, 3, (), 1, (), "", 0.0, 1e12, "t")
        )
        name, _ = store.begin_fetch(manifest, 0.0)
        store.partial_path(name).write_bytes(b"abc")
        if seq < 3:
            store.mark_verified(name, 0.0, 3)
            store.mark_staged(name, 0.0)
        if seq == 1:
            store.begin_shadow(name)
            store.begin_probation(name)
            store.commit(name)
    return store


def states(store: SlotStore) -> dict[int, str]:
    return {s.publish_seq: s.state for s in store.state().slots.values() if s.publish_seq}


def test_a_trainer_is_replaced_as_documented(robot: Path, capsys) -> None:
    enroll(robot, "old", HEX["old"])
    assert enroll(robot, "new", HEX["new"]) == []
    keys_command.revoke("old", robot)
    assert taken_from(robot) == HEX["new"] and keys(robot).trainer().name == "new"
    assert "taken from: nobody" not in capsys.readouterr().out


def test_a_rotation_heard_of_in_between_changes_nothing_of_that(robot: Path) -> None:
    enroll(robot, "old", HEX["old"])
    enroll(robot, "new", HEX["new"])
    step = announce(KEYS["new"], KEYS["newer"], trainer="new", now_unix_s=1.0)
    assert keys(robot).follow(TrainerKeys((step,)))
    assert not keys(robot).follow(TrainerKeys((step,)))
    keys_command.revoke("old", robot)
    assert taken_from(robot) == HEX["newer"]
    keys_command.revoke("new", robot)
    assert taken_from(robot) == ""


def test_the_one_that_is_left_is_believed_again(robot: Path) -> None:
    enroll(robot, "old", HEX["old"])
    enroll(robot, "new", HEX["new"])
    keys_command.revoke("new", robot)
    assert taken_from(robot) == HEX["old"] and keys(robot).trainer().name == "old"
    keys_command.revoke("old", robot)
    assert taken_from(robot) == "" and keys(robot).pinned() == ""
    with pytest.raises(ConfigError, match="no trainer 'old'"):
        keys_command.revoke("old", robot)


def test_another_trainer_of_the_same_name_is_said_to_be_one(robot: Path) -> None:
    enroll(robot, "lab", HEX["old"])
    (said,) = enroll(robot, "lab", HEX["new"])
    assert "another 'lab'" in said and taken_from(robot) == HEX["new"]
    assert len(KeyStore(robot / CONFIG.link.keys).passes()) == 1


def test_what_waited_when_its_trainer_was_revoked_never_acts(robot: Path, capsys) -> None:
    enroll(robot, "lab", HEX["old"])
    store = waiting(robot)
    keys_command.revoke("lab", robot)
    assert states(store) == {1: "committed", 2: "quarantined", 3: "quarantined"}
    assert "2, 3" in capsys.readouterr().out
    assert store.find("staged", "verified", "fetching") is None
    # A link that was in the middle of number 3 comes to its end all the same.
    (name,) = [n for n, s in store.state().slots.items() if s.publish_seq == 3]
    store.mark_verified(name, 0.0, 3)
    store.mark_staged(name, 0.0)
    assert states(store)[3] == "quarantined"


def test_a_release_that_is_being_checked_when_its_trainer_is_revoked_never_acts(
    robot: Path,
) -> None:
    """Made ready beside an episode it is in shadow long before it would act."""
    enroll(robot, "lab", HEX["old"])
    store = waiting(robot)
    (name,) = [n for n, s in store.state().slots.items() if s.state == "staged"]
    store.begin_shadow(name)
    keys_command.revoke("lab", robot)
    assert not store.begin_probation(name)
    assert states(store) == {1: "committed", 2: "quarantined", 3: "quarantined"}


def test_what_waited_goes_when_another_is_enrolled_and_not_when_the_former_is_revoked(
    robot: Path,
) -> None:
    enroll(robot, "old", HEX["old"])
    store = waiting(robot)
    assert "[2, 3]" in enroll(robot, "new", HEX["new"])[0]
    manifest = ReleaseManifest(
        *("policy", "p", 4, 0, 0, "w4", "a" * 64, 3, (), 1, (), "", 0.0, 1e12, "t")
    )
    store.begin_fetch(manifest, 0.0)
    keys_command.revoke("old", robot)
    assert states(store)[4] == "fetching"
    enroll(robot, "new", HEX["new"])
    assert states(store)[4] == "fetching", "the same key once more"


def test_rotating_before_any_enrolment_is_refused_and_in_no_ones_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="enroll"):
        keys_command.rotate(tmp_path, None, ["link.curve=always"])
    store = KeyStore(tmp_path / CONFIG.link.keys)
    assert not store.folder.exists()
    store.next(make=True)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    store.own(make=True)
    assert store.adopt_next() == store.own()


def test_a_key_that_can_not_be_used_is_told_with_what_helps(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys")
    first = store.own(make=True)
    path = store.folder / "curve.key"
    path.chmod(0o644)
    with pytest.raises(ConfigError) as others:
        store.own()
    assert "chmod 600" in str(others.value) and "makes one" not in str(others.value)
    path.chmod(0o600)
    path.write_text("x" * 39)
    with pytest.raises(ConfigError, match="delete it, and enroll again"):
        store.own(make=True)
    path.unlink()
    with pytest.raises(ConfigError, match=r"no key at .*robot-run enroll"):
        store.own()
    assert store.own(make=True) != first
