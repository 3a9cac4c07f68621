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
    """Episodes by outcome. `unjudged`: nobody knows how it went. `seen` of the successes and `missed` of the
    failures are a reward head's word; `other`: another head's, which says nothing of this one's."""

    successes: int = 0
    failures: int = 0
    unjudged: int = 0
    seen: int = 0
    missed: int = 0
    other: int = 0

    @property
    def counted(self) -> int:
        return self.successes + self.failures

    @property
    def rate(self) -> float:
        """Success rate, as Laplace estimates it: without any episode one half."""
        return (self.successes + 1) / (self.counted + 2)

    def add(self, success: bool | None, by_head: bool = False) -> Tally:
        """With one more episode. `by_head`: a reward head judged it."""
        if success is None:
            return msgspec.structs.replace(self, unjudged=self.unjudged + 1)
        successes, failures = self.successes + success, self.failures + (not success)
        seen = self.seen + (success and by_head)
        missed = self.missed + (not success and by_head)
        share = 2 if successes + failures > MOST_REMEMBERED else 1
        return Tally(
            successes // share,
            failures // share,
            self.unjudged,
            seen // share,
            missed // share,
            self.other,
        )

    def labelled(self) -> Tally:
        """Without what a reward head judged."""
        other = self.other + self.seen + self.missed
        labelled = self.successes - self.seen, self.failures - self.missed
        return Tally(*labelled, self.unjudged, other=other)

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
    episodes = trial.counted + trial.unjudged + trial.other
    if reference.other and reference.counted < rules.unjudged:
        # One half for a rate would be a guess: where few succeed it rolls back whatever comes.
        why = f"{episodes} episodes without a fault, and too few of the committed one's by this reward head"
        return ("commit" if episodes >= rules.unjudged else "on"), why
    found = evidence(reference, trial, rules)
    said = f"{trial} episodes succeeded, {reference} of the committed one's"
    if found >= rules.upper:
        return "roll_back", f"worse: {said}"
    if found <= rules.lower:
        return "commit", f"as good: {said}"
    if trial.counted == 0 and trial.unjudged >= rules.unjudged:
        return "commit", f"{trial.unjudged} episodes without a fault that nobody judged"
    if episodes >= rules.most_episodes:
        return "commit", f"no verdict in {rules.most_episodes} episodes: {said}"
    return "on", said
