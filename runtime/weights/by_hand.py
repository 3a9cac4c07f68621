"""What a person does to slots: pins a release, or takes one back. Pure; the slots own the disk."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runtime.weights.slot_state import (
    Slot,
    SlotError,
    TargetState,
    all_moved,
    barred,
    committed,
    owing,
    owing_force,
    pardoned,
    rolled_back,
    same,
)

MayAct = Callable[[str, Slot], bool]
"""Whether what is in that slot acted here and is still kept."""


def pinned(state: TargetState, publish_seq: int, may_act: MayAct) -> TargetState:
    """`state` in which that release (0: the package's own weights) acts and nothing replaces it. Raises
    `SlotError` if it is not there any more."""
    before = state.in_force
    state = _put_in_force(state, publish_seq, "a person pinned another one", may_act)
    return msgspec.structs.replace(owing_force(state, before), pinned=True)


def taken_back(state: TargetState, to_seq: int | None, may_act: MayAct) -> TargetState:
    """`state` without what was in force: back to what was committed before it (what is committed, if it is
    on probation), of other contents, or to `to_seq`. Raises `SlotError` where nothing is to roll back to."""
    why = "rolled back by a person"
    if state.pinned:
        raise SlotError("what acts is pinned", remedy="unpin it first, or pin another one")
    force = state.in_force
    if force is None or to_seq == force[1].publish_seq:
        raise SlotError("nothing to roll back: these weights act already")
    target, stays = to_seq, state.named("committed")
    if target is None and stays and (stays == force or same(stays[1], force[1])):
        previous = state.previous
        target = previous[1].publish_seq if previous else 0
    state = rolled_back(state, force[0], why)
    state = owing(state, force[1].publish_seq, "rolled_back", why)
    if target is not None:
        state = _put_in_force(state, target, why, may_act)
        state = barred(state, force[0], why)  # unless it is what was asked for
    return owing_force(state, force)


def _put_in_force(state: TargetState, publish_seq: int, why: str, may_act: MayAct) -> TargetState:
    now = state.named("committed")
    if publish_seq == 0:
        state = all_moved(state, "committed", "superseded", why)
    elif now is None or now[1].publish_seq != publish_seq:
        found = state.by_seq(publish_seq)
        if found is None or not may_act(*found):
            can = [s.publish_seq for n, s in state.slots.items() if may_act(n, s)]
            raise SlotError(
                f"release {publish_seq} can't be put in force: it is not kept, or never acted here",
                expected=sorted({0, *can}),
            )
        state = pardoned(committed(state, found[0], why), found[0])
    return all_moved(state, "probation", "superseded", why)
