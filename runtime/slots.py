"""Slots: where the robot keeps verified releases, and which of them it may start from. Owns the disk state.

Four slots a target: the releases committed, on probation, staged and arriving never share a place.
Every transition is one fsynced replacement of `state.json` under a file lock (link and control both move
releases along), so a power cut at any point leaves the last committed release to start from.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.release import ReleaseManifest

T = TypeVar("T")

SLOTS = ("a", "b", "c", "d")
MAX_ATTEMPTS = 3
"""A release that was interrupted this often (power cut, crash in shadow or probation) is quarantined."""

TRANSITIONS: dict[str, tuple[str, ...]] = {
    # state: what may follow. "idle" is an empty slot.
    "idle": ("fetching",),
    "fetching": ("verified", "quarantined", "idle"),  # idle: another release was offered instead
    "verified": ("staged", "quarantined"),
    "staged": ("shadow", "superseded", "quarantined"),
    "shadow": ("probation", "quarantined", "staged"),  # staged: interrupted, try again
    "probation": ("committed", "rolled_back", "superseded", "staged", "quarantined"),
    "committed": ("superseded",),
    "superseded": ("fetching",),
    "rolled_back": ("fetching",),
    "quarantined": ("fetching",),
}
REUSABLE = ("idle", "superseded", "rolled_back", "quarantined")


class SlotError(EntracteError):
    """A transition that the table does not have, or state on disk that can't be read."""


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place. `reason` says why a release was quarantined or rolled back. Times: monotonic seconds
    of the offer, and seconds from it; they mean nothing after a reboot (`boot_id` differs)."""

    state: str = "idle"
    publish_seq: int = 0
    manifest: ReleaseManifest | None = None
    reason: str = ""
    attempts: int = 0
    offered_s: float = 0.0
    verified_s: float = -1.0
    staged_s: float = -1.0
    bytes_on_wire: int = 0
    boot_id: str = ""


class TargetState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`newest_seq`: highest publish_seq that was ever verified or refused for its content; anything not
    above it is a replay. `transitions` counts state changes since the folder was made."""

    package_id: str
    slots: dict[str, Slot]
    newest_seq: int = 0
    transitions: int = 0


