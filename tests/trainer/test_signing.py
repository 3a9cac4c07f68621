"""The signing key under the hands of several at once: whatever is looked at, begun or broken off, the chain
that robots follow ends at a key that the trainer holds."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contracts.files import atomic
from contracts.key_rotation import follow
from trainer import keys_command, signing
from trainer.signing import (
    CHAIN_FILE,
    KEY_FILE,
    PUBLIC_KEY_FILE,
    SigningKey,
    read_chain,
    read_public,
)

KILLED = """
import os, sys, time
from pathlib import Path
from trainer.signing import SigningKey
left = int(sys.argv[2])
def counted(real):
    def call(*words):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*words)
    return call
key = SigningKey(Path(sys.argv[1]))
os.replace, os.fsync, os.unlink = counted(os.replace), counted(os.fsync), counted(os.unlink)
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
    subprocess.run([sys.executable, "-c", KILLED, releases, str(left)], check=False, timeout=120)
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
