"""Who may come in and how much each may bring. Pure: passes, clocks and counts in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

BURST_S = 2.0
"""What a peer did not use for so long it may bring at once."""
NONE, UNKNOWN, REVOKED, EXPIRED = "", "unknown key", "revoked", "expired"


class Pass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One public key (CURVE, Z85) and whose it is. Times are Unix seconds; 0: never. `replaces`: the key that
    ends as soon as this one is used. Of a trainer, on a robot: `signing_key`, the key (Ed25519, hex) that its
    releases are by now; `next_key`, the CURVE key that is to follow `key`, with the number of its
    announcement. Of a robot, at a trainer: `holds`, the trainer's newest CURVE key that the robot has."""

    name: str
    key: str
    enrolled_unix_s: float
    expires_unix_s: float = 0.0
    revoked_unix_s: float = 0.0
    replaces: str = ""
    signing_key: str = ""
    next_key: str = ""
    next_number: int = 0
    holds: str = ""

    def problem(self, now_unix_s: float) -> str:
        """Why it is not valid now, or ""."""
        if self.revoked_unix_s:
            return REVOKED
        return EXPIRED if 0.0 < self.expires_unix_s < now_unix_s else NONE


class AllowList:
    """Passes by key; immutable, replaced as a whole when the file changes."""

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        self._by_key = {one.key: one for one in passes}

    def find(self, key: str) -> Pass | None:
        return self._by_key.get(key)

    def problem(self, key: str, now_unix_s: float) -> str:
        """Why that key is not let in, or ""."""
        found = self._by_key.get(key)
        return UNKNOWN if found is None else found.problem(now_unix_s)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of each peer, which is a key on all its connections, and without keys one connection. `held_bytes`:
    most that may have come from it and wait in memory unread, half-sent messages included; of all that never
    sent a message together, too. `rest_s`: a peer that goes on at more than twice its rate is cut off and not
    let in for so long. `silent`: connections in all that never sent a message, the oldest go first.
    `connections`: of one key, the oldest go."""

    messages_per_s: float = 2000.0
    bytes_per_s: float = 256.0 * 2**20
    held_bytes: int = 256 * 2**20
    rest_s: float = 5.0
    silent: int = 256
    connections: int = 32


class Allowance:
    """Token buckets of messages and bytes of one peer. Clock injected; not for threads."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits, self._at_s, self._window_s = limits, now_s, now_s
        self._messages = limits.messages_per_s * BURST_S
        self._bytes = limits.bytes_per_s * BURST_S
        self._refused = 0

    def take(self, nbytes: int, now_s: float) -> bool:
        """Whether one more message of `nbytes` is within the rate. A message larger than the burst passes
        when the bucket is full, and what follows waits for it."""
        limits, elapsed_s = self._limits, max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        full = limits.bytes_per_s * BURST_S
        self._messages = min(
            self._messages + elapsed_s * limits.messages_per_s, limits.messages_per_s * BURST_S
        )
        self._bytes = min(self._bytes + elapsed_s * limits.bytes_per_s, full)
        if now_s - self._window_s >= 1.0:
            self._window_s, self._refused = now_s, 0
        if self._messages < 1.0 or self._bytes < min(nbytes, full):
            self._refused += 1
            return False
        self._messages -= 1.0
        self._bytes -= nbytes
        return True

    @property
    def flooding(self) -> bool:
        """As much was refused within a second as was allowed."""
        return self._refused > self._limits.messages_per_s

    def forgive(self) -> None:
        """The flood was dealt with; what the buckets lack they lack still."""
        self._refused = 0
