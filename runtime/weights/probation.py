"""Probation: whether a release does worse than the one committed before it, asked after every episode.

A sequential probability ratio test (A. Wald, "Sequential Tests of Statistical Hypotheses", 1945) between
"as good as the committed one" and "worse by `drop`". Pure: counts in, verdict out; slots own the disk.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Verdict = Literal["on", "commit", "roll_back"]
MOST_REMEMBERED = 200
"""Episodes that a tally remembers: with more, both counts are halved, so that the robot's own past, of a
worn gripper or another lamp, counts less than what it does now."""
_LEAST_SHARE = 0.1
"""Of the committed rate that "worse" is at least: where that one nearly always fails, no drop has room."""


class Tally(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Episodes by outcome. `unjudged`: nobody knows how it went."""

    successes: int = 0
    failures: int = 0
    unjudged: int = 0

    @property
    def counted(self) -> int:
        return self.successes + self.failures

    @property
    def rate(self) -> float:
        """Success rate, as Laplace estimates it: without any episode one half."""
        return (self.successes + 1) / (self.counted + 2)

    def add(self, success: bool | None) -> Tally:
        """With one more episode."""
        if success is None:
            return msgspec.structs.replace(self, unjudged=self.unjudged + 1)
        successes, failures = self.successes + success, self.failures + (not success)
        if successes + failures > MOST_REMEMBERED:
            successes, failures = successes // 2, failures // 2
        return Tally(successes, failures, self.unjudged)

    def __str__(self) -> str:
        return f"{self.successes} of {self.counted}"


class Probation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`drop`: how much less success is worse. `alpha`: nominal share of releases as good as the committed
    one that are rolled back; `beta`: of those worse by `drop` that are committed. Wald's bounds are not
    sharp: with these defaults a rate of 0.9 is rolled back in under 5 % (docs/releases.md has the figures).
    `most_episodes`: after so many without a verdict the release is committed; `unjudged`: after so many
    when none of them could be judged."""

    drop: float = 0.3
    alpha: float = 0.06
    beta: float = 0.1
    most_episodes: int = 40
    unjudged: int = 5

    @property
    def upper(self) -> float:
        """Evidence from which on the release is rolled back."""
        return math.log((1.0 - self.beta) / self.alpha)

    @property
    def lower(self) -> float:
        """Evidence down to which it is committed."""
        return math.log(self.beta / (1.0 - self.alpha))


def evidence(reference: Tally, trial: Tally, rules: Probation) -> float:
    """Log likelihood ratio of "worse by `drop`" to "as good as `reference`" after the episodes of `trial`."""
    good = reference.rate
    worse = max(good - rules.drop, _LEAST_SHARE * good)
    return trial.successes * math.log(worse / good) + trial.failures * math.log(
        (1.0 - worse) / (1.0 - good)
    )


def judge(reference: Tally, trial: Tally, rules: Probation) -> tuple[Verdict, str]:
    """What follows from the episodes so far, and why. `reference`: the committed release's tally."""
    found = evidence(reference, trial, rules)
    said = f"{trial} episodes succeeded, {reference} of the committed one's"
    if found >= rules.upper:
        return "roll_back", f"worse: {said}"
    if found <= rules.lower:
        return "commit", f"as good: {said}"
    if trial.counted == 0 and trial.unjudged >= rules.unjudged:
        return "commit", f"{trial.unjudged} episodes without a fault that nobody judged"
    if trial.counted + trial.unjudged >= rules.most_episodes:
        return "commit", f"no verdict in {rules.most_episodes} episodes: {said}"
    return "on", said
