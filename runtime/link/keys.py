"""The robot's side of keys: which pair the link connects with, to which trainer, and whose releases it takes.

Owns no socket. Files may change while the link runs (`robot-run enroll`, `keys`): it looks once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from contracts.errors import ConfigError, ReleaseRejected, WireError
from contracts.files import atomic
from contracts.files.keys import KeyStore
from contracts.key_rotation import follow, read_next
from contracts.messages import NextKey, TrainerKeys
from contracts.sockets import Client, Pass, is_local
from runtime.config import LinkSection
from runtime.weights.slots import opened

LOOK_S = 1.0


class LinkKeys:
    """Keys of one run folder's link. `client()` is what its sockets connect with."""

    def __init__(
        self, link: LinkSection, run_dir: Path, unix_clock: Callable[[], float] = time.time
    ) -> None:
        self._link, self._unix_clock, self._run_dir = link, unix_clock, run_dir
        self.store = KeyStore(run_dir / link.keys)
        self.signing_path = run_dir / link.trainer_key
        self._stamp = self._now()
        self._looked_s = 0.0

    @property
    def needed(self) -> bool:
        named = (self._link.frames, self._link.episodes, self._link.weights, self._link.health)
        return self._link.curve == "always" or not all(is_local(address) for address in named)

    def client(self) -> Client | None:
        """None where no address needs keys. Raises `ConfigError` where there are none, or others may read
        them, or the trainer's is not valid any more."""
        if not self.needed:
            return None
        return Client(self.store.own(), self.trainer().key)

    def trainer(self) -> Pass:
        """The trainer that was enrolled last. Raises `ConfigError` without a valid one."""
        valid = self._valid()
        if not valid:
            passes, now_s = self.store.passes(), self._unix_clock()
            why = f"{passes[-1].name} is {passes[-1].problem(now_s)}" if passes else "none"
            raise ConfigError(
                f"no trainer to connect to in {self.store.folder}",
                expected="a trainer that this robot was enrolled with",
                found=why,
                remedy=f"robot-run enroll tcp://<trainer>:<port> --run-dir {self._run_dir}, with "
                "robot-trainer enroll there",
            )
        return valid[-1]

    def changed(self, now_s: float) -> bool:
        """True once after keys or passes were replaced; looks at most once a second."""
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        stamp, before = self._now(), self._stamp
        self._stamp = stamp
        return stamp != before

    def follow(self, message: TrainerKeys) -> bool:
        """Take the signing key that the chain leads to; whether it is another one. Raises `WireError` for a
        chain that is not to be believed. Where no key was ever pinned nothing is taken."""
        pinned = self.pinned()
        if not pinned:
            return False
        try:
            newest = follow(pinned, message.statements)
            if newest == pinned:
                return False
            # In this order: killed in between, the same chain leads there again.
            self.store.follow(pinned, newest)
        except (ReleaseRejected, ConfigError) as error:
            raise WireError(str(error)) from error
        self._write_pinned(newest)
        return True

    def expect(self, message: NextKey) -> str:
        """Keep the CURVE key that the trainer announced as its next one; returns it once it is on disk.
        Raises `ReleaseRejected` for an announcement that is not to be believed, `ConfigError` without a
        trainer."""
        trainer = self.trainer()
        said = read_next(message, signing_key=trainer.signing_key, present=trainer.key)
        self.store.expect(said, self._unix_clock())
        return said.new

    def next_client(self) -> Client | None:
        """What connects to the trainer once its next key is in use; None where none was announced, or this
        robot has no trainer."""
        try:
            following = self.trainer().next_key
            return Client(self.store.own(), following) if following else None
        except ConfigError:
            return None

    def pinned(self) -> str:
        """The key (hex) that releases are taken by; "" for none."""
        try:
            return atomic.read_bytes(self.signing_path, 1024).decode("ascii").strip()
        except (atomic.FileError, OSError, UnicodeDecodeError):
            return ""

    def pin(self, signing_key: str) -> list[int]:
        """Take releases by that key from now on, "": by none. What waits here by another one never acts;
        returns the numbers of those."""
        if signing_key == self.pinned():
            return []
        if signing_key:
            self._write_pinned(signing_key)
        else:
            self.signing_path.unlink(missing_ok=True)
            atomic.sync(self.signing_path.parent)
        dropped: list[int] = []
        for store in opened(self._run_dir).values():
            dropped += store.quarantine_waiting("its trainer's key is not trusted any more")
        return dropped

    def revoke(self, name: str) -> list[int]:
        """Connect to that trainer no more. Releases are taken as before where another one signs them, else
        from the one enrolled last that is left; returns what waited and never acts. Raises `ConfigError`
        where no trainer of that name is valid."""
        if not any(one.name == name and not one.revoked_unix_s for one in self.store.passes()):
            raise ConfigError(
                f"no trainer '{name}' to revoke",
                remedy="robot-run keys list names those there are",
            )
        left = [one.signing_key for one in self._valid() if one.name != name and one.signing_key]
        # First, so that broken off it can be said again.
        dropped = [] if self.pinned() in left else self.pin(left[-1] if left else "")
        self.store.revoke(name, self._unix_clock())
        return dropped

    def _valid(self) -> list[Pass]:
        now_s = self._unix_clock()
        return [one for one in self.store.passes() if not one.problem(now_s)]

    def _write_pinned(self, signing_key: str) -> None:
        atomic.write_bytes(self.signing_path, signing_key.encode("ascii") + b"\n")

    def _now(self) -> object:
        return self.store.stamp(), self.store.own_stamp()
