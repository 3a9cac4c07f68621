"""The signing key under the hands of several at once: whatever is looked at, begun or broken off, the chain
that robots follow ends at a key that the trainer holds."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from killed_writing import run_killed
from tiny_package import make_package

from contracts import wire
from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.files.keys import write_secret
from contracts.key_rotation import MAX_CHAIN, announce, follow, hex_of, public_key
from contracts.messages import ReleaseOffer, ReleaseQuery, TrainerKeys
from trainer import keys_command, signing
from trainer.interfaces import Update
from trainer.publisher import Publisher
from trainer.signing import (
    CHAIN_FILE,
    KEY_FILE,
    PUBLIC_KEY_FILE,
    SigningKey,
    read_chain,
    read_public,
    told,
)

ROTATING = """
import time
from pathlib import Path
from trainer.signing import SigningKey
key = SigningKey(Path(sys.argv[1]))
count()
key.rotate("lab", time.time())
"""


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    return tmp_path / "trainer" / "releases"


def test_looking_or_starting_beside_a_rotation_loses_no_key(releases: Path, monkeypatch) -> None:
    """The new key is on disk and not announced yet: what a greeting, `keys list` and `enroll` do then."""
    key = SigningKey(releases)
    pinned, root = key.public, releases.parent
    key.rotate("lab", 1.0)
    real, beside = atomic.write_bytes, []

    def write(path: Path, data: bytes, **given: bool) -> None:
        if path.name == CHAIN_FILE:
            assert len(read_chain(root)) == 1 and read_public(root) == key.public
            keys_command.list_(root)
            beside.append(threading.Thread(target=SigningKey, args=(releases,)))
            beside[0].start()
            beside[0].join(0.5)  # it waits for its turn, or has gone through already
        real(path, data, **given)

    monkeypatch.setattr(signing.atomic, "write_bytes", write)
    key.rotate("lab", 2.0)
    beside[0].join(20)
    found = SigningKey(releases)
    assert follow(pinned, found.chain()) == found.public == read_public(root)


@pytest.mark.parametrize("left", range(12))
def test_killed_anywhere_a_daemon_signs_with_the_key_that_robots_follow_to(
    releases: Path, left: int
) -> None:
    running = SigningKey(releases)
    pinned = running.public
    run_killed(ROTATING, releases, left=left)
    running.private()
    announced = follow(pinned, read_chain(releases.parent))
    assert announced == running.public == read_public(releases.parent)
    again = SigningKey(releases)
    assert again.public == announced == (releases.parent / PUBLIC_KEY_FILE).read_text().strip()
    again.rotate("lab", 2.0)
    assert follow(pinned, again.chain()) == again.public


def test_looking_writes_nothing(tmp_path: Path) -> None:
    keys_command.list_(tmp_path)
    assert read_public(tmp_path) == "" and not read_chain(tmp_path) and not [*tmp_path.iterdir()]
    releases = tmp_path / "trainer" / "releases"
    SigningKey(releases).rotate("lab", 1.0)
    stamps = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in releases.parent.iterdir()}
    assert SigningKey(releases).public == read_public(releases.parent)
    assert len(read_chain(releases.parent)) == 1 and KEY_FILE in stamps
    assert stamps == {
        p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in releases.parent.iterdir()
    }


def release(releases: Path, text: bytes) -> tuple[bytes, Path]:
    """A signature on disk by the key of now."""
    path = releases / f"{text.decode()}.signature"
    atomic.write_bytes(path, SigningKey(releases).private().sign(text))
    return text, path


def test_after_a_leak_nothing_leads_from_the_old_key_and_what_is_on_disk_counts(
    releases: Path,
) -> None:
    """As docs/security.md says it: `keys replace`, not `rotate`."""
    first = release(releases, b"1")
    key = SigningKey(releases)
    pinned = {key.public}
    key.rotate("lab", 1.0)
    pinned.add(key.public)
    second = release(releases, b"2")
    keys_command.replace(releases.parent)
    found = SigningKey(releases)
    assert found.public not in pinned and found.chain() == ()
    assert {follow(one, found.chain()) for one in pinned} == pinned
    for text, path in (first, second):
        public_key(found.public).verify(found.signature_of(text, path), text)
        public_key(found.public).verify(path.read_bytes(), text)
    found.rotate("lab", 2.0)
    keys_command.replace(releases.parent)
    assert SigningKey(releases).signature_of(*second) == second[1].read_bytes()
    atomic.write_bytes(second[1], Ed25519PrivateKey.generate().sign(b"2"))
    with pytest.raises(ConfigError, match=r"not by this trainer.*its number is kept"):
        SigningKey(releases).signature_of(*second)


def test_a_key_that_is_gone_is_no_reason_for_another_that_no_robot_knows(releases: Path) -> None:
    signed = release(releases, b"1")
    key = releases.parent / KEY_FILE
    key.unlink()
    with pytest.raises(ConfigError, match=r"is gone.*robot-trainer keys replace --run-dir"):
        SigningKey(releases)
    keys_command.replace(releases.parent)
    assert SigningKey(releases).signature_of(*signed) == signed[1].read_bytes()


def test_there_is_nothing_to_replace_in_another_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no signing key"):
        keys_command.replace(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_robots_are_told_as_many_rotations_as_they_take_and_who_drops_out_is_said_before(
    releases: Path,
) -> None:
    root, keys = releases.parent, [Ed25519PrivateKey.generate() for _ in range(MAX_CHAIN + 1)]
    chain = [
        announce(*pair, trainer="lab", now_unix_s=86400.0 * (number + 1))
        for number, pair in enumerate(itertools.pairwise(keys))
    ]
    root.mkdir()
    write_secret(root / KEY_FILE, keys[-1].private_bytes_raw())
    (root / CHAIN_FILE).write_bytes(msgspec.json.encode(chain))
    key, pinned = SigningKey(releases), [hex_of(each.public_key()) for each in keys]
    assert follow(pinned[0], told(root)) == key.public
    with pytest.raises(ConfigError, match=r"not here since 1970-01-02.*--leave-behind"):
        keys_command.rotate(root)
    assert SigningKey(releases).public == key.public
    keys_command.rotate(root, leave_behind=True)
    newest = SigningKey(releases).public
    assert follow(pinned[0], told(root)) == pinned[0]
    assert follow(pinned[1], told(root)) == newest != key.public
    with pytest.raises(ConfigError, match="1970-01-03"):
        keys_command.rotate(root)
    parts = wire.pack(TrainerKeys(told(root)))
    assert wire.unpack([bytes(part) for part in parts]).message == TrainerKeys(told(root))


def test_a_running_trainer_offers_by_the_key_that_was_put_in_place(tmp_path: Path) -> None:
    package = make_package(tmp_path / "policy")
    releases = tmp_path / "trainer" / "releases"
    publisher = Publisher(releases, package.manifest)
    update = Update(package.refinable_weights(), 1, {})
    publisher.commit(publisher.prepare(update, 1).publish_seq)
    keys_command.replace(releases.parent)
    offer = publisher.answer_query(ReleaseQuery("arm", "policy", package.package_id, 0), 1)
    assert isinstance(offer, ReleaseOffer)
    newest = read_public(releases.parent)
    public_key(newest).verify(offer.signature, offer.manifest)
    again = Publisher(releases, package.manifest).commit(1)
    public_key(newest).verify(again.signature, again.manifest)
