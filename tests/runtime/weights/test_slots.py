"""Slots: the transition table, what survives a restart at every step, and who supersedes whom.

What a power cut leaves of the files themselves is in tests/faults/test_crash_points.py.
"""

from __future__ import annotations

import msgspec
import pytest

from contracts.release import ReleaseManifest
from runtime.weights.slots import MAX_ATTEMPTS, REUSABLE, TRANSITIONS, SlotError, SlotStore


def manifest(seq: int, weights: str = "w") -> ReleaseManifest:
    return ReleaseManifest(
        "policy", "pkg", seq, 0, seq, weights, "0" * 64, 4, (), 1, (), "", 0.0, 1.0, "t"
    )


@pytest.fixture
def store(tmp_path) -> SlotStore:
    return SlotStore(tmp_path / "policy", "pkg")


def fetch(store: SlotStore, seq: int) -> str:
    name, received = store.begin_fetch(manifest(seq), 0.0)
    assert received == 0
    store.partial_path(name).write_bytes(b"1234")
    return name


def stage(store: SlotStore, seq: int) -> str:
    name = fetch(store, seq)
    store.mark_verified(name, 0.1, 4)
    store.mark_staged(name, 0.2)
    return name


def swap(store: SlotStore, seq: int) -> str:
    name = stage(store, seq)
    store.begin_shadow(name)
    store.begin_probation(name)
    return name


def states(store: SlotStore) -> dict[int, str]:
    return {s.publish_seq: s.state for s in store.state().slots.values() if s.publish_seq}


def test_the_table_names_only_its_own_states() -> None:
    assert {to for follow in TRANSITIONS.values() for to in follow} <= set(TRANSITIONS)
    assert all(state == "idle" or "idle" in TRANSITIONS[state] for state in REUSABLE)
    served = {"probation", "superseded", "rolled_back"}
    assert {s for s, follow in TRANSITIONS.items() if "committed" in follow} == served


def test_the_way_to_committed(store: SlotStore) -> None:
    first = swap(store, 1)
    assert states(store) == {1: "probation"} and store.find("committed") is None
    store.commit(first)
    second = swap(store, 2)
    assert states(store) == {1: "committed", 2: "probation"} and first != second
    store.commit(second)
    assert states(store) == {1: "superseded", 2: "committed"}
    assert store.state().newest_seq == 2


@pytest.mark.parametrize("state", list(TRANSITIONS))
def test_no_other_transition_is_possible(tmp_path, state: str) -> None:
    moves = {
        "staged": lambda s, n: s.mark_staged(n, 0.0),
        "shadow": lambda s, n: s.begin_shadow(n),
        "probation": lambda s, n: s.begin_probation(n),
        "committed": lambda s, n: s.commit(n),
        "rolled_back": lambda s, n: s.roll_back(n, "why"),
        "quarantined": lambda s, n: s.quarantine(n, "why"),
    }
    for to, move in moves.items():
        store = SlotStore(tmp_path / to, "pkg")
        name = fetch(store, 1)
        tree = msgspec.json.decode((store.folder / "state.json").read_bytes())
        tree["slots"][name]["state"] = state
        (store.folder / "state.json").write_bytes(msgspec.json.encode(tree))
        if to in TRANSITIONS[state] and (state, to) not in {
            ("shadow", "staged"),  # only `recover` does these two
            ("probation", "staged"),
        }:
            move(store, name)
            assert states(store) == {1: to}
        elif to == "staged" or (state, to) == ("quarantined", "probation"):
            move(store, name)  # says nothing: control, or a person, was faster
            assert states(store) in ({1: state}, {})
        else:
            with pytest.raises(SlotError):
                move(store, name)


def test_a_fetch_goes_on_where_it_was(store: SlotStore) -> None:
    name = fetch(store, 1)
    again = SlotStore(store.folder, "pkg")
    assert again.begin_fetch(manifest(1), 5.0) == (name, 4)
    other, received = again.begin_fetch(manifest(1, "other weights"), 5.0)
    assert received == 0 and not again.partial_path(other).exists()


def test_committed_probation_staged_and_arriving_never_share_a_place(store: SlotStore) -> None:
    store.commit(swap(store, 1))
    swap(store, 2)
    stage(store, 3)
    fetch(store, 4)
    assert states(store) == {1: "committed", 2: "probation", 3: "staged", 4: "fetching"}


def test_a_newer_release_supersedes_staged_and_probation(store: SlotStore) -> None:
    store.commit(swap(store, 1))
    swap(store, 2)
    stage(store, 3)
    name = fetch(store, 4)
    store.mark_verified(name, 0.1, 4)
    assert store.mark_staged(name, 0.2) == [3]
    store.begin_shadow(name)
    owed = store.begin_probation(name, 7)
    assert [(one.publish_seq, one.outcome) for one in owed] == [(2, "superseded"), (4, "swapped")]
    assert states(store) == {1: "committed", 2: "superseded", 3: "superseded", 4: "probation"}
    store.roll_back(name, "fault")
    assert store.find("committed")[1].publish_seq == 1


def test_a_power_cut_anywhere_leaves_the_committed_release(store: SlotStore) -> None:
    store.commit(swap(store, 1))
    steps = [
        lambda: fetch(store, 2),
        lambda: store.mark_verified(store.find("fetching")[0], 0.1, 4),
        lambda: store.mark_staged(store.find("verified")[0], 0.2),
        lambda: store.begin_shadow(store.find("staged")[0]),
        lambda: store.begin_probation(store.find("shadow")[0]),
    ]
    after = ["fetching", "staged", "staged", "staged", "staged"]
    for step, expected in zip(steps, after, strict=True):
        step()
        before = (store.folder / "state.json").read_bytes()
        rebooted = SlotStore(store.folder, "pkg")
        rebooted.recover()
        assert states(rebooted) == {1: "committed", 2: expected}
        (store.folder / "state.json").write_bytes(before)


def test_what_keeps_being_interrupted_is_quarantined(store: SlotStore) -> None:
    stage(store, 1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        store.begin_shadow(store.find("staged")[0])
        assert store.recover() != []
        assert states(store) == {1: "staged" if attempt < MAX_ATTEMPTS else "quarantined"}
    assert store.state().newest_seq == 1


def test_a_quarantined_number_counts_as_seen(store: SlotStore) -> None:
    name = fetch(store, 7)
    store.quarantine(name, "hash")
    assert store.state().newest_seq == 7


def test_another_package_starts_anew(store: SlotStore) -> None:
    store.commit(swap(store, 9))
    other = SlotStore(store.folder, "another")
    assert states(other) == {} and other.state().newest_seq == 0


def test_a_damaged_state_is_said_and_not_guessed(store: SlotStore) -> None:
    (store.folder / "state.json").write_bytes(b'{"package_id": "pkg", "slots": 3}')
    with pytest.raises(SlotError, match="damaged"):
        SlotStore(store.folder, "pkg")
