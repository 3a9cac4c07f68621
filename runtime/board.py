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
_MAX_WORD = (1 << 63) - 1


class LoopState(IntEnum):
    """What the control process is doing; written by control."""

    INIT = 0
    ARMED = 1
    RUNNING = 2
    HOLD = 3
    FAULT = 4
    DONE = 5
    ESTOP = 6


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
    """Signs of life within a tick: after each of its sections, and every `runtime.control.pacing.BEAT_S`
    while the loop waits for the next one."""

    loop_success_rate = _Float(43)
    """Share of the last 100 periods that had their tick; < 0.95 warn, < 0.90 unsuitable."""
    execution_p99_s = _Float(44)
    """Work of a tick, from its wake to its last word here, p99 of the last 300."""
    execution_max_s = _Float(45)
    """The same, the longest of the run."""
    period_std_s = _Float(46)
    loop_health = _Int(47)
    """A `runtime.control.periodicity.Health`."""

    # The gate and its black box.
    estop_requested = _Int(37)
    """1: emergency stop. Written by whoever sees a person ask for it, cleared by nobody: only a new start of
    `robot-run` moves the arm again."""
    stopped_at_s = _Float(38)
    """When the gate latched a fault or an emergency stop; 0: it has not."""
    held_at_s = _Float(39)
    """When the arm acknowledged hold, after what braking there was; 0: it has not."""
    braking_at_s = _Float(120)
    """When the arm acknowledged the newest command before hold; 0: none, or hold failed."""
    gate_refusals = _Int(121)
    """Actions of another origin than the one in force, since the start."""
    still_at_s = _Float(40)
    """From when on the arm was seen to stand; 0: it was not."""
    stop_check = _Int(41)
    """A `StopCheck`: what reading back from the arm said after that stop."""
    blackbox_dumps = _Int(42)
    """Dumps written so far, by the watchdog or the supervisor."""

    waiting_for_room = _Int(122)
    """1 while control waits in hold for room in the spool."""
    cautions = _Int(123)
    """Bits of `runtime.cautions.Caution`, set before the arm is taken."""

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

    link_state = _Int(62)
    """A `LinkState`."""
    clock_offset_s = _Float(63)
    """What to add to a time of this machine's to have the trainer's (monotonic clocks both)."""
    clock_error_s = _Float(64)
    """Largest possible error of that; 0: not known yet."""
    spooled_age_p50_s = _Float(65)
    """From capture until a step is in its episode's file, of all since the link began; 0: nothing yet."""
    spooled_age_p99_s = _Float(66)
    spool_full = _Int(67)
    """1: another episode might not fit on this disk; see `link.on_full`."""
    trainer_full = _Int(68)
    """1: the trainer takes nothing in for want of room; episodes wait here."""
    episodes_unkept = _Int(69)
    """Episodes that were not recorded, or not to their end, for want of room."""
    episodes_aside = _Int(70)
    """Episodes that the trainer has others in place of: they stay in the spool, not offered again."""

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

    # Written by the arm's process (`runtime.arms.server`).
    arm_state = _Int(108)
    """An `ArmPhase`."""
    arm_readings = _Int(109)
    """Readings of every joint since start."""
    arm_retries = _Int(110)
    """Replies asked for again and commands sent again: bit errors, lost replies, lost commands."""
    arm_refused = _Int(111)
    """Commands that were refused: an older lease, or after a hold of the arm's own."""
    arm_timeouts = _Int(112)
    """Holds because no command came for `arm.command_timeout_s`."""
    arm_read_p99_s = _Float(113)
    """Time on the bus of a reading, p99 of the last 1000 or so."""
    arm_read_max_s = _Float(114)
    arm_warmest_c = _Float(115)
    """Temperature of the warmest motor, degrees Celsius; 0: unknown."""

    # Written by the recorder.
    recorder_queue = _Int(116)
    """Pictures taken from the ring that still wait for an encoder."""
    recorder_dropped = _Int(117)
    """Steps of kept episodes whose picture was lost on the way (they show the one before)."""
    recorder_error = _Int(118)
    """0, or a `RecorderError`: since then nothing is recorded."""
    recorder_kept = _Int(119)
    """Episodes that this run added to the data set."""

    # Words 99 to 104: people's commands and control's answers (`runtime.operator.commands`).

    # Written by control: what people are told.
    operator_phase = _Int(105)
    """A `runtime.operator.floor.Phase` in the low byte, flags above it, then who has the helm."""
    reset_progress = _Float(106)
    """0 to 1 while the arm is brought back between two episodes."""
    outcomes = _Int(107)
    """Episodes whose outcome is known in the low half, successes among them in the high half."""

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
        current = (
            self.lease_owner
        )  # not an Owner: the watchdog takes the arm from whatever stands there
        free = current in (Owner.NOBODY, owner)
        expired = not self.lease_expiry_s >= now_s  # NaN is no lease for ever
        if not (free or (owner is Owner.WATCHDOG and expired)):
            raise EntracteError("the arm has a writer already", found=_owner_name(current))
        self.lease_epoch = (self.lease_epoch + 1) & _MAX_WORD
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

    def word(self, word: int) -> int:
        """A word by number, for fields that come in rows."""
        return self._ints[word]

    def set_word(self, word: int, value: int) -> None:
        self._ints[word] = value

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


class LinkState(IntEnum):
    """How the link stands with the trainer; value of `Board.link_state`."""

    ALONE = 0
    """Nobody has answered, or not for a while."""
    WELCOME = 1
    REFUSED = 2


class TripReason(IntEnum):
    """Why the watchdog took the arm; value of `Board.watchdog_tripped`."""

    NONE = 0
    TICK_STALLED = 1
    CONTROL_DIED = 3
    ESTOP_UNSERVED = 5
    """An emergency stop was asked for and control did not answer."""
    STOP_FAILED = 6
    """Control latched a fault, and the arm did not acknowledge its stop."""


class StopCheck(IntEnum):
    """What reading back said after a stop; value of `Board.stop_check`."""

    PENDING = 0
    VERIFIED = 1
    FAILED = 2
    """It moves still, or its targets are not the pose it was stopped in."""
    UNREADABLE = 3
    """The arm could not be read: nobody knows."""


class ArmPhase(IntEnum):
    """What the arm's process has reached; value of `Board.arm_state`."""

    CLOSED = 0
    OPEN = 1
    POWERED = 2
    FAILED = 3


class RecorderError(IntEnum):
    """Why nothing is recorded; value of `Board.recorder_error`."""

    NONE = 0
    DISK_FULL = 1
    FAILED = 2


def _owner_name(word: int) -> str:
    return Owner(word).name.lower() if word in list(Owner) else str(word)
