"""The trainer's side of keys: whom the daemon's sockets let in, as whom each may speak, what was refused.

Owns the doorman of the daemon's sockets, the robots' passes, and what robots hear of the trainer's new keys.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from contracts.errors import ConfigError, EntracteError, WireError
from contracts.files import atomic
from contracts.files.keys import KeyStore, fingerprint, stamp_of
from contracts.key_rotation import NEXT_KEY, NewKey
from contracts.messages import (
    Hello,
    KeyStatement,
    NextKey,
    NextKeyStored,
    RobotKey,
    RobotKeyStored,
    TrainerKeys,
)
from contracts.sockets import Doorman, KeyPair, Limits, Visitor, bindable, is_local
from trainer.config import LimitsSection, ListenSection
from trainer.metrics import Metrics
from trainer.server_key import ServerKey
from trainer.signing import CHAIN_FILE, told

KEYS_FOLDER = "keys"
LOOK_S = 1.0
REPORT_S = 10.0
TELL_AGAIN_S = 30.0
"""The chain, and a next key that waits, are told again so often: a robot whose disk was full has not kept
them."""
FOREIGN = "another robot's id"
GOODBYE = "told: "


class Door:
    """Before the daemon's sockets: bind them with `doorman`, then `start`."""

    def __init__(
        self,
        context: zmq.Context[Any],
        root: Path,
        listen: ListenSection,
        limits: LimitsSection,
        metrics: Metrics,
    ) -> None:
        """Raises `ConfigError` where an address needs keys and there are none, or others may read them."""
        self._root, self._metrics = root, metrics
        self._store = KeyStore(root / KEYS_FOLDER)
        self._server_key = ServerKey(root, self._store)
        self._serves = self._store.own_stamp()
        self.doorman = Doorman(
            context,
            self._own_keys(listen),
            load=self._store.allow_list,
            stamp=self._store.stamp,
            first_use=self._store.settle,
            limits=Limits(
                messages_per_s=limits.messages_per_s,
                bytes_per_s=limits.mib_per_s * 2**20,
                held_bytes=limits.held_mib << 20,
                rest_s=limits.rest_s,
                silent=limits.silent_connections,
            ),
        )
        self._chain_stamp = stamp_of(root / CHAIN_FILE)
        self._next_key: NextKey | None = None
        self._told_key: NextKey | None = None
        self._next_stamp: object = None
        self._told_s, self._problem = 0.0, ""
        self._told_chain_s = time.monotonic()
        self._look_at_next()
        self._looked_s = self._reported_s = time.monotonic()
        self._reported: dict[str, int] = {}

    def _own_keys(self, listen: ListenSection) -> KeyPair | None:
        named = (listen.frames, listen.episodes, listen.weights, listen.health)
        outside = [address for address in named if not is_local(bindable(address))]
        if not outside and listen.curve == "auto":
            return None
        if not self._store.present:
            raise ConfigError(
                f"no keys at {self._store.folder}",
                expected=f"keys, since {outside[0] if outside else 'listen.curve: always'} asks for them",
                remedy=f"robot-trainer enroll --run-dir {self._root}",
            )
        self._store.passes()  # a list that can't be read must be said now, not to the first robot
        atomic.sync(self._store.folder)  # what robots hear of must survive a power cut
        return self._store.own()

    def may_speak(self, robot_id: str, user: str) -> str:
        """ "" or why the holder of that key may not speak for that robot."""
        if not user or user == robot_id:
            return ""
        self.doorman.counts[FOREIGN] += 1
        return f"this connection's key is that of {user}"

    def check_speaker(self, visitor: Visitor, message: object) -> None:
        """Raise `WireError` for a message that names another robot than the key's. A greeting passes: it is
        answered with the reason (`may_speak`)."""
        if isinstance(message, Hello):
            return
        robot_id = getattr(message, "robot_id", visitor.name)
        if not visitor.may_be(robot_id):
            self.doorman.refuse(visitor, FOREIGN)
            raise WireError(
                "message of another robot than the key's",
                expected=visitor.name,
                found=str(robot_id)[:80],
            )

    def renew(self, visitor: Visitor, message: RobotKey) -> RobotKeyStored:
        """Let a robot's new key in; it is on disk when this returns. It is valid as long as the old one was
        to be. Raises `WireError` on a connection without a valid key, for no key, and for one that is known
        already: it would take that from whose it is."""
        if not visitor.key:
            raise WireError("a new key came on a connection without one", found=message.robot_id)
        try:
            self._store.renew(visitor.name, visitor.key, message.key, time.time())
        except ConfigError as error:
            raise WireError("unusable new key", found=str(error)) from error
        return RobotKeyStored(message.key)

    def stored(self, visitor: Visitor, message: NextKeyStored) -> None:
        """A robot has the next CURVE key; that is noted on disk when this returns. Raises `WireError` for
        another key than the one that waits, and on a connection without a key."""
        waiting = self._server_key.waiting() if visitor.key else None
        if waiting is None or message.key != waiting.new:
            raise WireError("a robot has a next key that does not wait here", found=visitor.name)
        if self._store.note_held(visitor.name, message.key):
            holds = fingerprint(message.key)
            self._metrics.add("keys", robot_id=visitor.name, holds=holds)

    def to_tell(self, features: Collection[str]) -> list[TrainerKeys | NextKey]:
        """What a robot with those features hears after its greeting, in this order: a next key is signed by
        the newest signing key. Raises `ConfigError` for a chain that can't be read."""
        self._look_at_next()  # before the chain: a key that signs is in the chain before it signs
        chain = told(self._root)
        found: list[TrainerKeys | NextKey] = [TrainerKeys(chain)] if chain else []
        if NEXT_KEY in features and self._next_key is not None and self._signs(chain):
            found.append(self._next_key)
        return found

    def looks(self) -> bool:
        """Whether it is time to look for keys that a command has changed: once a second."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def replaced(self) -> KeyPair | None:
        """The own CURVE key, once after a command has put another in its place: what the sockets are to be
        served with from now on."""
        stamp = self._store.own_stamp()
        if not self.doorman.encrypts or stamp in (self._serves, None):
            return None
        try:
            atomic.sync(self._store.folder)  # the command may be between its rename and its sync
            pair = self._store.own()
        except (EntracteError, OSError) as error:  # the one before goes on
            self._note(str(error))
            return None
        self._serves = stamp
        self._metrics.add("keys", serves=fingerprint(pair.public))
        return pair

    def news(self) -> list[TrainerKeys | NextKey]:
        """What every robot is to hear now, if anything; in the order of `to_tell`. A chain that can't be read
        is noted: robots go on with what they have heard."""
        self._look_at_next()
        found: list[TrainerKeys | NextKey] = []
        stamp, before = stamp_of(self._root / CHAIN_FILE), self._chain_stamp
        self._chain_stamp = stamp
        now_s = time.monotonic()
        if stamp is not None and (stamp != before or now_s - self._told_chain_s > TELL_AGAIN_S):
            self._told_chain_s = now_s
            try:
                found.append(TrainerKeys(told(self._root)))
            except (EntracteError, OSError) as error:
                self._note(str(error))
        if self._next_key is None:
            self._told_key = None
            return found
        due = self._next_key != self._told_key or now_s - self._told_s > TELL_AGAIN_S
        try:
            if due and self._signs(told(self._root)):
                self._told_s, self._told_key = now_s, self._next_key
                found.append(self._next_key)
        except (EntracteError, OSError) as error:
            self._note(str(error))
        return found

    def _signs(self, chain: Sequence[KeyStatement]) -> bool:
        """Whether robots that follow that chain believe the next key as it was signed when it was looked at.
        One signed a moment before a rotation is not told: they would take its signer for a stranger."""
        if not chain:
            return True
        try:
            newest = msgspec.json.decode(chain[-1].statement, type=NewKey).new
        except msgspec.MsgspecError:
            return False  # robots refuse such a chain
        return self._server_key.signer == newest

    def _look_at_next(self) -> None:
        """Which next key waits, signed by the key of now."""
        stamp = self._server_key.stamp()
        if not self.doorman.encrypts or stamp == self._next_stamp:
            return
        try:
            self._next_key = self._server_key.told()
            self._next_stamp = stamp
        except (EntracteError, OSError) as error:
            self._next_key = None
            self._note(str(error))

    def _note(self, problem: str) -> None:
        """What is wrong with the files of keys, once."""
        if problem != self._problem:
            self._problem = problem
            self._metrics.add("keys", problem=problem[:500])

    def report(self, turned_away: Mapping[str, int], *, now: bool = False) -> None:
        """Counts of what came and what was refused, `turned_away` by a `Goodbye` among them, to the metrics
        where they changed. Raises `EntracteError` if nobody stands at the door any more."""
        if not now and not self.doorman.standing:
            raise EntracteError(
                "the doorman of the trainer's sockets ended",
                remedy="see its traceback and start again with the same folder: nothing is lost",
            )
        at_s = time.monotonic()
        if at_s - self._reported_s < REPORT_S and not now:
            return
        self._reported_s = at_s
        told = {f"{GOODBYE}{reason}": count for reason, count in turned_away.items()}
        counts = {**self.doorman.counts, **told}
        if counts != self._reported and set(counts) - {"connections", "let in"}:
            self._metrics.add("door", counts=counts, last_refused=self.doorman.last_refused)
        self._reported = counts

    def admit(self, frames: Sequence[zmq.Frame]) -> Visitor | None:
        return self.doorman.admit(frames)