class SlotStore:
    """The slots of one target ("policy" or "reward") for one model package."""

    def __init__(self, folder: Path, package_id: str) -> None:
        """`folder`: <run>/slots/<target>. Releases of another package are forgotten: they can't fit."""
        self.folder, self.package_id = folder, package_id
        atomic.make_directory(folder)
        with self._locked():
            state = self._read_or_none()
            if state is None or state.package_id != package_id:
                # publish_seq belongs to trainer and package together; a new package starts anew.
                self._write(TargetState(package_id, {name: Slot() for name in SLOTS}))

    def state(self) -> TargetState:
        """What is on disk now."""
        with self._locked():
            return self._read()

    def find(self, *states: str) -> tuple[str, Slot] | None:
        """Newest slot in one of these states."""
        found = [(n, s) for n, s in self.state().slots.items() if s.state in states]
        return max(found, key=lambda item: item[1].publish_seq, default=None)

    def weights_path(self, name: str) -> Path:
        return self.folder / name / "weights.safetensors"

    def partial_path(self, name: str) -> Path:
        return self.folder / name / "weights.part"

    # Steps of the link.

    def begin_fetch(self, manifest: ReleaseManifest, offered_s: float) -> tuple[str, int]:
        """(slot, bytes already there) for a release whose signature holds. The same release again goes
        on where it was; another one takes the place of an unfinished fetch."""

        def change(state: TargetState) -> tuple[TargetState, tuple[str, int]]:
            for name, slot in state.slots.items():
                if slot.state == "fetching":
                    if slot.manifest == manifest:
                        partial = self.partial_path(name)
                        return state, (name, partial.stat().st_size if partial.exists() else 0)
                    state = _moved(state, name, "idle")
            free = [n for n, s in state.slots.items() if s.state in REUSABLE]
            if not free:
                raise SlotError("no free slot", found={n: s.state for n, s in state.slots.items()})
            name = min(free, key=lambda n: state.slots[n].publish_seq)
            state = _moved(state, name, "fetching")
            slot = Slot(
                "fetching", manifest.publish_seq, manifest, offered_s=offered_s, boot_id=boot_id()
            )
            atomic.make_directory(self.folder / name)
            self.partial_path(name).unlink(missing_ok=True)
            self.weights_path(name).unlink(missing_ok=True)
            return _with_slot(state, name, slot), (name, 0)

        return self._change(change)

    def mark_verified(self, name: str, verified_s: float, bytes_on_wire: int) -> None:
        """The partial file is complete and its content holds: sync it and give it its name."""
        atomic.sync(self.partial_path(name))
        os.replace(self.partial_path(name), self.weights_path(name))
        atomic.sync(self.folder / name)

        def change(state: TargetState) -> tuple[TargetState, None]:
            state = _moved(state, name, "verified")
            slot = state.slots[name]
            slot = msgspec.structs.replace(slot, verified_s=verified_s, bytes_on_wire=bytes_on_wire)
            newest = max(state.newest_seq, slot.publish_seq)
            return msgspec.structs.replace(_with_slot(state, name, slot), newest_seq=newest), None

        self._change(change)

    def mark_staged(self, name: str, staged_s: float) -> list[int]:
        """Ready for control. Older staged releases are superseded; returns their publish_seqs."""

        def change(state: TargetState) -> tuple[TargetState, list[int]]:
            if state.slots[name].state != "verified":
                return (
                    state,
                    [],
                )  # control started meanwhile, and staged or even tried it (`recover`)
            old = [n for n, s in state.slots.items() if s.state == "staged" and n != name]
            for other in old:
                state = _moved(state, other, "superseded", "a newer release was staged")
            state = _moved(state, name, "staged")
            slot = msgspec.structs.replace(state.slots[name], staged_s=staged_s)
            return _with_slot(state, name, slot), [state.slots[o].publish_seq for o in old]

        return self._change(change)

    def quarantine(self, name: str, reason: str) -> Slot:
        """This release must never run here; its publish_seq counts as seen."""

        def change(state: TargetState) -> tuple[TargetState, Slot]:
            state = _moved(state, name, "quarantined", reason)
            newest = max(state.newest_seq, state.slots[name].publish_seq)
            return msgspec.structs.replace(state, newest_seq=newest), state.slots[name]

        return self._change(change)

    # Steps of control.

    def recover(self) -> list[str]:
        """After a start: interrupted trials go back to "staged" (or to quarantine when it keeps
        happening); says what was done. Call before the link fetches anything new."""

        def change(state: TargetState) -> tuple[TargetState, list[str]]:
            notes = []
            for name, slot in state.slots.items():
                if slot.state == "verified":
                    state = _moved(state, name, "staged")
                    notes.append(f"release {slot.publish_seq}: verified, now staged")
                if slot.state not in ("shadow", "probation"):
                    continue
                attempts = slot.attempts + 1
                to = "quarantined" if attempts >= MAX_ATTEMPTS else "staged"
                state = _moved(state, name, to, f"interrupted in {slot.state}")
                tried = msgspec.structs.replace(state.slots[name], attempts=attempts)
                state = _with_slot(state, name, tried)
                notes.append(f"release {slot.publish_seq}: interrupted {attempts} times, now {to}")
            staged = sorted(
                (s.publish_seq, n) for n, s in state.slots.items() if s.state == "staged"
            )
            for _, name in staged[:-1]:
                state = _moved(state, name, "superseded", "a newer release was staged")
            return state, notes

        return self._change(change)

    def begin_shadow(self, name: str) -> None:
        self._change(lambda state: (_moved(state, name, "shadow"), None))

    def begin_probation(self, name: str) -> list[int]:
        """It passed its checks and takes effect now; one still on probation before it is superseded."""

        def change(state: TargetState) -> tuple[TargetState, list[int]]:
            old = [n for n, s in state.slots.items() if s.state == "probation"]
            for other in old:
                state = _moved(state, other, "superseded", "a newer release took its place")
            return _moved(state, name, "probation"), [state.slots[o].publish_seq for o in old]

        return self._change(change)

    def commit(self, name: str) -> None:
        """The robot may start from it from now on; the one committed before is superseded."""

        def change(state: TargetState) -> tuple[TargetState, None]:
            for other in [n for n, s in state.slots.items() if s.state == "committed"]:
                state = _moved(state, other, "superseded", "a newer release was committed")
            return _moved(state, name, "committed"), None

        self._change(change)

    def roll_back(self, name: str, reason: str) -> None:
        self._change(lambda state: (_moved(state, name, "rolled_back", reason), None))

    def _change(self, change: Callable[[TargetState], tuple[TargetState, T]]) -> T:
        with self._locked():
            before = self._read()
            after, result = change(before)
            if after != before:
                self._write(after)
            return result

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> TargetState:
        state = self._read_or_none()
        if state is None:
            raise SlotError(f"no state in {self.folder}")
        return state

    def _read_or_none(self) -> TargetState | None:
        path = self.folder / "state.json"
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(
                atomic.read_bytes(path, atomic.MAX_JSON_BYTES), type=TargetState
            )
        except msgspec.MsgspecError as error:
            # Replaced atomically, so only another program or a failing disk can have done this. Guessing
            # would risk running a release that was quarantined.
            raise SlotError(
                f"{path} is damaged",
                found=str(error),
                remedy=f"delete {self.folder} to start from the package's own weights",
            ) from error

    def _write(self, state: TargetState) -> None:
        atomic.write_bytes(self.folder / "state.json", msgspec.json.encode(state))


def boot_id() -> str:
    """Changes with every boot of the machine; monotonic times compare only within one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _moved(state: TargetState, name: str, to: str, reason: str = "") -> TargetState:
    slot = state.slots[name]
    if to not in TRANSITIONS[slot.state]:
        raise SlotError(
            f"slot {name} (release {slot.publish_seq}) can't go from {slot.state} to {to}",
            expected=TRANSITIONS[slot.state],
        )
    slot = Slot() if to == "idle" else msgspec.structs.replace(slot, state=to, reason=reason)
    state = _with_slot(state, name, slot)
    return msgspec.structs.replace(state, transitions=state.transitions + 1)


def _with_slot(state: TargetState, name: str, slot: Slot) -> TargetState:
    return msgspec.structs.replace(state, slots={**state.slots, name: slot})
