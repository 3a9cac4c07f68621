"""The release life-cycle under any order of publishing, losses, kills, damage and people (a state machine).

What must hold after every step; and that at the end, once nothing disturbs it, the next sound release acts
and the trainer knows what became of all that it was told of.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tiny_package import make_package

from contracts.files.packages import Package
from contracts.release import verify_weights
from runtime.link import releases as link_releases
from runtime.weights.slots import SlotError, SlotStore
from tests.faults.release_world import VALID_S, WILD, World, power_cut

CHUNK_BYTES = 96
"""A release of the tiny package in some pieces."""
SHIFTS = st.floats(0.02, 4.0, allow_subnormal=False).map(lambda value: round(value, 2))
KIND = st.one_of(SHIFTS, SHIFTS, SHIFTS, st.just(WILD))
SUCCESS = st.sampled_from([True, False, None])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


class Releases(RuleBasedStateMachine):
    """`package` is set by the test."""

    package: Package

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="releases-"))
        self._chunk_bytes, link_releases.CHUNK_BYTES = link_releases.CHUNK_BYTES, CHUNK_BYTES
        self.world = World(self.folder, self.package)
        self.newest = 0
        self.never: dict[int, str] = {}
        """Releases that must not act any more, and why."""
        self.acted: set[int] = {0}
        self.owed: dict[str, tuple[int, str]] = {}
        """Every report that was ever written with a change of slots: release and outcome."""

    # Whole stretches of the way, from which the single steps below then stray.

    @rule(kind=KIND, outcomes=st.lists(SUCCESS, max_size=3))
    def a_release_is_tried(self, kind: float, outcomes: list[bool | None]) -> None:
        self.world.trainer.publish(kind)
        self.world.exchange(3)
        for success in outcomes:
            self.an_episode_ends(success)
            self.world.robot.drain()

    @rule(kind=KIND, count=st.integers(1, 6))
    def a_release_is_under_way(self, kind: float, count: int) -> None:
        self.world.trainer.publish(kind)
        self.packets_arrive(count)

    @rule(kind=KIND, fault=st.booleans())
    def a_release_is_cut_off_or_at_fault(self, kind: float, fault: bool) -> None:
        self.world.trainer.publish(kind)
        self.world.exchange(3)
        if fault:
            self.an_episode_faults()
        else:
            self.power_is_cut_in_an_episode()

    # The trainer.

    @rule(kind=KIND)
    def publishes(self, kind: float) -> None:
        self.world.trainer.publish(kind)

    @precondition(lambda self: self.world.released)
    @rule(data=st.data())
    def publishes_old_weights_anew(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.world.released)))
        self.world.trainer.publish(self.world.released[old].shift)

    @rule(shift=SHIFTS)
    def is_killed_between_writing_and_offering(self, shift: float) -> None:
        self.world.trainer.publish(shift, die_before_offering=True)

    @rule()
    def trainer_restarts(self) -> None:
        self.world.trainer.restart()

    # The cable.

    @rule(rounds=st.integers(1, 4))
    def all_goes_well_for_a_while(self, rounds: int) -> None:
        self.world.exchange(rounds)

    @rule(seconds=st.sampled_from([0.06, 0.5, 1.2]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(count=st.integers(1, 3))
    def packets_arrive(self, count: int) -> None:
        for _ in range(count):
            if self.world.cable.to_trainer:
                self.world.trainer.handle(self.world.cable.to_trainer.popleft())
            if self.world.cable.to_robot:
                self.world.robot.handle(self.world.cable.to_robot.popleft())

    @rule()
    def packets_are_lost(self) -> None:
        for queue in (self.world.cable.to_trainer, self.world.cable.to_robot):
            if queue:
                queue.popleft()

    @rule()
    def answers_of_the_trainer_are_lost(self) -> None:
        self.world.robot.drain()
        self.world.pass_time(1.01)
        while self.world.cable.to_trainer:
            self.world.trainer.handle(self.world.cable.to_trainer.popleft())
        self.world.cable.to_robot.clear()

    @rule()
    def the_cable_is_pulled(self) -> None:
        self.world.cable.up = False
        self.world.cable.to_robot.clear()
        self.world.cable.to_trainer.clear()

    @precondition(lambda self: self.world.cable.past)
    @rule(data=st.data())
    def an_old_packet_comes_again(self, data: st.DataObject) -> None:
        past = self.world.cable.past
        self.world.robot.handle(past[data.draw(st.integers(0, len(past) - 1))])

    @precondition(lambda self: self.world.cable.to_robot)
    @rule(place=st.floats(0, 0.999, allow_subnormal=False), bit=st.integers(0, 7))
    def a_packet_is_damaged(self, place: float, bit: int) -> None:
        parts = self.world.cable.to_robot[0]
        damaged = bytearray(parts[-1])
        if damaged:
            damaged[int(place * len(damaged))] ^= 1 << bit
        parts[-1] = bytes(damaged)

    # The robot.

    @rule(success=SUCCESS)
    def an_episode_ends(self, success: bool | None) -> None:
        self._begin_episode()
        self.world.robot.end_episode("", success)

    @rule()
    def an_episode_faults(self) -> None:
        self._begin_episode()
        self.world.robot.end_episode("a fault", None)

    @rule()
    def power_is_cut_in_an_episode(self) -> None:
        self._begin_episode()
        self.power_is_cut()

    @rule()
    def the_link_takes_what_control_said(self) -> None:
        self.world.robot.drain()

    @rule(in_the_middle=st.booleans())
    def link_restarts(self, in_the_middle: bool) -> None:
        self.world.robot.drain(killed_before_release=in_the_middle)
        self.world.cable.to_robot.clear()
        self.world.robot.start_link()

    @rule()
    def control_restarts(self) -> None:
        self.world.robot.start_control()

    @rule()
    def power_is_cut(self) -> None:
        power_cut(self.world)

    @rule()
    def robot_run_ends_and_starts(self) -> None:
        self.world.robot.swapper.close()
        self.world.robot.drain()
        self.world.robot.start_control()
        self.world.robot.start_link()

    @rule(place=st.floats(0, 0.999, allow_subnormal=False), which=st.sampled_from("abcde"))
    def a_file_is_damaged(self, place: float, which: str) -> None:
        path = self.world.robot.slots.weights_path(which)
        if path.exists():
            data = bytearray(path.read_bytes())
            data[int(place * len(data))] ^= 1
            path.write_bytes(bytes(data))

    @rule()
    def what_was_offered_expires(self) -> None:
        self.world.unix_s += VALID_S + 1.0

    # People.

    @rule(data=st.data(), pinned=st.booleans())
    def a_person_pins(self, data: st.DataObject, pinned: bool) -> None:
        seq = data.draw(st.sampled_from(sorted({0, *self.world.released})))
        try:
            self.world.robot.slots.pin(seq)
        except SlotError:
            return
        assert seq in self.acted, f"release {seq} never acted and was pinned"
        self.never.pop(seq, None)
        if not pinned:
            self.world.robot.slots.unpin()

    @rule()
    def a_person_takes_back(self) -> None:
        with contextlib.suppress(SlotError):  # nothing to take back
            self.world.robot.slots.take_back()

    # What must hold.

    @invariant()
    def the_sequence_never_goes_back(self) -> None:
        newest = self._store().state().newest_seq
        assert newest >= self.newest
        assert newest <= max(self.world.released, default=0)
        self.newest = newest

    @invariant()
    def what_acts_was_verified_and_is_of_one_piece(self) -> None:
        robot = self.world.robot
        version = robot.swapper.version
        expected = self.world.expected_answer(version)
        assert np.allclose(robot.answer(), expected, rtol=1e-4, atol=1e-3), f"release {version}"
        if version:
            assert self.world.released[version].shift != WILD
        self.acted.add(version)

    @invariant()
    def what_was_found_wanting_is_known(self) -> None:
        for slot in self._store().state().slots.values():
            if slot.state in ("quarantined", "rolled_back"):
                self.never.setdefault(slot.publish_seq, f"{slot.state}: {slot.reason}")

    @invariant()
    def there_is_always_something_to_start_from(self) -> None:
        """Slots that name weights have them, and only one of each kind."""
        state = self._store().state()
        kinds = Counter(slot.state for slot in state.slots.values())
        assert all(kinds[one] <= 1 for one in ("fetching", "verified", "staged", "shadow"))
        assert all(kinds[one] <= 1 for one in ("probation", "committed"))
        for name, slot in state.slots.items():
            if slot.state in ("verified", "staged", "shadow", "probation", "committed"):
                assert slot.manifest is not None and self._store().weights_path(name).exists()
                assert slot.publish_seq <= state.newest_seq

    @invariant()
    def what_is_owed_is_noted(self) -> None:
        for owed in self._store().state().owed:
            self.owed.setdefault(owed.report_id, (owed.publish_seq, owed.outcome))

    @invariant()
    def an_outcome_is_stored_once(self) -> None:
        twice = [name for name, n in Counter(self.world.trainer.stored()).items() if n > 1]
        assert not twice

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._ends_well()
        finally:
            link_releases.CHUNK_BYTES = self._chunk_bytes
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ends_well(self) -> None:
        world = self.world
        if world.robot.slots.state().pinned:
            world.robot.slots.unpin()
        world.exchange(6)
        seq = world.trainer.publish(5.0 + 0.01 * len(world.released))
        world.exchange(6)
        self._begin_episode()
        assert world.robot.swapper.version == seq, "a sound release does not get through any more"
        world.robot.end_episode("", True)
        self.what_is_owed_is_noted()
        world.exchange(4 + 2 * len(world.robot.ring) + 2 * len(world.robot.outcomes))
        stored = Counter(world.trainer.stored())
        assert set(stored) == world.robot.told and max(stored.values(), default=1) == 1
        never = {what for name, what in self.owed.items() if name not in stored}
        assert not never, f"the trainer never heard of {never}"
        assert not self._store().state().owed
        again = SlotStore(self.folder / "robot" / "slots", world.package.package_id)
        force = again.state().in_force
        assert force is not None and force[1].manifest is not None
        verify_weights(force[1].manifest, again.weights_path(force[0]).read_bytes())

    def _begin_episode(self) -> None:
        """What acts in it must be neither quarantined nor rolled back, until a person says so."""
        self.what_was_found_wanting_is_known()
        self.world.robot.begin_episode()
        self.what_is_owed_is_noted()
        version = self.world.robot.swapper.version
        assert version not in self.never, f"release {version} acts, {self.never[version]}"
        self.acted.add(version)
        self.what_acts_was_verified_and_is_of_one_piece()

    def _store(self) -> SlotStore:
        return SlotStore(self.folder / "robot" / "slots", self.package.package_id)


def _run(package: Package, **chosen: object) -> None:
    Releases.package = package
    run_state_machine_as_test(
        Releases,
        settings=settings(
            deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, **chosen
        ),
    )


def test_whatever_happens_the_next_sound_release_acts(package: Package) -> None:
    _run(package, max_examples=15, stateful_step_count=30, derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_so_it_is_in_many_other_orders(package: Package) -> None:
    _run(package, max_examples=400, stateful_step_count=60)
