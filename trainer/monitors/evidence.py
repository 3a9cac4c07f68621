"""Sequential tests of whether the reward calls successes what nobody else does. Pure.

Evidence is an e-process: the wealth of a gambler who starts with 1 and can't expect to win while the
hypothesis holds. By Ville's inequality it ever reaches 1/p with a chance of p at most, however long a run
lasts and whenever one looks (Ramdas, Grünwald, Vovk, Shafer: "Game-theoretic statistics and safe
anytime-valid inference", Statistical Science 38, 2023). Nobody knows when a reward goes wrong: one gambler
begins with every `BLOCK` episodes, the j-th with a share 1 / (j (j + 1)) of the wealth.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

BLOCK = 10
_BETS = (0.5, 0.9)
"""Of the largest bet that can't ruin a gambler: a careful one and a bold one."""
_GROWTHS = (0.15, 0.5, 0.9)
"""Of the way from the bound to 1: rates that are betted on."""
_BASE_RATES = np.linspace(0.0, 1.0, 201)


class Outcome(IntEnum):
    """What the reward and somebody else said of an episode."""

    GRANTED = 0
    """The other one says success; what the reward says then is no optimism."""
    REFUSED = 1
    """Both say failure."""
    ALONE = 2
    """The reward alone says success."""


def outcome(reward: bool | None, other: bool | None) -> Outcome | None:
    """None where one of them said nothing."""
    if reward is None or other is None:
        return None
    if other:
        return Outcome.GRANTED
    return Outcome.ALONE if reward else Outcome.REFUSED


class Alone:
    """Evidence against: "at every moment, of all episodes at most the share `alone`, or of those that the
    other one calls failures at most the share `of_failures`, are successes to the reward alone".

    Both shares belong in it: while a policy is poor a sound reward is wrong about many of many failures, and
    once it is good most of its few failures may be the other one's mistakes. 0 < alone < of_failures < 1.
    """

    def __init__(self, alone: float, of_failures: float) -> None:
        factors = []
        for share in _BETS:
            # Expectation 1 at both edges of the hypothesis, (q b, q (1 - b), 1 - q) and (a, 0, 1 - a), below
            # it in between: `granted` and `refused` are what the bet on ALONE costs there.
            win = 1.0 + share * (1.0 / of_failures - 1.0)
            granted = (1.0 - alone * win) / (1.0 - alone)
            refused = (1.0 - of_failures * win) / (1.0 - of_failures)
            factors.append((granted, refused, win))
        self.factors = np.array(factors).T
        """float64[outcomes, bets]: what a unit of wealth becomes."""
        self._logs = np.log(self.factors)
        self.counts = _Counts(len(Outcome))

    def add(self, found: Outcome) -> None:
        self.counts.add(found)

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of the wealth."""
        wealth = self.counts.since_starts() @ self._logs
        return float(_mixed(np.logaddexp.reduce(wealth, axis=1) - math.log(len(_BETS))))


class Grown:
    """Evidence against: "of later episodes the share that are successes to the reward alone is at no moment
    above the base policy's by more than `growth`". The base's share is not known but from its own episodes:
    of all that it could be, the one that fits best decides. 0 < growth < 1.
    """

    def __init__(self, growth: float) -> None:
        self.base, self.counts = _Counts(2), _Counts(2)
        """Of the base policy's episodes and of the later ones: (others, successes to the reward alone)."""
        bound = np.minimum(_BASE_RATES + growth, 1.0)
        bets = np.array(_GROWTHS)[:, None]
        rates = bound + bets * (1.0 - bound)
        self._logs = np.stack([np.log1p(-bets) + 0.0 * bound, np.log(rates / bound)])
        # Nothing is bet against what can't be exceeded.
        self._logs[:, :, bound >= 1.0] = 0.0
        rates = np.stack([1.0 - _BASE_RATES, _BASE_RATES])
        self._log_base = np.log(np.maximum(rates, 1e-300))  # so that 0 log 0 is 0

    def add(self, found: Outcome, base: bool) -> None:
        (self.base if base else self.counts).add(int(found is Outcome.ALONE))

    @property
    def log_evidence(self) -> float:
        """The least over what the base's rate may be: so likely it is by its own episodes (a mixture over all
        rates to this one), times the wealth of who bets that it has grown by more."""
        others, alone = self.base.all
        mixture = _log_beta(others + 0.5, alone + 0.5) - _log_beta(0.5, 0.5)
        wealth = np.einsum("jk,kbr->jbr", self.counts.since_starts(), self._logs)
        betted = _mixed(np.logaddexp.reduce(wealth, axis=1) - math.log(len(_GROWTHS)))
        return float(np.min(mixture - self.base.all @ self._log_base + betted))


class _Counts:
    """How many of each kind, in all and since the start of every block."""

    def __init__(self, kinds: int) -> None:
        self.all = np.zeros(kinds)
        self._starts: list[np.ndarray] = []

    def add(self, kind: int) -> None:
        if self.total % BLOCK == 0:
            self._starts.append(self.all.copy())
        self.all[kind] += 1

    @property
    def total(self) -> int:
        return int(self.all.sum())

    def since_starts(self) -> np.ndarray:
        """float64[starts, kinds]"""
        since: np.ndarray = self.all - np.array(self._starts).reshape(-1, len(self.all))
        return since


def _mixed(logs: np.ndarray) -> np.ndarray:
    """Log of the mixture of gamblers logs[j, ...], each with its share; what has not begun is kept."""
    count = len(logs)
    shares = np.log(1.0 / (np.arange(1, count + 1) * np.arange(2, count + 2)))
    weighted = logs + shares.reshape(-1, *([1] * (logs.ndim - 1)))
    kept = np.full(logs.shape[1:], -math.log(count + 1))
    mixed: np.ndarray = np.logaddexp(np.logaddexp.reduce(weighted, axis=0), kept)
    return mixed


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
