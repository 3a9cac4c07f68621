"""Slots: where the robot keeps verified releases, and which of them it may start from. Owns the disk state.

Five slots a target: the releases committed, committed before that, on probation, staged and arriving never
share a place. Every transition is one fsynced replacement of `state.json` under a file lock (link, control
and a person's command move releases along), so a power cut at any point leaves a committed one to start from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from contracts.files import atomic
from contracts.files.lock import locked
from contracts.release import ReleaseManifest, require_newer
from runtime.weights.by_hand import pinned, taken_back
from runtime.weights.probation import Probation, Verdict, judge
from runtime.weights.slot_state import (
    MAX_ATTEMPTS,
    PERSON,
    REUSABLE,
    SLOTS,
    TRANSITIONS,
    Owed,
    Slot,
    SlotError,
    TargetState,
    all_moved,
    changed,
    committed,
    empty,
    freed,
    judged_by,
    moved,
    next_place,
    owing,
    put_back,
    recovered,
    rolled_back,
    staged,
    tried_before,
    with_slot,
)

__all__ = ["MAX_ATTEMPTS", "PERSON", "REUSABLE", "SLOTS", "TRANSITIONS"]
__all__ += ["Owed", "Slot", "SlotError", "SlotStore", "TargetState", "boot_id"]
T = TypeVar("T")
STATE_FILE = "state.json"
WEIGHTS_FILE = "weights.safetensors"
PARTIAL_FILE = "weights.part"
LOCK_FILE = "lock"
TARGETS = ("policy", "reward")
WAITING = ("fetching", "verified", "staged", "shadow")


class SlotStore:
    """The slots of one target ("policy" or "reward") for one model package."""

    def __init__(self, folder: Path, package_id: str) -> None:
        """`folder`: <run>/slots/<target>. Releases of another package are forgotten, as they can't fit; the
        numbers seen of it are not."""
        self.folder, self.package_id = folder, package_id
        atomic.make_directory(folder)
        with locked(self.folder / LOCK_FILE):
            state = self._read_or_none()
            if state is None:
                self._write(empty(package_id, {}))
            elif state.package_id != package_id:
                # publish_seq belongs to trainer and package together; another package counts by itself.
                self._write(empty(package_id, {**state.seen, state.package_id: state.newest_seq}))

    @classmethod
    def open(cls, folder: Path) -> SlotStore:
        """The slots that are there, of whatever package. Raises `SlotError` where none are."""
        found = cls.__new__(cls)
        found.folder = folder
        if not (folder / STATE_FILE).exists():
            raise SlotError(f"no slots in {folder}", remedy="name the run folder of a robot-run")
        found.package_id = found.state().package_id
        return found

    def state(self) -> TargetState:
        """What is on disk now."""
        with locked(self.folder / LOCK_FILE):
            return self._read()

    def find(self, *states: str) -> tuple[str, Slot] | None:
        """Newest slot in one of these states."""
        return self.state().named(*states)

    def weights_path(self, name: str) -> Path:
        return self.folder / name / WEIGHTS_FILE

    def partial_path(self, name: str) -> Path:
        return self.folder / name / PARTIAL_FILE

    # Steps of the link.

    def begin_fetch(self, manifest: ReleaseManifest, offered_s: float) -> tuple[str, int]:
        """(slot, bytes already there) for a release whose signature holds. The same release again goes
        on where it was, as long as the machine has not gone down: what was never synced may be anything
        then. Another one takes the place of an unfinished fetch. Raises `ReleaseRejected` for a number that
        was seen, whatever its caller remembers: no release may lie in two slots."""
        with locked(self.folder / LOCK_FILE):
            state = self._read()
            require_newer(manifest, state.newest_seq)
            for name, slot in state.slots.items():
                if slot.state == "fetching":
                    if slot.manifest == manifest and slot.boot_id == boot_id():
                        partial = self.partial_path(name)
                        return name, partial.stat().st_size if partial.exists() else 0
                    state = moved(state, name, "idle")
            name = next_place(state)
            if not name:
                raise SlotError("no free slot", found={n: s.state for n, s in state.slots.items()})
            if state.slots[name].state != "idle":
                state = moved(state, name, "idle")
            # In this order: no state on disk names a release whose file is gone. What of an old file comes
            # back after a power cut is not believed then, and removed again.
            self._write(state)
            atomic.make_directory(self.folder / name)
            for path in (*(self.folder / name).glob("*.part"), self.weights_path(name)):
                path.unlink(missing_ok=True)
            slot = Slot(
                "fetching", manifest.publish_seq, manifest, offered_s=offered_s, boot_id=boot_id()
            )
            self._write(with_slot(moved(state, name, "fetching"), name, slot))
            return name, 0

    def mark_verified(self, name: str, verified_s: float, bytes_on_wire: int) -> None:
        """The partial file is complete and its content holds: sync it and give it its name. May be called
        again after the disk failed at any point of it."""
        if self.partial_path(name).exists() or not self.weights_path(name).exists():
            atomic.sync(self.partial_path(name))
            os.replace(self.partial_path(name), self.weights_path(name))
        atomic.sync(self.folder / name)

        def change(state: TargetState) -> tuple[TargetState, None]:
            if state.slots[name].state != "fetching":
                return state, None  # written, and only the sync of its folder failed
            state = changed(
                moved(state, name, "verified"),
                name,
                verified_s=verified_s,
                bytes_on_wire=bytes_on_wire,
            )
            newest = max(state.newest_seq, state.slots[name].publish_seq)
            return msgspec.structs.replace(state, newest_seq=newest), None

        self._change(change)

    def mark_staged(self, name: str, staged_s: float) -> list[int]:
        """Ready for control. Older staged releases are superseded; returns their publish_seqs."""

        def change(state: TargetState) -> tuple[TargetState, list[int]]:
            if state.slots[name].state != "verified":
                # Control started meanwhile, and staged or even tried it (`recover`).
                return state, []
            old = [s.publish_seq for s in state.slots.values() if s.state == "staged"]
            return changed(staged(state, name), name, staged_s=staged_s), old

        return self._change(change)

    def finish_staging(self) -> int:
        """When a link starts: stages what one before it had verified. publish_seq of what waits, else 0."""

        def change(state: TargetState) -> tuple[TargetState, int]:
            verified = state.named("verified")
            if verified is not None:
                state = staged(state, verified[0])
            waits = state.named("staged")
            return state, waits[1].publish_seq if waits else 0

        return self._change(change)

    def quarantine(self, name: str, reason: str, *, owes: str = "") -> tuple[Owed, ...]:
        """This release must never run here; its publish_seq counts as seen. `owes`: what the trainer is to
        hear, empty where it has been told. Returns what it is owed by that."""

        def change(state: TargetState) -> tuple[TargetState, tuple[Owed, ...]]:
            state = moved(state, name, "quarantined", reason)
            if not owes:
                return state, ()
            state = owing(state, state.slots[name].publish_seq, "rejected", owes)
            return state, state.owed[-1:]

        return self._change(change)

    def quarantine_waiting(self, reason: str) -> list[int]:
        """What is arriving, waits or is being checked never acts; returns their publish_seqs."""

        def change(state: TargetState) -> tuple[TargetState, list[int]]:
            waiting = {n: s for n, s in state.slots.items() if s.state in WAITING}
            for name in waiting:
                state = moved(state, name, "quarantined", reason)
            return state, [slot.publish_seq for slot in waiting.values()]

        return self._change(change)

    # Steps of control.

    def recover(self) -> list[str]:
        """After a start: interrupted trials go back to "staged" (or to quarantine when it keeps
        happening), what they had shown by then is kept; says what was done."""

        def change(state: TargetState) -> tuple[TargetState, list[str]]:
            # Only its own kind: the link may be at work on others meanwhile.
            for left in self.folder.glob(f".{STATE_FILE}.*{atomic.TEMPORARY_SUFFIX}"):
                left.unlink(missing_ok=True)
            return recovered(state)

        return self._change(change)

    def free_shadow(self, held: str) -> None:
        """What is in shadow and that no trial holds, but for slot `held`, waits again."""
        self._change(lambda state: (freed(state, held), None))

    def begin_shadow(self, name: str) -> None:
        def change(state: TargetState) -> tuple[TargetState, None]:
            attempts = state.slots[name].attempts + 1
            return changed(moved(state, name, "shadow"), name, attempts=attempts), None

        self._change(change)

    def begin_probation(self, name: str, episode_seq: int = -1) -> tuple[Owed, ...]:
        """It passed its checks and takes effect from that episode on; one still on probation before it is
        superseded. Returns what the trainer is owed by that: nothing where a person has pinned what acts
        since the trial began, when it waits as if it had not been tried, or has given up its key."""

        def change(state: TargetState) -> tuple[TargetState, tuple[Owed, ...]]:
            if state.slots[name].state == "quarantined":
                return state, ()
            if state.pinned:
                attempts = state.slots[name].attempts - 1
                return changed(put_back(state, name), name, attempts=attempts), ()
            old = [s.publish_seq for s in state.slots.values() if s.state == "probation"]
            state = all_moved(state, "probation", "superseded", "a newer release took its place")
            tally = tried_before(state, name)
            state = changed(moved(state, name, "probation"), name, served=True, tally=tally)
            seq = state.slots[name].publish_seq
            for each in old:
                state = owing(state, each, "superseded", f"release {seq} took its place")
            state = owing(state, seq, "swapped", episode_seq=episode_seq)
            return state, state.owed[-len(old) - 1 :]

        return self._change(change)

    def settle(
        self,
        publish_seq: int,
        success: bool | None,
        rules: Probation,
        fault: str = "",
        *,
        may_commit: bool = True,
        head: str = "",
    ) -> tuple[Verdict, Slot, tuple[Owed, ...]]:
        """One episode with that release (0: the package's own weights) is over: counts it and, if the release
        is on probation, acts on what the count says, and on a `fault` at once. `may_commit`: whether a commit
        may rest on this episode, where any were counted. `head`: the reward head whose word `success` is; ""
        for a label. Returns the verdict, the slot, and what the trainer is owed by that."""

        def change(
            state: TargetState,
        ) -> tuple[TargetState, tuple[Verdict, Slot, tuple[Owed, ...]]]:
            nothing: tuple[Verdict, Slot, tuple[Owed, ...]] = ("on", Slot(), ())
            by_head = bool(head) and success is not None
            if by_head:
                state = judged_by(state, head)
            if publish_seq == 0:
                own = state.own.add(success, by_head)
                return msgspec.structs.replace(state, own=own), nothing
            found = state.by_seq(publish_seq)
            if found is None or found[1].state not in ("probation", "committed"):
                return state, nothing  # a person has taken it back meanwhile
            name, slot = found
            tally = slot.tally.add(success, by_head)
            state = changed(state, name, tally=tally, attempts=0)
            if slot.state == "committed":
                return state, nothing
            verdict, why = judge(state.reference, tally, rules)
            if verdict == "commit" and tally.counted and not may_commit:
                verdict = "on"
            if fault:
                verdict, why = "roll_back", fault
            if verdict == "commit":
                state = committed(state, name, "a newer release was committed")
                state = owing(state, publish_seq, "committed", why)
            elif verdict == "roll_back":
                state = rolled_back(state, name, why)
                state = owing(state, publish_seq, "rolled_back", why)
            else:
                return state, (verdict, state.slots[name], ())
            return state, (verdict, state.slots[name], state.owed[-1:])

        return self._change(change)

    def told(self, report_id: str) -> None:
        """The link has that report on its own disk: it is owed no more."""

        def change(state: TargetState) -> tuple[TargetState, None]:
            left = tuple(one for one in state.owed if one.report_id != report_id)
            return msgspec.structs.replace(state, owed=left), None

        self._change(change)

    def pause(self) -> None:
        """An orderly end: that the next start begins its trial again is not the release's doing."""

        def change(state: TargetState) -> tuple[TargetState, None]:
            for name, slot in state.slots.items():
                if slot.state in ("shadow", "probation"):
                    state = changed(state, name, attempts=0)
            return state, None

        self._change(change)

    def commit(self, name: str) -> None:
        """The robot may start from it from now on; the one committed before is superseded."""
        self._change(lambda s: (committed(s, name, "a newer release was committed"), None))

    def roll_back(self, name: str, reason: str) -> None:
        self._change(lambda state: (rolled_back(state, name, reason), None))

    # A person's steps.

    def pin(self, publish_seq: int) -> TargetState:
        """That release, which must have acted here before (0: the package's own weights), acts from now on
        and nothing replaces it. Raises `SlotError` if it is not there any more."""
        return self._wish(lambda state: pinned(state, publish_seq, self._may_act))

    def unpin(self) -> TargetState:
        """Releases are taken again; what was pinned stays in force until one is."""
        return self._wish(lambda state: msgspec.structs.replace(state, pinned=False))

    def take_back(self, to_seq: int | None = None) -> TargetState:
        """A person rolls back what is in force: to what was committed before it (what is committed, if it is
        on probation), or to `to_seq`. Raises `SlotError` where there is nothing to roll back to."""
        return self._wish(lambda state: taken_back(state, to_seq, self._may_act))

    def _wish(self, change: Callable[[TargetState], TargetState]) -> TargetState:
        def both(state: TargetState) -> tuple[TargetState, TargetState]:
            after = change(state)
            return after, after

        return self._change(both)

    def _may_act(self, name: str, slot: Slot) -> bool:
        kept = slot.state in ("committed", "probation", "superseded", "rolled_back")
        return kept and slot.served and self.weights_path(name).exists()

    # On disk.

    def _change(self, change: Callable[[TargetState], tuple[TargetState, T]]) -> T:
        with locked(self.folder / LOCK_FILE):
            before = self._read()
            after, result = change(before)
            if after != before:
                self._write(after)
            return result

    def _read(self) -> TargetState:
        state = self._read_or_none()
        if state is None:
            raise SlotError(f"no state in {self.folder}")
        return state

    def _read_or_none(self) -> TargetState | None:
        path = self.folder / STATE_FILE
        if not path.exists():
            return None
        try:
            data = atomic.read_bytes(path, atomic.MAX_JSON_BYTES)
            state = msgspec.json.decode(data, type=TargetState)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # Replaced atomically, so only another program or a failing disk can have done this. Guessing
            # would risk running a release that was quarantined.
            raise SlotError(
                f"{path} is damaged",
                found=str(error),
                remedy=f"delete {self.folder} to start from the package's own weights",
            ) from error
        if not set(state.slots) <= set(SLOTS):
            raise SlotError(f"{path} names slots that there are not", found=sorted(state.slots))
        if missing := [name for name in SLOTS if name not in state.slots]:
            more = {name: Slot() for name in missing}  # of a version with fewer slots
            state = msgspec.structs.replace(state, slots={**state.slots, **more})
        return state

    def _write(self, state: TargetState) -> None:
        atomic.write_bytes(self.folder / STATE_FILE, msgspec.json.encode(state))


def opened(run_dir: Path) -> dict[str, SlotStore]:
    """The slots in a run folder, by target. Raises `SlotError` for those that are none."""
    folders = {target: run_dir / "slots" / target for target in TARGETS}
    return {target: SlotStore.open(path) for target, path in folders.items() if path.is_dir()}


def boot_id() -> str:
    """Changes with every boot of the machine; monotonic times compare only within one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
