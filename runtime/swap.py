"""The swapper: takes a staged release to the active engine at an episode boundary, or refuses it.

Owns the engines of one refinable head and the order of checks; slots own the disk. Calls point one way:
control → swapper → slots, engine. The heavy part runs in a thread (`begin`, `poll`), so that the loop goes
on ticking in hold. Whoever calls `poll` or `settle` must have no inference in flight on `engine`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from contracts.errors import EntracteError, ReleaseRejected
from contracts.files import atomic
from contracts.files.packages import Package
from contracts.messages import ReleaseOutcome
from contracts.package import check_tensors
from contracts.release import MAX_WEIGHTS_BYTES, verify_weights
from contracts.weights import read_tensors
from runtime.engines import Engine
from runtime.slots import Slot, SlotStore, boot_id
from runtime.swap_checks import (
    Arrays,
    SwapLimits,
    check_latency,
    check_outputs,
    norm_change,
    with_candidates,
)

WARM_UP_RUNS = 2
CANDIDATE_RUNS = 10
"""Timed runs with the release's own number of candidates: enough that one pause is no verdict."""


@dataclass
class ActiveHead:
    """An engine and what it is: `version` is the release's publish_seq, 0 for the package's own weights.
    `slot`: where it came from, "" for the package."""

    engine: Engine
    version: int
    samples: int
    settings: Mapping[str, float]
    slot: str = ""


@dataclass
class _Trial:
    """One attempt at the staged release; filled by the thread, read after `done`."""

    episode_seq: int
    done: threading.Event = field(default_factory=threading.Event)
    head: ActiveHead | None = None
    outcomes: list[ReleaseOutcome] = field(default_factory=list)


