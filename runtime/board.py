"""The board: a page of shared memory with fixed fields, each written by one process and read by all.

Owns the fields, the writer lease and nothing else: no message, no history, no lock. Every field is one
aligned 8-byte word, so a reader sees the old or the new value and never half of each.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from contracts.errors import EntracteError

_MAGIC = 0x454E_5452_4252_4431  # "ENTRBRD1": another layout gets another number
_WORDS = 128


class LoopState(IntEnum):
    """What the control process is doing; written by control."""

    INIT = 0
    ARMED = 1
    RUNNING = 2
    HOLD = 3
    FAULT = 4
    DONE = 5


class Owner(IntEnum):
    """Who may command the arm."""

    NOBODY = 0
    CONTROL = 1
    WATCHDOG = 2


class _Int:
    """One signed 64-bit word."""

    def __init__(self, word: int) -> None:
        self.word = word

    @overload
    def __get__(self, board: None, owner: type[Board]) -> _Int: ...
    @overload
    def __get__(self, board: Board, owner: type[Board]) -> int: ...
    def __get__(self, board: Board | None, owner: type[Board]) -> Any:
        return self if board is None else board._ints[self.word]

    def __set__(self, board: Board, value: int) -> None:
        board._ints[self.word] = value


class _Float:
    """One double."""

    def __init__(self, word: int) -> None:
        self.word = word

    @overload
    def __get__(self, board: None, owner: type[Board]) -> _Float: ...
    @overload
    def __get__(self, board: Board, owner: type[Board]) -> float: ...
    def __get__(self, board: Board | None, owner: type[Board]) -> Any:
        return self if board is None else board._floats[self.word]

    def __set__(self, board: Board, value: float) -> None:
        board._floats[self.word] = value


class Board:
    """Typed accessors to the shared page. `Board.create` once (supervisor), `Board.open` elsewhere.

    Times are monotonic seconds of this machine (`time.monotonic`), 0 before the first.
    """

    _magic = _Int(0)

    # Written by the supervisor.
    stop_requested = _Int(1)
    """1: finish the tick, hold, end the episode as "aborted" and leave."""

    control_pid = _Int(2)
    """Process id of control, 0 before it was started: its death is seen at once."""
    watchdog_pid = _Int(3)
    operator_label = _Int(4)
    """Answer to `label_wanted`: 0 none yet, 1 success, 2 failure (`runtime.keys`)."""

    # Written by control.
    tick = _Int(8)
    """Ticks since start; also advances while control waits in hold. Frozen: control is dead or hung."""
    tick_at_s = _Float(9)
    loop_state = _Int(10)
    episode_seq = _Int(11)
    """The episode being run or, between episodes, the last one run; -1 before the first."""
    step = _Int(12)
    policy_version = _Int(13)
    """publish_seq of the active policy head; 0: the package's own weights."""
    reward_version = _Int(14)
    loop_rate_hz = _Float(15)
    lateness_s = _Float(16)
    lateness_p99_s = _Float(17)
    missed_ticks = _Int(18)
    held_ticks = _Int(19)
    """Ticks without an action to execute: the last command was kept."""
    ring_frames_dropped = _Int(20)
    ring_records_dropped = _Int(21)
    episodes_done = _Int(22)
    gate_interventions = _Int(23)
    reward_process = _Float(24)
    reward_completion = _Float(25)
    reward_contrastive = _Float(26)
    control_ready = _Int(27)
    iteration_episode = _Int(28)
    """How many episodes of the current iteration are done."""
    waiting_for_release = _Int(29)
    """1 while control waits in hold for the next release."""
    swaps_done = _Int(30)
    swaps_rejected = _Int(31)
    last_success = _Int(32)
    """-1 unknown, 0, 1: how the last episode ended as far as the robot knows (completion or label)."""
    rewards_abstained = _Int(33)
    first_action_at_s = _Float(34)
    label_wanted = _Int(35)
    """Number of the question, from 1, while control waits for a person's label; else 0."""
    beats = _Int(36)
    """Signs of life within a tick: after each of its sections, and every `runtime.pacing.BEAT_S` while the
    loop waits for the next one."""

    # Written by the link.
    link_ready = _Int(48)
    link_beat_s = _Float(49)
    staged_policy_seq = _Int(50)
    """publish_seq of the newest verified policy release in a standby slot; 0: none."""
    staged_reward_seq = _Int(51)
    frames_sent = _Int(52)
    frames_dropped = _Int(53)
    spooled = _Int(54)
    """Finished episodes on this disk that the trainer has not acknowledged."""
    trainer_seen_s = _Float(55)
    trainer_iteration = _Int(56)
    releases_rejected = _Int(57)
    bytes_fetched = _Int(58)
    live_bytes_sent = _Int(59)
    link_error = _Int(60)
    refused_policy_seq = _Int(61)
    """publish_seq of the newest policy release of the trainer's whose content was not sound; 0: none."""

    # Written by the watchdog.
    watchdog_ready = _Int(72)
    watchdog_beat_s = _Float(73)
    watchdog_tripped = _Int(74)
    """0, or a `TripReason`. Latched: only a new start of `robot-run` clears it."""
    watchdog_tripped_at_s = _Float(75)
    """When the tick counter was judged dead."""
    watchdog_held_at_s = _Float(76)
    """When the arm acknowledged hold."""

    # The lease: written by its owner, or by the watchdog once it expired.
    lease_owner = _Int(96)
    lease_epoch = _Int(97)
    """Increases with every change of owner. Travels with each command to the arm, so that a late
    command of a process that lost the lease can be refused (fencing)."""
    lease_expiry_s = _Float(98)

    def __init__(self, file: int, path: Path) -> None:
        self.path = path
        self._map = mmap.mmap(file, _WORDS * 8)
        self._view = memoryview(self._map)
        self._ints = self._view.cast("q")
        self._floats = self._view.cast("d")

    @classmethod
    def create(cls, path: Path) -> Board:
        """A new zeroed board at `path` (a file in a memory-backed folder)."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(file, _WORDS * 8)
            board = cls(file, path)
        finally:
            os.close(file)
        board.episode_seq = -1
        board.last_success = -1
        board._magic = _MAGIC
        return board

    @classmethod
    def open(cls, path: Path) -> Board:
        """The board another process created; `EntracteError` if it isn't one of this layout."""
        try:
            file = os.open(path, os.O_RDWR)
        except OSError as error:
            raise EntracteError(
                f"no board at {path}", found=error.strerror, remedy="start it with robot-run"
            ) from error
        try:
            if os.fstat(file).st_size < _WORDS * 8:
                raise EntracteError(f"{path} is too small for a board")
            board = cls(file, path)
        finally:
            os.close(file)
        if board._magic != _MAGIC:
            board.close()
            raise EntracteError(f"{path} is a board of another layout or none")
        return board

    def take_lease(self, owner: Owner, now_s: float, lease_s: float) -> int:
        """Become the one writer; returns the new epoch. Control may take a free lease, the watchdog
        also an expired one; anything else raises `EntracteError`."""
        current = Owner(self.lease_owner)
        free = current in (Owner.NOBODY, owner)
        expired = self.lease_expiry_s < now_s
        if not (free or (owner is Owner.WATCHDOG and expired)):
            raise EntracteError("the arm has a writer already", found=current.name.lower())
        self.lease_epoch = self.lease_epoch + 1
        self.lease_expiry_s = now_s + lease_s
        self.lease_owner = int(owner)
        return self.lease_epoch

    def renew_lease(self, owner: Owner, epoch: int, now_s: float, lease_s: float) -> bool:
        """Extend a lease that is still ours; False: it is not, stop writing at once."""
        if self.lease_owner != owner or self.lease_epoch != epoch:
            return False
        self.lease_expiry_s = now_s + lease_s
        return True

    def holds_lease(self, owner: Owner, epoch: int) -> bool:
        return self.lease_owner == owner and self.lease_epoch == epoch

    def release_lease(self, owner: Owner) -> None:
        """Hand back a lease that is ours (orderly end)."""
        if self.lease_owner == owner:
            self.lease_owner = int(Owner.NOBODY)

    def close(self) -> None:
        self._ints.release()
        self._floats.release()
        self._view.release()
        self._map.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TripReason(IntEnum):
    """Why the watchdog took the arm; value of `Board.watchdog_tripped`."""

    NONE = 0
    TICK_STALLED = 1
    LEASE_EXPIRED = 2
    CONTROL_DIED = 3
    SELFTEST = 4
