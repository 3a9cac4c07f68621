"""The trainer's key changes and robots' keys rotate while both run: the real programs, without pickle."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from daemon_bench import Robot, Trainer, package, stored, trainer, wait
from keyed_programs import (
    ROBOT,
    Insider,
    answer,
    asked,
    command,
    enroll,
    hello,
    signs,
    start,
    with_keys,
)

from contracts import wire
from contracts.files.keys import KeyStore, fingerprint
from contracts.files.packages import Package
from contracts.messages import (
    NextKeyStored,
    ReleaseNone,
    ReleaseQuery,
    RobotKey,
    Welcome,
)
from contracts.sockets import Pass
from contracts.sockets.curve import new_pair
from trainer.server_key import ServerKey
from trainer.signing import SigningKey

__all__ = ["package", "trainer"]


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
