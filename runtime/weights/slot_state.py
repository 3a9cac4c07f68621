"""What slots may hold and how they may change: the table of transitions and `state.json`. Pure, no disk."""

from __future__ import annotations

import secrets

import msgspec

from contracts.errors import EntracteError
from contracts.release import ReleaseManifest
from runtime.weights.probation import Tally

SLOTS = ("a", "b", "c", "d", "e")
MAX_ATTEMPTS = 3
"""A release whose trials were begun this often without one episode to its end (power cut, crash in shadow
or probation) is quarantined."""
MOST_BARRED = 256
"""Contents that are remembered as found wanting; the oldest are forgotten first."""

TRANSITIONS: dict[str, tuple[str, ...]] = {
    # state: what may follow. "idle" is an empty slot. docs/releases.md says why, and is tested against this.
    "idle": ("fetching",),
    "fetching": ("verified", "quarantined", "idle"),
    "verified": ("staged", "quarantined"),
    "staged": ("shadow", "superseded", "quarantined"),
    "shadow": ("probation", "quarantined", "staged"),
    "probation": ("committed", "rolled_back", "superseded", "staged", "quarantined"),
    "committed": ("superseded", "rolled_back"),
    "superseded": ("committed", "idle"),
    "rolled_back": ("committed", "idle"),
    "quarantined": ("idle",),
}
REUSABLE = ("idle", "superseded", "rolled_back", "quarantined")
MOST_OWED = 64
"""Reports that wait for a trainer; where none ever comes, the newest are kept."""
MOST_REASON = 500
"""Characters of a report's reason."""
PERSON = "put in force by a person"


class SlotError(EntracteError):
    """A transition that the table does not have, or state on disk that can't be read."""


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place. `reason` says why a release was quarantined or rolled back. `attempts`: trials begun since
    an episode with it was last ended. `tally`: its own episodes; `served`: it has acted. `committed_no`:
    when it was committed (the count of transitions then), 0 for never. Times: monotonic seconds of the
    offer, and seconds from it; they mean nothing after a reboot (`boot_id` differs)."""

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
    tally: Tally = Tally()
    served: bool = False
    committed_no: int = 0


class Owed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the trainer is to hear of a change of slots, written with the change itself: a `ReleaseOutcome`
    without its times. It is owed until the link has it on its own disk."""

    report_id: str
    publish_seq: int
    outcome: str
    reason: str = ""
    episode_seq: int = -1


class TargetState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`newest_seq`: highest publish_seq that was ever verified or refused for its content; anything not
    above it is a replay. `transitions` counts state changes since the folder was made. `own`: episodes with
    the package's own weights. `pinned`: a person has fixed what acts. `barred`: weights_id of what was
    tried and found wanting, and why. `seen`: newest_seq of other packages that this robot has run. `owed`:
    what the trainer has not been told yet, oldest first. `head`: the reward head that judged episodes which
    had no label."""

    package_id: str
    slots: dict[str, Slot]
    newest_seq: int = 0
    transitions: int = 0
    own: Tally = Tally()
    pinned: bool = False
    barred: dict[str, str] = {}
    seen: dict[str, int] = {}
    owed: tuple[Owed, ...] = ()
    head: str = ""

    def named(self, *states: str) -> tuple[str, Slot] | None:
        """(name, slot): the newest release in one of these states."""
        found = [(n, s) for n, s in self.slots.items() if s.state in states]
        return max(found, key=lambda item: item[1].publish_seq, default=None)

    def by_seq(self, publish_seq: int) -> tuple[str, Slot] | None:
        """(name, slot) that holds that release, if one does."""
        found = ((n, s) for n, s in self.slots.items() if s.manifest and s.state != "idle")
        return next((item for item in found if item[1].publish_seq == publish_seq), None)

    @property
    def in_force(self) -> tuple[str, Slot] | None:
        """What should act: the release on probation, else the committed one; None: the package's own."""
        return self.named("probation") or self.named("committed")

    @property
    def previous(self) -> tuple[str, Slot] | None:
        """What was committed before the committed one, as long as a slot still holds it: other contents, as
        the same come again under new numbers (an update that failed, a release that had expired), and none
        that were taken back under one of them."""
        now = self.named("committed")
        found = [
            (n, s)
            for n, s in self.slots.items()
            if s.state == "superseded" and s.committed_no > 0
            and not (now and same(s, now[1])) and not _is_barred(self, s)
        ]  # fmt: skip
        return max(found, key=lambda item: item[1].committed_no, default=None)

    @property
    def reference(self) -> Tally:
        """What a release on probation is compared with."""
        committed = self.named("committed")
        return committed[1].tally if committed else self.own


