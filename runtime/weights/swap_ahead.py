"""A staged release made ready beside the episode that is under way, so that the boundary has only to take it.

Owns the thread and what it may not do at once with the loop's own inference; the checks are `swap_replay`'s,
the swapper decides when, and the slots own what is on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from contracts.package import TensorSpec
from runtime.engines import Engine
from runtime.system.priority import Rank, run_first
from runtime.weights.slots import Slot, SlotStore
from runtime.weights.swap_replay import ActiveHead


class Beside:
    """An engine that another thread runs too: one run at a time, its outputs the caller's."""

    def __init__(self, engine: Engine, running: AbstractContextManager[object]) -> None:
        self._engine, self._running = engine, running

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._engine.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._running:
            return {name: array.copy() for name, array in self._engine.run(inputs).items()}

    def standby(self, weights: Mapping[str, np.ndarray]) -> Engine:
        return self._engine.standby(weights)

    def close(self) -> None:
        """The engine is not ours to close."""


@dataclass
class Ahead:
    """A release in shadow. Filled by the thread, read after `done`; `head` None: it did not pass, for
    `problem`. `against`: the version that acted when it was checked."""

    against: int
    name: str = ""
    slot: Slot = field(default_factory=Slot)
    head: ActiveHead | None = None
    problem: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def start(self, slots: SlotStore, check: Callable[[str, Slot], ActiveHead]) -> None:
        arguments = (slots, check)
        threading.Thread(target=self._make, args=arguments, name="ahead", daemon=True).start()

    def _make(self, slots: SlotStore, check: Callable[[str, Slot], ActiveHead]) -> None:
        run_first(Rank.AHEAD)
        try:
            state = slots.state()
            staged = state.named("staged")
            if staged is None or state.pinned:
                return
            slots.begin_shadow(
                staged[0]
            )  # counted: what ends the process here is not tried for ever
            self.name, self.slot = staged
            self.head = check(*staged)
        except Exception as error:
            self.problem = error
        finally:
            self.done.set()
