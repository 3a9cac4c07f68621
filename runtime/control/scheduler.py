"""Which action of which chunk belongs to a step, and when the next chunk is asked for.

Splices by measured steps: a chunk that was inferred from the observation of step o gives step s its
entry (s - o), however long the inference took. Estimating latency instead makes arms jump. Pure state,
no engine, no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from runtime.control.ensemble import Ensemble
from runtime.gate.limits import Origin

Action = tuple[float, ...]
DELAYS = 10
"""Latest inferences, of which the slowest says how many actions will be executed during the next (the delay
buffer of Black et al. 2025, arXiv 2506.07339)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`actions`: one per period of the chunk rate, the first belonging to the observation of `step`
    (a tick of the loop), which was `lag` ticks older than that tick. `number` counts inferences within the
    episode; `started_s`: of the inference. `plain`: what the policy said, without exploration, where that is
    something else."""

    number: int
    step: int
    actions: Sequence[Action]
    started_s: float = 0.0
    lag: float = 0.0
    origin: Origin | None = None
    plain: Sequence[Action] = ()

    def at(self, step: float, ratio: int) -> tuple[Action | None, int]:
        """The action of a step, between two entries interpolated, and the entry's index; None beyond."""
        index, between = divmod(step - self.step + self.lag, ratio)
        entry = int(index)
        if entry < 0 or entry >= len(self.actions) - (between > 0):
            return None, -1
        action = self.actions[entry]
        if between:
            share, following = between / ratio, self.actions[entry + 1]
            action = tuple(a + share * (b - a) for a, b in zip(action, following, strict=True))
        return action, entry


@dataclass(frozen=True, slots=True)
class Choice:
    """`action` None: nothing left to do at this step, hold. `index`: place in the chunk, -1 then."""

    action: Action | None
    chunk: int = -1
    index: int = -1
    origin: Origin | None = None


NOTHING = Choice(None)


@dataclass
class Scheduler:
    """`ratio`: loop ticks per chunk entry (between two entries actions are interpolated linearly).
    `execute`: chunk entries after which the next chunk is asked for. `ensemble`: average over chunks instead
    of changing over to the newest. `held`: ticks without an action."""

    ratio: int
    execute: int
    ensemble: Ensemble | None = None
    held: int = 0
    requests: int = 0
    _chunk: Chunk | None = None
    _asked_at: int | None = None
    _not_before: int = 0
    _delays: deque[int] = field(default_factory=lambda: deque(maxlen=DELAYS))

    def begin_episode(self) -> None:
        self.forget(0)
        self.held = self.requests = 0

    def forget(self, step: int) -> None:
        """Start afresh at that step: no chunk from an observation before it is carried out."""
        self._chunk, self._asked_at, self._not_before = None, None, step
        if self.ensemble is not None:
            self.ensemble.clear()

    def is_due(self, step: int) -> bool:
        """Whether an inference should start from the observation of this step."""
        return self._asked_at is None or step >= self._asked_at + self.execute * self.ratio

    def asked(self, step: int) -> int:
        """Note that one starts; returns its number."""
        self._asked_at = step
        self.requests += 1
        return self.requests - 1

    def accept(self, chunk: Chunk, step: int | None = None) -> None:
        """Take over a finished inference at `step`; an older one than the active is ignored."""
        if chunk.step < self._not_before:
            return  # nor was it late: who had the arm meanwhile is not the inference's
        if step is not None:
            self._delays.append(step - chunk.step)
        if self._chunk is None or chunk.step > self._chunk.step:
            self._chunk = chunk
            if self.ensemble is not None:
                self.ensemble.add(chunk.step - chunk.lag, chunk.actions)

    def underway(self, step: int, lag: float = 0.0) -> tuple[list[Action], int]:
        """For an inference from the observation of `step`, `lag` ticks older: the actions that the active
        chunk has for it entry by entry, and how many of them will have been executed when it is there.
        Without exploration's constant: the next chunk gets one of its own, and they would add up."""
        found: list[Action] = []
        chunk = self._chunk
        if chunk is not None and chunk.plain:
            chunk = replace(chunk, actions=chunk.plain)
        while chunk is not None:
            action, _ = chunk.at(step - lag + len(found) * self.ratio, self.ratio)
            if action is None:
                break
            found.append(action)
        # Entry k is of step - lag + k ratio; what is executed is of the steps before step + delay.
        settled = math.ceil((max(self._delays, default=0) + lag) / self.ratio)
        return found, min(settled, len(found))

    def choose(self, step: int) -> Choice:
        """The action of a step; counts steps that have none."""
        chunk = self._chunk
        if chunk is not None and step >= chunk.step:
            action, index = chunk.at(step, self.ratio)
            if action is not None:
                if self.ensemble is not None:
                    action = self.ensemble.blend(step)
                return Choice(action, chunk.number, index, chunk.origin)
        self.held += 1
        return NOTHING