def _is_barred(state: TargetState, slot: Slot) -> bool:
    return slot.manifest is not None and slot.manifest.weights_id in state.barred


def same(one: Slot, other: Slot) -> bool:
    """Whether two releases are one under two numbers."""
    a, b = one.manifest, other.manifest
    if a is None or b is None or not a.weights_id:
        return False
    return (a.weights_id, a.samples, a.settings) == (b.weights_id, b.samples, b.settings)


def tried_before(state: TargetState, name: str) -> Tally:
    """Episodes of the release in that slot: its own, or where it has none those of a trial of the same
    contents that ended without a verdict."""
    slot = state.slots[name]
    earlier = [
        s for s in state.slots.values()
        if s.state == "superseded" and s.served and not s.committed_no and same(s, slot)
    ]  # fmt: skip
    if slot.tally != Tally() or not earlier:
        return slot.tally
    return max(earlier, key=lambda s: s.publish_seq).tally


def owing(
    state: TargetState, publish_seq: int, outcome: str, reason: str = "", episode_seq: int = -1
) -> TargetState:
    """`state` with one more report that the trainer is owed, under a name that no other has."""
    name = secrets.token_hex(8)
    owed = Owed(name, publish_seq, outcome, reason[:MOST_REASON], episode_seq)
    return msgspec.structs.replace(state, owed=(*state.owed, owed)[-MOST_OWED:])


def judged_by(state: TargetState, head: str) -> TargetState:
    """`state` whose counts are all comparable: none that another reward head judged, of what is on trial and
    of what it is compared with. One head's rate says nothing of another's."""
    if head == state.head:
        return state
    slots = {
        n: msgspec.structs.replace(s, tally=s.tally.labelled()) for n, s in state.slots.items()
    }
    return msgspec.structs.replace(state, slots=slots, own=state.own.labelled(), head=head)


def empty(package_id: str, seen: dict[str, int]) -> TargetState:
    """No release of this package; what was seen of it before stays seen."""
    newest = seen.get(package_id, 0)
    others = {known: seq for known, seq in seen.items() if known != package_id}
    return TargetState(package_id, {name: Slot() for name in SLOTS}, newest, seen=others)


def moved(state: TargetState, name: str, to: str, reason: str = "") -> TargetState:
    """`state` with one slot in another state. Raises `SlotError` where the table has no such transition."""
    slot = state.slots[name]
    if to not in TRANSITIONS[slot.state]:
        raise SlotError(
            f"slot {name} (release {slot.publish_seq}) can't go from {slot.state} to {to}",
            expected=TRANSITIONS[slot.state],
        )
    slot = Slot() if to == "idle" else msgspec.structs.replace(slot, state=to, reason=reason)
    changes: dict[str, object] = {"transitions": state.transitions + 1}
    if to == "committed":
        slot = msgspec.structs.replace(slot, committed_no=state.transitions + 1)
    if to in ("rolled_back", "quarantined"):
        slot = msgspec.structs.replace(slot, committed_no=0)
        changes |= {"newest_seq": max(state.newest_seq, slot.publish_seq)}
    return msgspec.structs.replace(with_slot(state, name, slot), **changes)


def barred(state: TargetState, name: str, reason: str) -> TargetState:
    """`state` that remembers what is in this slot as tried and found wanting, whatever number it comes
    under next."""
    manifest = state.slots[name].manifest
    committed = state.named("committed")
    if manifest is None or not manifest.weights_id:
        return state
    if (
        committed
        and committed[1].manifest
        and (committed[1].manifest.weights_id == manifest.weights_id)
    ):
        return state  # it was unlucky: the same weights are in force
    known = {**state.barred, manifest.weights_id: reason}
    return msgspec.structs.replace(state, barred=dict(list(known.items())[-MOST_BARRED:]))


