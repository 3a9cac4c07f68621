"""Which action of which chunk belongs to a step, and when the next chunk is asked for.

Splices by measured steps: a chunk that was inferred from the observation of step o gives step s its
entry (s - o), however long the inference took. Estimating latency instead makes arms jump. Pure state,
no engine, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Action = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """`actions`: one per period of the chunk rate, the first belonging to the observation of `step`
    (a tick of the loop). `number` counts inferences within the episode; `started_s`: of the inference."""

    number: int
    step: int
    actions: Sequence[Action]
    started_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """`action` None: nothing left to do at this step, hold. `index`: place in the chunk, -1 then."""

    action: Action | None
    chunk: int = -1
    index: int = -1


NOTHING = Choice(None)


@dataclass
class Scheduler:
    """`ratio`: loop ticks per chunk entry (between two entries actions are interpolated linearly).
    `execute`: chunk entries after which the next chunk is asked for. `held`: ticks without an action."""

    ratio: int
    execute: int
    held: int = 0
    requests: int = 0
    _chunk: Chunk | None = None
    _asked_at: int | None = None

    def begin_episode(self) -> None:
        self._chunk, self._asked_at = None, None
        self.held = self.requests = 0

    def is_due(self, step: int) -> bool:
        """Whether an inference should start from the observation of this step."""
        return self._asked_at is None or step >= self._asked_at + self.execute * self.ratio

    def asked(self, step: int) -> int:
        """Note that one starts; returns its number."""
        self._asked_at = step
        self.requests += 1
        return self.requests - 1

    def accept(self, chunk: Chunk) -> None:
        """Take over a finished inference; an older one than the active is ignored."""
        if self._chunk is None or chunk.step > self._chunk.step:
            self._chunk = chunk

    def choose(self, step: int) -> Choice:
        """The action of a step; counts steps that have none."""
        chunk = self._chunk
        if chunk is not None and step >= chunk.step:
            index, between = divmod(step - chunk.step, self.ratio)
            if index < len(chunk.actions) - (between > 0):
                action = chunk.actions[index]
                if between:
                    share, following = between / self.ratio, chunk.actions[index + 1]
                    action = tuple(
                        a + share * (b - a) for a, b in zip(action, following, strict=True)
                    )
                return Choice(action, chunk.number, index)
        self.held += 1
        return NOTHING
