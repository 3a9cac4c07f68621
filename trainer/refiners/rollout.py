"""An episode as the chunks that were drawn and executed in it, with what each was drawn with.

Noise and exploration are drawn again from the seeds that the episode tells (`contracts.draws`); what became
of them is in its columns. Knows no refinement method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.draws import chunk_noise, chunk_offset
from contracts.reward import RewardSignal
from trainer.interfaces import ScoredEpisode
from trainer.refiners.experience import FrozenTrunk, potential

HELD = ("completion", "contrastive")
"""Signals that are held between two scorings, in the order of `Rollout.held`."""


@dataclass(frozen=True)
class Rollout:
    """M chunks of one episode, of T actions of A joints.

    `features` float32[M + 1, F]: of the observation that each was inferred from, and of the last one.
    `noise` float32[M, T*A] and `offset` float32[M, A] were drawn for it; `sigma` float32[A]: the offset's
    standard deviation in arm units, 0 where a joint is not explored or nothing is known of it.
    `executed` float32[M, T]: each entry's share in what was executed, 1 in all; `asked` float32[M, A]: the
    mean of what was asked of the gate meanwhile (NaN where that was not finite).
    `actions` float32[M]: periods of the chunk rate until the next chunk was inferred, or the end.
    `along` float32[M + 1]: how far along the task was at those moments; `held` float32[M, 2]: what the reward
    model had last said at a chunk's end, 0 before it said anything. `version`: of the policy.
    `ended` False: a person took over then, and how the policy would have ended nobody knows.
    """

    features: np.ndarray
    noise: np.ndarray
    offset: np.ndarray
    sigma: np.ndarray
    executed: np.ndarray
    asked: np.ndarray
    actions: np.ndarray
    along: np.ndarray
    held: np.ndarray
    version: int
    success: bool
    ended: bool


def rollout(trunk: FrozenTrunk, scored: ScoredEpisode, discount: float) -> Rollout:
    """A labelled episode until a person first took over, with `discount` of `potential` per action."""
    episode, start, length = scored.episode, scored.episode.start, trunk.chunk.length
    columns, every = episode.columns, trunk.ticks_per_action(episode)
    helped = np.flatnonzero(columns["intervention"])
    end = int(helped[0]) if len(helped) else episode.steps
    numbers, first = np.unique(columns["chunk"][:end], return_index=True)
    numbers, first = numbers[numbers >= 0], first[numbers >= 0]
    # A chunk's observation is that of the tick in which its inference began.
    begun = np.searchsorted(columns["time.tick"], columns["time.inference"][first], "right") - 1
    begun = np.clip(begun, 0, first)
    moments = [*begun.tolist(), min(end, episode.steps - 1)]
    pictures = [episode.frames(name, moments) for name in trunk.manifest.cameras]
    action = trunk.manifest.action
    assert action is not None, "a package with chunks has actions"
    shape = (1, length, len(action.units))
    executed = np.zeros((len(numbers), length), np.float32)
    asked = np.zeros((len(numbers), shape[2]), np.float32)
    for row, (number, at) in enumerate(zip(numbers, begun, strict=True)):
        ticks = np.flatnonzero(columns["chunk"][:end] == number)
        executed[row] = _shares(columns["chunk_index"][ticks], ticks - at, every, length)
        asked[row] = columns["requested"][ticks].mean(0)
    seeds, known = (max(start.policy_seed, 0), abs(start.scene_seed)), start.policy_seed >= 0
    tried = start.explore_deg if known else 0.0
    drawn = [chunk_noise(seeds, int(n), shape, trunk.chunk.noise_scale).ravel() for n in numbers]
    offsets = [chunk_offset(seeds, int(n), tried, action.units) for n in numbers]
    ends = np.array([*begun, end])
    # A success that a person helped to says nothing of how far the policy had come.
    reached = scored.success is True and not len(helped)
    along = potential(scored.signals, episode.steps, reached, discount ** (1.0 / every))
    return Rollout(
        features=trunk.features(pictures, episode.states[moments], episode.instruction),
        noise=np.array(drawn, np.float32).reshape(len(numbers), length * shape[2]),
        offset=np.array(offsets, np.float32).reshape(len(numbers), shape[2]),
        sigma=np.array([tried if unit == "deg" else 0.0 for unit in action.units], np.float32),
        executed=executed,
        asked=asked,
        actions=np.diff(ends).astype(np.float32) / every,
        along=along[ends],
        held=np.stack([_held(scored.signals, name, ends[1:]) for name in HELD], 1),
        version=start.policy_version,
        success=scored.success is True,
        ended=not len(helped),
    )


def _shares(entries: np.ndarray, after: np.ndarray, every: int, length: int) -> np.ndarray:
    """float32[T]: shares of a chunk's entries in what was executed at ticks so many `after` its observation.

    Between two entries actions were interpolated, and where the observation was older than its tick all are
    so much earlier (`runtime.control.scheduler.Chunk`); a part of a tick is not known and left out."""
    shares = np.zeros(length, np.float32)
    lag = max(0, int((every * entries - after).max()))
    between = np.clip((after + lag - every * entries) / every, 0.0, 1.0)
    np.add.at(shares, np.clip(entries, 0, length - 1), 1.0 - between)
    np.add.at(shares, np.clip(entries + 1, 0, length - 1), between)
    return shares / np.float32(len(entries))


def _held(signals: Sequence[RewardSignal], name: str, moments: np.ndarray) -> np.ndarray:
    """float32[M]: what the reward model had last said by each of these moments."""
    said = [(s.step, getattr(s, name)) for s in signals if not math.isnan(getattr(s, name))]
    if not said:
        return np.zeros(len(moments), np.float32)
    at, values = (np.array(column, np.float32) for column in zip(*said, strict=True))
    newest = np.searchsorted(at, moments, "left") - 1
    return np.where(newest >= 0, values[newest], 0.0).astype(np.float32)