def pardoned(state: TargetState, name: str) -> TargetState:
    """The opposite: a person wants it."""
    manifest = state.slots[name].manifest
    known = {k: v for k, v in state.barred.items() if manifest is None or k != manifest.weights_id}
    return msgspec.structs.replace(state, barred=known)


def with_slot(state: TargetState, name: str, slot: Slot) -> TargetState:
    return msgspec.structs.replace(state, slots={**state.slots, name: slot})


def changed(state: TargetState, name: str, **fields: object) -> TargetState:
    """`state` with some fields of one slot replaced."""
    return with_slot(state, name, msgspec.structs.replace(state.slots[name], **fields))


def all_moved(state: TargetState, source: str, to: str, reason: str) -> TargetState:
    """Every slot in state `source` moved on."""
    for name in [n for n, s in state.slots.items() if s.state == source]:
        state = moved(state, name, to, reason)
    return state


def next_place(state: TargetState) -> str:
    """The slot for the next release that arrives: none that acts, waits or was committed last, unless
    nothing else is left; "" where nothing is."""
    previous = state.previous
    free = [n for n, s in state.slots.items() if s.state in REUSABLE]
    spare = [n for n in free if previous is None or n != previous[0]] or free
    return min(spare, key=lambda n: state.slots[n].publish_seq, default="")


def recovered(state: TargetState) -> tuple[TargetState, list[str]]:
    """`state` as a start finds it, made fit to go on from; and what was done."""
    notes = []
    for name, slot in state.slots.items():
        seq = slot.publish_seq
        if slot.state == "verified":
            state = staged(state, name)
            notes.append(f"release {seq}: verified, now staged")
        elif slot.state in ("shadow", "probation"):
            to = "quarantined" if slot.attempts >= MAX_ATTEMPTS else "staged"
            state = moved(state, name, to, f"interrupted in {slot.state}")
            if to == "quarantined":
                reason = state.slots[name].reason
                state = owing(barred(state, name, reason), seq, "rejected", reason)
            so_far = f", {slot.tally} episodes succeeded so far" if slot.served else ""
            notes.append(f"release {seq}: interrupted in {slot.state}, now {to}{so_far}")
    return _newest_waits(state), notes


def put_back(state: TargetState, name: str) -> TargetState:
    """A trial that was given up before it acted: its release waits again, unless a newer one does."""
    return _newest_waits(moved(state, name, "staged"))


def freed(state: TargetState, held: str) -> TargetState:
    """`state` in which nothing is in shadow but in slot `held`: what no trial holds any more, as the disk
    took no transition, waits again as if it had not been tried, unless a newer one came."""
    for name, slot in state.slots.items():
        if slot.state != "shadow" or name == held:
            continue
        state = changed(put_back(state, name), name, attempts=slot.attempts - 1)
        newest = state.named("shadow", "probation", "committed")
        came = newest is not None and newest[1].publish_seq > slot.publish_seq
        if came and state.slots[name].state == "staged":
            state = moved(state, name, "superseded", "a newer release took its place")
    return state


def _newest_waits(state: TargetState) -> TargetState:
    waiting = [(s.publish_seq, n) for n, s in state.slots.items() if s.state == "staged"]
    for _, name in sorted(waiting)[:-1]:
        state = moved(state, name, "superseded", "a newer release was staged")
    return state


def staged(state: TargetState, name: str) -> TargetState:
    """A verified release staged, an older one that was superseded."""
    state = all_moved(state, "staged", "superseded", "a newer release was staged")
    return moved(state, name, "staged")


def committed(state: TargetState, name: str, why: str) -> TargetState:
    old = state.named("committed")
    state = moved(state, name, "committed")
    return moved(state, old[0], "superseded", why) if old else state


def rolled_back(state: TargetState, name: str, why: str) -> TargetState:
    return barred(moved(state, name, "rolled_back", why), name, why)


def owing_force(state: TargetState, before: tuple[str, Slot] | None) -> TargetState:
    """What a person put in force, where that is another than acted `before`."""
    force = state.in_force
    if force is None or (before is not None and force[1].publish_seq == before[1].publish_seq):
        return state
    return owing(state, force[1].publish_seq, "committed", PERSON)
