"""The trainer's iterations, and which of them a training episode belongs to: by the trainer's count. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer.report.files import number
from trainer.report.rows import Iteration

NOT_STORED = 1 << 40
"""Arrival of what the trainer's index does not have: after everything that it has."""


def finished(metrics: Iterable[Mapping[str, Any]]) -> Iterator[Iteration]:
    """As the trainer's metrics tell them, in the order in which it made them."""
    labels: tuple[str, ...] = ("model",)
    for row in metrics:
        if row.get("kind") == "start":
            labels = tuple(row.get("labels", ("model",)))
        if row.get("kind") == "iteration":
            rest = ("unreadable", "successes", "abstained", "stopped")
            failures = int(row.get("episodes", 0)) - sum(int(row.get(name, 0)) for name in rest)
            yield Iteration(
                number=int(row["iteration"]),
                last_arrival=int(row.get("last_arrival", -1)),
                episodes=int(row.get("episodes", 0)),
                successes=int(row.get("successes", 0)),
                failures=int(row.get("failures", max(0, failures))),
                abstained=int(row.get("abstained", 0)),
                stopped=int(row.get("stopped", 0)),
                update_s=number(row.get("update_s")),
                finished_unix_s=number(row.get("unix_s")),
                labels=labels,
                figures={k: number(v) for k, v in row.get("metrics", {}).items()},
            )


def places(index: Iterable[Mapping[str, Any]]) -> list[int]:
    """Arrivals of the rows of the store's index that count towards an iteration, in order: training episodes,
    those without a step included, and what could not be read. The robot counts them all."""
    return sorted(int(row["arrival"]) for row in index if row.get("purpose") in ("refine", ""))


def iterations_of(
    arrivals: Sequence[int], index: Sequence[int], done: Sequence[Iteration], per_iteration: int
) -> list[int]:
    """From 1, for each of the ascending `arrivals` of training episodes. `index`: what `places` gives;
    `done`: the finished iterations as the trainer wrote them; what came after them belongs to the next one.
    Where it wrote none, every `per_iteration` places are one."""
    if not done:
        stored = bisect_left(arrivals, NOT_STORED)
        counted = [bisect_left(index, arrival) for arrival in arrivals[:stored]]
        counted += range(len(index), len(index) + len(arrivals) - stored)
        return [1 + place // per_iteration for place in counted]
    ends = _ends(_standing(done), index)
    numbers, lasts = [which for which, _ in ends], [last for _, last in ends]
    numbers.append(numbers[-1] + 1)
    return [numbers[bisect_left(lasts, arrival)] for arrival in arrivals]


def _standing(done: Sequence[Iteration]) -> list[Iteration]:
    """Without those that a trainer whose state was removed has made again, or has yet to."""
    kept: list[Iteration] = []
    for iteration in done:
        while kept and kept[-1].number >= iteration.number:
            kept.pop()
        kept.append(iteration)
    return kept


def _ends(done: Sequence[Iteration], index: Sequence[int]) -> list[tuple[int, int]]:
    """(number, arrival of the last episode). Where an older trainer did not tell that, an iteration has as
    many places as it says, from the end of the one before."""
    found, used, last = [], 0, -1
    for iteration in done:
        if iteration.last_arrival >= 0:
            last = iteration.last_arrival
            used = bisect_right(index, last)
        else:
            used = min(used + iteration.episodes, len(index))
            last = index[used - 1] if used else last
        found.append((iteration.number, last))
    return found
