"""The swapper: takes a staged release to the active engine at an episode boundary, or refuses it, and takes
it back when it does worse.

Owns the engines of one refinable head. What should act is what the slots say (`TargetState.in_force`); the
swapper follows them, and never the other way round. Calls point one way: control → swapper → slots, engine.
The heavy part runs in a thread (`begin`, `poll`), so that the loop goes on ticking in hold. Whoever calls
`poll`, `settle` or `follow` must have no inference in flight on `engine`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import msgspec
import numpy as np

from contracts.errors import ReleaseRejected
from contracts.files.packages import Package
from contracts.messages import ReleaseOutcome
from contracts.release import require_fresh
from runtime.engines import Engine
from runtime.weights.probation import Probation
from runtime.weights.slots import PERSON, Owed, Slot, SlotStore, TargetState
from runtime.weights.swap_ahead import Ahead, Beside
from runtime.weights.swap_checks import SwapLimits, check_latency
from runtime.weights.swap_outcome import in_words, outcome_of
from runtime.weights.swap_replay import ActiveHead, checked_head

MOST_TIMED = 512
"""Runs of an episode whose time is kept."""
LEAST_TIMED = 8
"""Fewer runs in an episode say nothing about its latency."""
LATE_EPISODES = 2
"""So many in a row over the budget: one pause of the machine is no verdict."""
EARLIER = "earlier"
"""For a boot that was another, or a moment that is past: no time is told."""


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
        rules: Probation | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`engine`: the head graph with the package's own weights; the swapper closes it at the end."""
        self.target, self.slots, self.package = target, slots, package
        self.robot_id, self._clock, self._unix_clock = robot_id, clock, unix_clock
        self.limits, self.rules = limits or SwapLimits(), rules or Probation()
        chunk = package.manifest.chunk
        own = ActiveHead(engine, 0, chunk.samples if chunk else 0, package.manifest.settings)
        self._own = self.active = self._committed = own
        self._recent: deque[dict[str, np.ndarray]] = deque(maxlen=self.limits.recorded)
        self._taken_s: deque[float] = deque(maxlen=MOST_TIMED)
        self._late = 0
        self._trial: _Trial | None = None
        self._tried = 0
        self._unfit: dict[int, str] = {}
        """Releases that should act and can't be loaded any more, and why."""
        self._unheard: list[ReleaseOutcome] = []
        """Of those, what the trainer is to hear at the next boundary."""
        self._told: set[str] = set()
        """Reports that were given out since the start: what is owed besides was never heard of."""
        self._running = threading.Lock()
        self._ahead: Ahead | None = None
        self.newest_staged: Callable[[], int] | None = None
        """Where time is real: says which release waits. A newer one is then made ready while the one before
        acts; the engine must let another thread make and run a standby of it."""

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
        """Recover the slots and load what they say should act; returns what to log.

        A release that can't be loaded any more leaves the package's own weights active.
        """
        notes = [f"{self.target}: {note}" for note in self.slots.recover()]
        problem = self._follow(self.slots.state())
        if problem:
            notes.append(f"{self.target}: {problem}")
        elif self.version:
            notes.append(f"{self.target}: starting from release {self.version}")
        return notes

    def follow(self, episode_seq: int) -> list[ReleaseOutcome]:
        """Make active what the slots say should act: a person may have pinned a release or rolled one back.
        `episode_seq`: the first episode to run with it. Returns what the trainer should hear of that, and all
        that it is still owed from before the start (the power may have been cut before it was told)."""
        state = self.slots.state()
        self._follow(state)
        outcomes = []
        for owed in state.owed:
            if owed.report_id in self._told:
                continue
            found = state.by_seq(owed.publish_seq)
            slot = msgspec.structs.replace(found[1] if found else Slot(), boot_id=EARLIER)
            outcomes.append(self._outcome(slot, self._as_it_is(owed, episode_seq)))
        unheard, self._unheard = self._unheard, []
        said = {told.publish_seq for told in outcomes if told.outcome == "rejected"}
        return outcomes + [one for one in unheard if one.publish_seq not in said]

    def _as_it_is(self, owed: Owed, episode_seq: int) -> Owed:
        """What became of a person's wish, which was written down before control could follow it."""
        if owed.reason != PERSON:
            return owed
        why = self._unfit.get(owed.publish_seq)
        if why is not None:
            return msgspec.structs.replace(owed, outcome="rejected", reason=why)
        return msgspec.structs.replace(owed, episode_seq=episode_seq)

    def remember(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Keep the head inputs of an inference for the next replay (copies nothing: don't write to them).
        Where time is real, also see whether a release waits that could be made ready meanwhile."""
        self._recent.append(dict(inputs))
        idle = self._ahead is None and self._trial is None
        if idle and self.newest_staged is not None and self.newest_staged() > self.tried:
            self.look_ahead()

    def look_ahead(self) -> None:
        """Make the staged release ready in a thread, with everything checked; the next `begin` takes it."""
        self._ahead = Ahead(self.version)
        engine = cast(Engine, Beside(self.active.engine, self._running))
        self._ahead.start(self.slots, lambda name, slot: self._checked(name, slot, engine))

    @property
    def ready(self) -> bool:
        """Whether a release was made ready ahead."""
        return self._ahead is not None and self._ahead.done.is_set()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One run of the engine that acts, timed: on probation its latency counts too."""
        with self._running:
            start = time.perf_counter()
            outputs = self.active.engine.run(inputs)
        self._taken_s.append(time.perf_counter() - start)
        return outputs

    def begin(self, episode_seq: int) -> bool:
        """Start trying the newest staged release; False if there is none, or a person has pinned another.
        `episode_seq`: the episode that would be the first to run with it."""
        state = self.slots.state()
        waits = self._ahead is not None or state.named("staged", "shadow") is not None
        if self._trial is not None or state.pinned or not waits:
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

    def settle(
        self,
        fault: str = "",
        success: bool | None = None,
        *,
        timed: bool = False,
        may_commit: bool = True,
        head: str = "",
    ) -> ReleaseOutcome | None:
        """An episode with the active head is over: counted on disk, and the release on probation committed
        or rolled back where that follows. `success` None: nobody knows. `fault`: at once. `timed`: real time
        passes, so that runs which take too long are a reason too. `may_commit`, `head`: as of the slots'
        `settle`. None while nothing follows."""
        acted, late = self.active, self._latency() if timed else ""
        self._taken_s.clear()
        verdict, slot, owed = self.slots.settle(
            acted.version, success, self.rules, fault or late, may_commit=may_commit, head=head
        )
        if verdict == "commit":
            old, self._committed = self._committed, acted
            self._drop(old)
        elif verdict == "roll_back":
            self._activate(self._committed)
        return self._outcome(slot, owed[0]) if owed else None

    def close(self) -> None:
        """Close every engine; waits for a running trial first."""
        if self._trial is not None:
            self._trial.done.wait()
            self.poll()
        if self._ahead is not None:
            self._ahead.done.wait()
            if self._ahead.head is not None:
                self._ahead.head.engine.close()
        heads = (self.active, self._committed, self._own)
        for engine in {id(h.engine): h.engine for h in heads}.values():
            engine.close()

    def _follow(self, state: TargetState) -> str:
        """What acts, and what a roll-back leads to, as `state` says. Returns why that can't be, or ""."""
        force = state.in_force
        if self._trial is not None:
            return ""
        problem = self._use_committed(state.named("committed"))
        wanted = force[1].publish_seq if force else 0
        if wanted in self._unfit:
            self._activate(self._committed)
        if wanted == self.version or wanted in self._unfit:
            return problem
        self._tried = self.tried
        if force is None or wanted == self._committed.version:
            self._activate(self._committed)
            return ""
        try:
            self._activate(self._checked(*force, timed=False))
        except Exception as error:  # an engine's own, too: control goes on with what it has
            problem = self._leave_out(force[1], error)
            self._activate(self._committed)
            return problem
        return ""

    def _use_committed(self, committed: tuple[str, Slot] | None) -> str:
        """Have at hand what a roll-back leads to. Returns why that can't be, or nothing."""
        wanted = committed[1].publish_seq if committed else 0
        if wanted == self._committed.version or wanted in self._unfit:
            return ""
        old = self._committed
        if committed is None:
            self._committed = self._own
        elif wanted == self.active.version:
            self._committed = self.active
        else:
            try:
                self._committed = self._checked(*committed, timed=False)
            except Exception as error:
                # On disk it stays committed: the next start may find it sound.
                problem = self._leave_out(committed[1], error)
                self._committed = self._own
                self._drop(old)
                return problem
        self._drop(old)
        return ""

    def _leave_out(self, slot: Slot, error: Exception) -> str:
        """For the rest of the run; returns why. The trainer hears it too: episodes are other weights' now."""
        why = f"release {slot.publish_seq} can't be loaded: {in_words(error)}"
        self._unfit[slot.publish_seq] = why
        self._unheard.append(self._unowed(slot, why))
        return why

    def _activate(self, head: ActiveHead) -> None:
        old, self.active = self.active, head
        self._taken_s.clear()
        self._late = 0
        self._drop(old)

    def _drop(self, head: ActiveHead) -> None:
        """Close an engine that nothing leads back to. That of the package's own weights is kept."""
        if head is not self.active and head is not self._committed and head is not self._own:
            if self._ahead is not None and self._ahead.against == head.version:
                self._ahead.done.wait()  # it runs that engine too
            head.engine.close()

    def _latency(self) -> str:
        """What is wrong with the time that the runs of this episode took; empty while nothing is."""
        was_s = self.active.was_s
        if was_s <= 0.0 or len(self._taken_s) < LEAST_TIMED:
            return ""
        late = check_latency([was_s], list(self._taken_s), self.limits)
        self._late = self._late + 1 if late else 0
        return f"latency: {late}" if self._late >= LATE_EPISODES else ""

    def _try(self, trial: _Trial) -> None:
        """In the thread: everything that takes time, disk included."""
        slot, before = Slot(), self._tried
        head: ActiveHead | None = None
        try:
            ahead, self._ahead = self._ahead, None
            if ahead is not None:
                ahead.done.wait()
                head, slot = ahead.head, ahead.slot
            self.slots.free_shadow(ahead.name if ahead else "")
            staged = self.slots.find("staged") if ahead is None or not ahead.name else None
            if ahead is not None and ahead.name:
                name, slot = ahead.name, ahead.slot
            elif staged is not None:
                name, slot = staged
                self.slots.begin_shadow(name)
            else:
                return
            self._tried = max(before, slot.publish_seq)
            try:
                head = self._from_ahead(ahead)
                self._require_not_barred(slot)
                if slot.manifest is not None and not slot.served:  # it may have waited for long
                    require_fresh(slot.manifest, self._unix_clock())
                head = head or self._checked(name, slot)
            except Exception as error:
                # An engine's own, too: a slot that is left in shadow is none for the next.
                what = in_words(error)
                reason = f"{error.reason}: " if isinstance(error, ReleaseRejected) else ""
                said = self.slots.quarantine(name, f"{reason}{what}", owes=what)
                trial.outcomes += [self._outcome(slot, one) for one in said]
                if head is not None:
                    head.engine.close()
                return
            said = self.slots.begin_probation(name, trial.episode_seq)
            if not said:  # a person has pinned what acts: this one waits, untried
                self._tried = before
                head.engine.close()
                return
            for owed in said:
                old = Slot(publish_seq=owed.publish_seq, boot_id=EARLIER)
                mine = owed.publish_seq == slot.publish_seq
                trial.outcomes.append(self._outcome(slot if mine else old, owed))
            trial.head = head
        except Exception as error:
            # The disk's, mostly: it is tried again. A thread that dies silently would leave control waiting.
            self._tried = before
            if head is not None:
                head.engine.close()
            trial.outcomes.append(self._unowed(slot, f"{type(error).__name__}: {error}"))
        finally:
            trial.done.set()

    def _from_ahead(self, ahead: Ahead | None) -> ActiveHead | None:
        """What was made ready, unless it was checked against another head than the one that acts now."""
        if ahead is None or not ahead.name:
            return None
        if ahead.against != self.version:
            if ahead.head is not None:
                ahead.head.engine.close()
            return None
        if ahead.problem is not None:
            raise ahead.problem
        return ahead.head

    def _checked(
        self, name: str, slot: Slot, active: Engine | None = None, *, timed: bool = True
    ) -> ActiveHead:
        """An engine with that slot's weights which passed every check. `timed`: its latency as well; what
        has acted here before must not be left out for a pause of the machine at a start. Raises
        `ReleaseRejected`."""
        manifest = slot.manifest
        if manifest is None:
            raise ReleaseRejected("manifest", f"slot {name} has no manifest")
        return checked_head(
            self.package,
            active or self.active.engine,
            manifest,
            name,
            self.slots.weights_path(name),
            list(self._recent),
            self.limits,
            timed=timed,
        )

    def _require_not_barred(self, slot: Slot) -> None:
        """Raises `ReleaseRejected` for contents that were taken back under another number."""
        known = self.slots.state().barred
        if slot.manifest is not None and slot.manifest.weights_id in known:
            raise ReleaseRejected(
                "barred",
                "these weights were tried before and taken back",
                found=known[slot.manifest.weights_id],
                remedy="robot-run slots pin, where they should act all the same",
            )

    def _unowed(self, slot: Slot, why: str) -> ReleaseOutcome:
        """Refused without a change of slots: whoever tells it names it."""
        return self._outcome(slot, Owed("", slot.publish_seq, "rejected", why))

    def _outcome(self, slot: Slot, owed: Owed) -> ReleaseOutcome:
        self._told.add(owed.report_id)
        return outcome_of(self.robot_id, self.target, slot, owed, self._clock())
