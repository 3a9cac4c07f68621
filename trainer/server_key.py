"""The trainer's CURVE key and the one that is to follow it: made, announced, taken into use.

Owns `curve.next` and `curve.announced` beside `curve.key`; who has heard of it stands in the robots' passes.
Each step is on disk, synced, before anybody hears of it: killed anywhere, robots that know the present key or
the next one are let in.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.files.keys import NEXT_SECRET, KeyStore, read_secret, stamp_of, write_secret
from contracts.files.lock import locked
from contracts.key_rotation import SERVER_PURPOSE, NextServerKey, announce_next
from contracts.messages import NextKey
from contracts.sockets import KeyPair
from trainer.signing import KEY_FILE, SigningKey

ANNOUNCED = "curve.announced"
LOCK_FILE = "curve.lock"
MAX_BYTES = 4096


class ServerKey:
    """The keys of the folder `store`, announced by the signing key in the trainer's folder `root`."""

    def __init__(self, root: Path, store: KeyStore) -> None:
        self._root, self._store = root, store
        self._signing: SigningKey | None = None

    def waiting(self) -> NextServerKey | None:
        """What robots are told; None where no next key waits, or none that was announced to the end. Raises
        `ConfigError` for files that are not what they should be, or that others may read."""
        said, new = self._read(), self._store.next()
        if said is None or new is None:
            return None
        return said if (said.old, said.new) == (self._store.own().public, new.public) else None

    def told(self) -> NextKey | None:
        """The same as a message, by the signing key of now. Raises as `waiting`, and `OSError`."""
        said = self.waiting()
        if said is None:
            return None
        atomic.sync(self._store.folder)  # the command may be between its rename and its sync
        if self._signing is None:
            self._signing = SigningKey(self._root / "releases")
        return announce_next(said, self._signing.private())

    @property
    def signer(self) -> str:
        """Hex of the signing key that what `told` said last is by; "" before that."""
        return self._signing.public if self._signing is not None else ""

    def stamp(self) -> object:
        """Changes whenever what `told` says may."""
        folder = self._store.folder
        names = (folder / NEXT_SECRET, folder / ANNOUNCED, self._root / KEY_FILE)
        return self._store.own_stamp(), *map(stamp_of, names)

    def announce(self, trainer: str, now_unix_s: float, *, anew: bool = False) -> NextServerKey:
        """Have a next key wait, and robots told of it; one that waits already stays. `anew`: another in its
        place, which robots that have heard of it forget it for."""
        self._store.own()  # or there is no folder to lock
        with locked(self._store.folder / LOCK_FILE):
            present = self._store.own().public
            waiting, before = self.waiting(), self._read()
            if waiting is not None and not anew:
                return waiting
            # Only a key whose announcement was broken off goes on: one that outlived the present key, or was
            # to follow a former one, is of unknown age, and may be known to others.
            stale = before is not None and before.old != present
            new = self._store.next(make=True, anew=anew or stale)
            assert new is not None
            # Above the one before, and above any that was lost with its file.
            number = max(before.number + 1 if before else 1, int(now_unix_s))
            said = NextServerKey(
                purpose=SERVER_PURPOSE,
                trainer=trainer,
                number=number,
                old=present,
                new=new.public,
                created_unix_s=now_unix_s,
            )
            write_secret(self._store.folder / ANNOUNCED, msgspec.json.encode(said))
        return said

    def holders(self, key: str, now_unix_s: float) -> tuple[list[str], list[str]]:
        """Robots that are let in: those that have said that they hold that key, and the others."""
        valid = [one for one in self._store.passes() if not one.problem(now_unix_s)]
        has = {one.name for one in valid if one.holds == key}
        return sorted(has), sorted({one.name for one in valid} - has)

    def adopt(self, now_unix_s: float, *, leave_behind: bool = False) -> tuple[KeyPair, list[str]]:
        """The next key becomes the present one, whose secret is gone with that; returns it, and the robots
        that are left behind. Raises `ConfigError` where none waits, or robots would be left behind."""
        self._store.own()
        with locked(self._store.folder / LOCK_FILE):
            waiting = self.waiting()
            if waiting is None:
                raise ConfigError(
                    "no next CURVE key waits to be taken into use",
                    remedy="robot-trainer keys rotate-curve makes one and tells the robots",
                )
            has, without = self.holders(waiting.new, now_unix_s)
            if without and not leave_behind:
                raise ConfigError(
                    "not every robot has the next key",
                    expected=f"all {len(has) + len(without)} that are let in",
                    found=f"not yet {', '.join(without)}",
                    remedy="have them connect while robot-trainer serve runs, revoke those that are gone, "
                    "or say --now and enroll those again",
                )
            return self._store.adopt_next(), without

    def _read(self) -> NextServerKey | None:
        """The newest announcement, of a key that waits or was taken into use."""
        path = self._store.folder / ANNOUNCED
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(read_secret(path, MAX_BYTES), type=NextServerKey)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path} is malformed",
                found=str(error),
                remedy=f"remove it, and say robot-trainer keys rotate-curve --run-dir {self._root}",
            ) from error
