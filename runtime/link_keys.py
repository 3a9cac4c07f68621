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
from contracts.key_rotation import follow
from contracts.messages import TrainerKeys
from contracts.sockets import Client, Pass, is_local
from runtime.config import LinkSection

LOOK_S = 1.0


class LinkKeys:
    """Keys of one run folder's link. `client()` is what its sockets connect with."""

    def __init__(
        self, link: LinkSection, run_dir: Path, unix_clock: Callable[[], float] = time.time
    ) -> None:
        self._link, self._unix_clock = link, unix_clock
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
        passes = self.store.passes()
        now_s = self._unix_clock()
        valid = [one for one in passes if not one.problem(now_s)]
        if not valid:
            why = f"{passes[-1].name} is {passes[-1].problem(now_s)}" if passes else "none"
            raise ConfigError(
                f"no trainer to connect to in {self.store.folder}",
                expected="a trainer that this robot was enrolled with",
                found=why,
                remedy="robot-run enroll tcp://<trainer>:<port>, with robot-trainer enroll there",
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
        try:
            pinned = atomic.read_bytes(self.signing_path, 1024).decode("ascii").strip()
        except (atomic.FileError, OSError, UnicodeDecodeError):
            return False
        try:
            newest = follow(pinned, message.statements)
        except ReleaseRejected as error:
            raise WireError(str(error)) from error
        if newest == pinned:
            return False
        atomic.write_bytes(self.signing_path, newest.encode("ascii") + b"\n")
        return True

    def _now(self) -> object:
        return self.store.stamp(), self.store.own_stamp()
