"""Keys on disk: a folder that only its owner may enter, own secrets, and the passes of others.

Owns permissions and the file of passes; knows nothing of sockets. Every change is atomic, synced and under a
lock, since a command may change what a running daemon reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts.errors import ConfigError, ReleaseRejected
from contracts.files import atomic
from contracts.files.lock import locked
from contracts.key_rotation import NextServerKey
from contracts.sockets.admission import AllowList, Pass
from contracts.sockets.curve import KeyPair, checked, new_pair, pair_of

FOLDER_MODE, SECRET_MODE = 0o700, 0o600
CURVE_SECRET, NEXT_SECRET, PASSES, LOCK = "curve.key", "curve.next", "passes.json", ".lock"
MAX_PASSES_BYTES = 1024 * 1024
MAX_NAME = 64


class KeyStore:
    """`<run folder>/keys`: `curve.key` (secret, Z85) and `passes.json` (whom this end knows)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._passes = folder / PASSES

    @property
    def present(self) -> bool:
        """Whether this end has a key of its own."""
        return (self.folder / CURVE_SECRET).exists()

    def own(self, *, make: bool = False) -> KeyPair:
        """This end's CURVE pair; `make`: on first use. Raises `ConfigError` where it is missing or where
        others may read it."""
        path = self.folder / CURVE_SECRET
        if make and not path.exists():
            make_private(self.folder)
            with self._locked():
                if not path.exists():
                    write_secret(path, new_pair().secret.encode("ascii"))
        return self._pair(path)

    def next(self, *, make: bool = False, anew: bool = False) -> KeyPair | None:
        """The pair that is to replace the own one, once the other end knows it. `make`: where there is none;
        `anew`: another one even where one waits."""
        path = self.folder / NEXT_SECRET
        if anew or (make and not path.exists()):
            make_private(self.folder)
            with self._locked():
                if anew or not path.exists():
                    write_secret(path, new_pair().secret.encode("ascii"))
        return self._pair(path) if path.exists() else None

    def adopt_next(self) -> KeyPair:
        """The next pair becomes the own one. Raises `ConfigError` if there is none."""
        path = self.folder / NEXT_SECRET
        pair = self._pair(path)
        os.replace(path, self.folder / CURVE_SECRET)
        atomic.sync(self.folder)
        return pair

    def _pair(self, path: Path) -> KeyPair:
        check_private(self.folder)
        if not path.exists():
            raise ConfigError(
                f"no key at {path}", remedy="robot-run enroll and robot-trainer enroll make one"
            )
        data = read_secret(path)
        try:
            return pair_of(data.decode("ascii").strip())
        except (ConfigError, UnicodeDecodeError) as error:
            again = "enroll" if path.name == CURVE_SECRET else "rotate"
            raise ConfigError(
                f"{path} is no usable key", found=error, remedy=f"delete it, and {again} again"
            ) from error

    # Whom this end knows.

    def passes(self) -> tuple[Pass, ...]:
        """Oldest first. Raises `ConfigError` for a file that others may write or that is malformed."""
        if not self._passes.exists():
            return ()
        check_private(self.folder)
        data = read_secret(self._passes, MAX_PASSES_BYTES)
        try:
            found = msgspec.json.decode(data, type=tuple[Pass, ...])
            for one in found:
                for key in (one.key, *filter(None, (one.next_key, one.holds))):
                    checked(key)
        except (msgspec.MsgspecError, ValueError, RecursionError, ConfigError) as error:
            raise ConfigError(
                f"{self._passes} is malformed", found=str(error), remedy="enroll again"
            ) from error
        return found

    def allow_list(self) -> AllowList:
        return AllowList(self.passes())

    def stamp(self) -> object:
        """Changes whenever the file of passes was replaced."""
        return stamp_of(self._passes)

    def own_stamp(self) -> object:
        """Changes whenever this end's own key was replaced."""
        return stamp_of(self.folder / CURVE_SECRET)

    def add(self, new: Pass) -> None:
        """`new` replaces every other pass of that name, or only waits beside the one that it `replaces`."""
        check_name(new.name)
        checked(new.key)

        def edit(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            kept = [
                one
                for one in passes
                if one.key != new.key and (one.name != new.name or one.key == new.replaces)
            ]
            return (*kept, new)

        self._edit(edit)

    def settle(self, key: str) -> None:
        """That key was used: the one that it replaces ends."""

        def edit(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            ends = {one.replaces for one in passes if one.key == key} - {""}
            return tuple(
                msgspec.structs.replace(one, replaces="") if one.key == key else one
                for one in passes
                if one.key not in ends
            )

        self._edit(edit)

    def renew(self, name: str, old_key: str, key: str, now_unix_s: float) -> None:
        """`key` waits beside `old_key`, which must be valid now and of that name, and lasts as long as
        that one was to. Raises `ConfigError` for a key that this end knows already: it is another's, was
        given up, or is this one's own; the same once more is fine."""
        checked(key)

        def edit(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            known = {one.key: one for one in passes}
            old, same = known.get(old_key), known.get(key)
            if old is None or old.name != name or old.problem(now_unix_s):
                raise ConfigError("the old key is not valid any more", found=name)
            if same is not None:
                told = (same.name, same.replaces) == (name, old_key)
                if told and not same.problem(now_unix_s):
                    return passes
                raise ConfigError("a new key that is known already", found=f"that of {same.name}")
            lasts_s = old.expires_unix_s - old.enrolled_unix_s if old.expires_unix_s else 0.0
            new = Pass(
                name=name,
                key=key,
                enrolled_unix_s=now_unix_s,
                expires_unix_s=now_unix_s + lasts_s if lasts_s else 0.0,
                replaces=old_key,
                holds=old.holds,
            )
            kept = [one for one in passes if one.name != name or one.key == old_key]
            return (*kept, new)

        self._edit(edit)

    def follow(self, signing_key: str, newest: str) -> None:
        """The trainers whose releases were by `signing_key` sign with `newest` now."""
        if any(one.signing_key == signing_key for one in self.passes()):
            self._edit(
                lambda passes: tuple(
                    msgspec.structs.replace(one, signing_key=newest)
                    if one.signing_key == signing_key
                    else one
                    for one in passes
                )
            )

    def expect(self, said: NextServerKey, now_unix_s: float) -> None:
        """Keep the key that is to follow `said.old` beside it, synced when this returns; the same once more
        is fine. Raises `ReleaseRejected`: "foreign" where that key is nobody's here or not valid any more,
        "replay" where a newer one was heard of, "key" for one that is none or is known already."""
        try:
            checked(said.new)
        except ConfigError as error:
            raise ReleaseRejected("key", f"the next key is {error}") from error

        def edit(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            old = {one.key: one for one in passes if not one.problem(now_unix_s)}.get(said.old)
            if old is None:
                raise ReleaseRejected("foreign", "a next key follows one that is not known here")
            if (said.new, said.number) == (old.next_key, old.next_number):
                return passes
            if said.number <= old.next_number:
                raise ReleaseRejected(
                    "replay",
                    f"a next key of {old.name} is older than one heard before",
                    expected=f"> {old.next_number}",
                    found=said.number,
                )
            if said.new in {one.key for one in passes}:
                raise ReleaseRejected("key", f"a next key of {old.name} is known already")
            new = msgspec.structs.replace(old, next_key=said.new, next_number=said.number)
            return tuple(new if one is old else one for one in passes)

        self._edit(edit)

    def take_next(self, key: str) -> None:
        """The other end answered to that next key: it is its key from now on, and the one before it ends."""

        def edit(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            return tuple(
                msgspec.structs.replace(one, key=key, next_key="", next_number=0)
                if one.next_key == key
                else one
                for one in passes
            )

        self._edit(edit)

    def note_held(self, name: str, key: str) -> bool:
        """That robot has this end's CURVE key `key` on its disk; whether that is news."""
        if all(one.holds == key for one in self.passes() if one.name == name):
            return False
        self._edit(
            lambda passes: tuple(
                msgspec.structs.replace(one, holds=key) if one.name == name else one
                for one in passes
            )
        )
        return True

    def revoke(self, name: str, now_unix_s: float) -> int:
        """Every key of that name; returns how many were valid. They stay in the file, as a record."""
        revoked = [one for one in self.passes() if one.name == name and not one.revoked_unix_s]

        def edit(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            return tuple(
                msgspec.structs.replace(one, revoked_unix_s=now_unix_s, replaces="")
                if one.name == name and not one.revoked_unix_s
                else one
                for one in passes
            )

        self._edit(edit)
        return len(revoked)

    def _edit(self, edit: Callable[[tuple[Pass, ...]], tuple[Pass, ...]]) -> None:
        make_private(self.folder)
        with self._locked():
            before = self.passes()
            after = edit(before)
            if after == before:
                atomic.sync(self.folder)  # written by one that was killed before it could, perhaps
            else:
                write_secret(self._passes, msgspec.json.format(msgspec.json.encode(after)))

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.folder / LOCK)


def stamp_of(path: Path) -> object:
    """Changes whenever that file is replaced; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def make_private(folder: Path) -> None:
    """Make the folder for its owner only; one that is there must be so already."""
    if not folder.exists():
        atomic.make_directory(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=FOLDER_MODE)
        atomic.sync(folder.parent)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Raises `ConfigError` unless it is this user's folder and nobody else may enter it."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"no keys at {folder}",
            found=error.strerror,
            remedy="robot-run enroll and robot-trainer enroll make them",
        ) from error
    _refuse_others(folder, found, stat.S_ISDIR(found.st_mode), FOLDER_MODE)


def read_secret(path: Path, max_bytes: int = 1024) -> bytes:
    """Content of a file that only this user may read. Raises `ConfigError` otherwise; follows no link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"can't read {path}", found=error.strerror) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _refuse_others(path, found, stat.S_ISREG(found.st_mode), SECRET_MODE)
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is too large", expected=f"<= {max_bytes} bytes")
    return data


def write_secret(path: Path, data: bytes) -> None:
    """Replace `path` atomically and durably; nobody else may read it at any moment."""
    temporary = atomic.temporary_for(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    atomic.sync(path.parent)


def expiry(days: float, now_unix_s: float) -> float:
    """`expires_unix_s` of a pass that is good for so many days; 0 days: for ever."""
    return now_unix_s + 86400.0 * days if days > 0 else 0.0


def described(store: KeyStore, now_unix_s: float) -> list[str]:
    """A line for this end's key and one for every pass, without a secret in them."""
    own = store.own() if store.present else None
    mine = [pair.public for pair in (own, store.next()) if pair is not None]
    lines = [f"own key: {fingerprint(own.public) if own else 'none yet (enroll makes it)'}"]
    for one in store.passes():
        until = f", until {day(one.expires_unix_s)}" if one.expires_unix_s else ""
        state = one.problem(now_unix_s) or ("waits for its first use" if one.replaces else "good")
        if state == "good" and one.holds and one.holds not in mine:
            state = "good, but it knows only a former key of this end: enroll it again"
        since = f"enrolled {day(one.enrolled_unix_s)}{until}"
        follows = f", to be followed by {fingerprint(one.next_key)}" if one.next_key else ""
        lines.append(f"{one.name}: {fingerprint(one.key)}{follows}, {since}: {state}")
    return lines


def fingerprint(key: str) -> str:
    """What people compare and logs name: the first 16 hex digits of SHA-256 of a public key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def day(unix_s: float) -> str:
    """Its date (UTC), for people."""
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))


def check_name(name: str) -> str:
    """A robot's or trainer's id as enrolment takes it: printable, not long, no path. Raises `ConfigError`."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or set(name) & set("/\\\0"):
        raise ConfigError(
            "not a name",
            expected=f"1 to {MAX_NAME} printable characters, no slash",
            found=name[:80],
        )
    return name


def _refuse_others(path: Path, found: os.stat_result, right_kind: bool, mode: int) -> None:
    if not right_kind:
        raise ConfigError(f"{path} is a link or of another kind", remedy="enroll again")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to another user",
            expected=f"user {os.geteuid()}",
            found=f"user {found.st_uid}",
            remedy="run as its owner, or enroll again",
        )
    if found.st_mode & 0o077:
        raise ConfigError(
            f"{path} may be read or changed by others",
            expected=f"mode {mode:04o}",
            found=f"mode {stat.S_IMODE(found.st_mode):04o}",
            remedy=f"chmod {mode:o} {path}, and enroll again if you don't trust who could read it",
        )