class Swapper:
    """The refinable head of one target ("policy" or "reward") on this robot."""

    def __init__(
        self,
        target: str,
        slots: SlotStore,
        package: Package,
        engine: Engine,
        *,
        robot_id: str,
        limits: SwapLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`engine`: the head graph with the package's own weights; the swapper closes it if replaced."""
        self.target, self.slots, self.package = target, slots, package
        self.robot_id, self.limits, self._clock = robot_id, limits or SwapLimits(), clock
        chunk = package.manifest.chunk
        own = ActiveHead(engine, 0, chunk.samples if chunk else 0, package.manifest.settings)
        self.active = own
        self._committed = own
        self._recent: deque[dict[str, np.ndarray]] = deque(maxlen=self.limits.recorded)
        self._trial: _Trial | None = None
        self._tried = 0

    @property
    def engine(self) -> Engine:
        """The engine that acts now."""
        return self.active.engine

    @property
    def version(self) -> int:
        return self.active.version

    @property
    def tried(self) -> int:
        """Highest publish_seq that acts or was tried since the start, refused ones too: only what is
        above it is news."""
        return max(self._tried, self.version)

    def start(self) -> list[str]:
        """Recover the slots and load the committed release, if there is one; returns what to log.

        A committed release that can't be loaded any more leaves the package's own weights active.
        """
        notes = self.slots.recover()
        committed = self.slots.find("committed")
        if committed is None:
            return notes
        name, slot = committed
        try:
            self.active = self._committed = self._checked(name, slot)
            notes.append(f"{self.target}: starting from release {slot.publish_seq}")
        except (EntracteError, OSError) as error:
            notes.append(f"{self.target}: release {slot.publish_seq} can't be loaded: {error}")
        return notes

    def remember(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Keep the head inputs of an inference for the next replay (copies nothing: don't write to them)."""
        self._recent.append(dict(inputs))

    def begin(self, episode_seq: int) -> bool:
        """Start trying the newest staged release; False if there is none. `episode_seq`: the episode
        that would be the first to run with it."""
        if self._trial is not None or self.slots.find("staged") is None:
            return False
        self._trial = _Trial(episode_seq)
        thread = threading.Thread(target=self._try, args=(self._trial,), name="swap", daemon=True)
        thread.start()
        return True

    def poll(self) -> list[ReleaseOutcome] | None:
        """None while the trial runs; afterwards its outcomes, the new head being active if it passed."""
        trial = self._trial
        if trial is None:
            return []
        if not trial.done.is_set():
            return None
        self._trial = None
        if trial.head is not None:
            self._activate(trial.head)
        return trial.outcomes

    def swap(self, episode_seq: int) -> list[ReleaseOutcome]:
        """`begin` and wait: for a loop whose clock stands still meanwhile (pace asap)."""
        if not self.begin(episode_seq):
            return []
        assert self._trial is not None
        self._trial.done.wait()
        return self.poll() or []

    def settle(self, fault: str = "") -> ReleaseOutcome | None:
        """End of an episode: commits the release on probation, or rolls it back for `fault`.

        None if nothing is on probation. One episode without a fault commits for now; the sequential
        test of success replaces this rule, not this call.
        """
        head = self.active
        if head is self._committed:
            return None
        slot = self.slots.state().slots[head.slot]
        if fault:
            self.slots.roll_back(head.slot, fault)
            self.active = self._committed
            head.engine.close()
            return self._outcome(slot, "rolled_back", fault, -1)
        self.slots.commit(head.slot)
        self._committed.engine.close()
        self._committed = head
        return self._outcome(slot, "committed", "", -1)

    def close(self) -> None:
        """Close every engine; waits for a running trial first."""
        if self._trial is not None:
            self._trial.done.wait()
            self.poll()
        for engine in {id(e): e for e in (self.active.engine, self._committed.engine)}.values():
            engine.close()

    def _activate(self, head: ActiveHead) -> None:
        old, self.active = self.active, head
        if old is not self._committed:
            old.engine.close()

    def _try(self, trial: _Trial) -> None:
        """In the thread: everything that takes time, disk included."""
        try:
            staged = self.slots.find("staged")
            if staged is None:
                return
            name, slot = staged
            self._tried = max(self._tried, slot.publish_seq)
            self.slots.begin_shadow(name)
            try:
                head = self._checked(name, slot)
            except ReleaseRejected as error:
                self.slots.quarantine(name, f"{error.reason}: {error}")
                trial.outcomes.append(self._outcome(slot, "rejected", str(error), -1))
                return
            except (EntracteError, OSError) as error:
                self.slots.quarantine(name, str(error))
                trial.outcomes.append(self._outcome(slot, "rejected", str(error), -1))
                return
            for seq in self.slots.begin_probation(name):
                old = Slot(publish_seq=seq, boot_id="superseded")
                reason = f"release {slot.publish_seq} took its place"
                trial.outcomes.append(self._outcome(old, "superseded", reason, -1))
            trial.head = head
            trial.outcomes.append(self._outcome(slot, "swapped", "", trial.episode_seq))
        except (
            Exception
        ) as error:  # a thread that dies silently would leave control waiting in hold
            trial.outcomes.append(
                self._outcome(Slot(), "rejected", f"{type(error).__name__}: {error}", -1)
            )
        finally:
            trial.done.set()

    def _checked(self, name: str, slot: Slot) -> ActiveHead:
        """An engine with that slot's weights which passed every check. Raises `ReleaseRejected`."""
        manifest = slot.manifest
        if manifest is None:
            raise ReleaseRejected("manifest", f"slot {name} has no manifest")
        data = atomic.read_bytes(self.slots.weights_path(name), MAX_WEIGHTS_BYTES)
        verify_weights(manifest, data)
        tensors = read_tensors(data)
        problems = check_tensors(self.package.manifest.refinable, tensors)
        if problems:
            raise ReleaseRejected("tensors", f"weights do not fit: {'; '.join(problems[:3])}")
        change = norm_change(self.package.refinable_weights(), tensors)
        if not change <= self.limits.norm_change:
            raise ReleaseRejected(
                "norm",
                "weights moved too far from the package's own",
                expected=f"<= {self.limits.norm_change:g} of their norm",
                found=f"{change:.3g}",
            )
        standby = self.active.engine.standby(tensors)
        try:
            self._replay(standby, manifest.samples)
        except BaseException:
            standby.close()
            raise
        settings = {**self.package.manifest.settings, **manifest.settings}
        return ActiveHead(standby, manifest.publish_seq, manifest.samples, settings, name)

    def _replay(self, standby: Engine, samples: int) -> None:
        """Golden and recorded observations through the active engine and the standby, and one of them with
        the number of candidates that the release draws."""
        cases: list[Arrays] = [case.inputs for case in self.package.golden.get("head", ())]
        cases += list(self._recent)
        if not cases:
            return
        for _ in range(WARM_UP_RUNS):
            standby.run(cases[0])
        before, after = [], []
        before_s, after_s = [], []
        for inputs in cases:
            start = time.perf_counter()
            old = self.active.engine.run(inputs)
            middle = time.perf_counter()
            new = standby.run(inputs)
            before_s.append(middle - start)
            after_s.append(time.perf_counter() - middle)
            # The next run writes over both.
            before.append({name: array.copy() for name, array in old.items()})
            after.append({name: array.copy() for name, array in new.items()})
        late = check_latency(before_s, after_s, self.limits)
        drawn = with_candidates(self.package.manifest.chunk, standby.inputs, cases[-1], samples)
        if drawn is not None:
            # Last, so that its buffers are the last that the standby would let go.
            new, new_s = _run_candidates(standby, drawn, samples)
            after.append(new)
            before.append({name: a.copy() for name, a in self.active.engine.run(drawn).items()})
            late = late or check_latency(before_s, new_s, self.limits)
        problems = check_outputs(self.package.manifest, before, after, self.limits)
        if problems or late:
            reason = "replay" if problems else "latency"
            raise ReleaseRejected(
                reason, f"replay of {len(cases)} observations: {'; '.join([*problems, late])}"
            )

    def _outcome(self, slot: Slot, outcome: str, reason: str, episode_seq: int) -> ReleaseOutcome:
        same_boot = slot.boot_id == boot_id()
        now = self._clock() - slot.offered_s if same_boot else math.nan
        return ReleaseOutcome(
            robot_id=self.robot_id,
            target=self.target,
            publish_seq=slot.publish_seq,
            outcome=outcome,
            reason=reason,
            episode_seq=episode_seq,
            bytes_on_wire=slot.bytes_on_wire,
            verified_s=slot.verified_s if slot.verified_s >= 0 else math.nan,
            staged_s=slot.staged_s if slot.staged_s >= 0 else math.nan,
            swapped_s=now if outcome == "swapped" else math.nan,
        )


def _run_candidates(
    standby: Engine, inputs: Arrays, samples: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Outputs (the caller's) and seconds of each run, after what the first runs bind and capture. Raises
    `ReleaseRejected` for a number of candidates that the engine does not take."""
    try:
        for _ in range(WARM_UP_RUNS):
            standby.run(inputs)
    except Exception as error:  # whatever an engine raises, it would raise in the episode
        raise ReleaseRejected(
            "samples",
            f"the engine does not take the release's {samples} candidates",
            found=str(error),
        ) from error
    taken_s = []
    for _ in range(CANDIDATE_RUNS):
        start = time.perf_counter()
        answer = standby.run(inputs)
        taken_s.append(time.perf_counter() - start)
    return {name: array.copy() for name, array in answer.items()}, taken_s
