"""The samples that a source video gives: itself, and what is derived of it. Owns kinds, labels and draws.

Every draw comes from a generator of its own (seed, video, kind): neither the order of videos nor another
kind's count changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from trainer.reward_data import edits
from trainer.reward_data.commands import paraphrases
from trainer.reward_data.counterfactual import (
    Proposer,
    RuleProposer,
    Scene,
    Validator,
    counterfactuals,
)
from trainer.reward_data.recipe import Recipe
from trainer.reward_data.record import Goal, SourceVideo, digest, score_of
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST

ORIGINS = (
    "success", "failure", "counterfactual", "clip", "near_miss", "rewind", "pause", "speed", "paraphrase",
)  # fmt: skip
ATTEMPTS = 8
Pictures = Callable[[np.ndarray], Sequence[np.ndarray]]


class Sample(msgspec.Struct, frozen=True):
    """One video and one command with its 1-5 score. `rows` of the source video at its own rate; `origin`: one
    of ORIGINS; `derived_from`: the sample it was made of ("" for the video itself); `how`: its numbers."""

    sample_id: str
    rows: tuple[int, ...]
    task: str
    reward: int
    origin: str
    label_origin: str
    derived_from: str
    how: dict[str, Any]


class Maker:
    """Samples of one source video. `pictures` gives frames of rows, for models that look."""

    def __init__(
        self,
        video: SourceVideo,
        recipe: Recipe,
        words: tuple[tuple[str, ...], tuple[str, ...]],
        proposer: Proposer,
        validator: Validator,
        pictures: Pictures,
    ) -> None:
        self.video, self.recipe, self.words = video, recipe, words
        self.proposer, self.validator, self.pictures = proposer, validator, pictures
        out = recipe.output
        self.rows = edits.resampled(video.frames, video.rate_hz, out.fps, out.longest_s)
        self.goal = next(goal for goal in video.goals if goal.meant)

    def samples(self) -> list[Sample]:
        """The video as it is, then what is derived; none where nobody knows how it ended."""
        reward = self.goal.reward
        if reward is None:
            return []
        natural = "success" if reward == HIGHEST else "failure"
        own = self._made(natural, self.rows, self.goal.task, reward, self.goal.label_origin)
        own = msgspec.structs.replace(own, derived_from="")
        made = [own]
        for kind, make in (
            ("clips", self._clip),
            ("near_misses", self._near_miss),
            ("rewinds", self._rewind),
            ("pauses", self._pause),
            ("speeds", self._speed),
            ("paraphrases", self._paraphrase),
        ):
            rng = self._rng(kind)
            for _ in range(self._count(kind, rng)):
                made += [s for s in (make(rng),) if s is not None]
        made += self._counterfactuals()
        return list({sample.sample_id: sample for sample in made}.values())

    def _rng(self, kind: str) -> np.random.Generator:
        seed = int(digest(self.recipe.seed, self.video.video_id, kind), 16)
        return np.random.default_rng(seed)

    def _count(self, kind: str, rng: np.random.Generator) -> int:
        """The recipe's average, its fraction by a draw."""
        return int(getattr(self.recipe.derive, kind) + rng.random())

    def _made(
        self, origin: str, rows: np.ndarray, task: str, reward: int, label: str, **how: Any
    ) -> Sample:
        shown = tuple(int(row) for row in rows)
        name = digest(self.video.video_id, origin, task, reward, shown)
        source = digest(
            self.video.video_id,
            "success" if self.goal.reward == HIGHEST else "failure",
            self.goal.task,
            self.goal.reward,
            tuple(int(row) for row in self.rows),
        )
        return Sample(name, shown, task, reward, origin, label, source, how)

    def _state(self, row: int) -> int | None:
        """Score of the state in a frame of the source, None where it isn't known."""
        if not self.goal.progress:
            return None
        return score_of(self.goal.progress[row], self.goal.done[row])

    def _cut_score(self, fraction: float, row: int) -> tuple[int, str] | None:
        """(score, who says so) of the video stopped at a row, `fraction` of the way; None where unknown."""
        known = self._state(row)
        if known is not None:
            return known, "state"
        if self.goal.reward == LOWEST:
            return LOWEST, self.goal.label_origin
        if self.goal.reward != HIGHEST:
            return None
        for score, (low, high) in enumerate(self.recipe.fractions.scores, LOWEST):
            if low - 1e-9 <= fraction <= high + 1e-9:
                return score, "declared fraction"
        return None

    def _clip(self, rng: np.random.Generator) -> Sample | None:
        score = int(rng.integers(LOWEST, HIGHEST))
        fraction = _between(rng, self.recipe.fractions.scores[score - 1])
        rows = edits.clipped(self.rows, fraction)
        return self._labelled("clip", rows, fraction, fraction=fraction)

    def _near_miss(self, rng: np.random.Generator) -> Sample | None:
        """Stops just short and waits until the success would have been over: its length says nothing. Where
        the state is known, just before it was done."""
        if self.goal.reward != HIGHEST:
            return None
        fraction = _between(rng, self.recipe.fractions.near_miss)
        label = "declared fraction"
        if self.goal.done:
            done = np.array([self.goal.done[row] for row in self.rows])
            first = int(np.argmax(done))
            if first < 2:
                return None
            fraction = (first - 1) / (len(self.rows) - 1)
            label = "state"
        cut = edits.clipped(self.rows, fraction)
        reward = self._state(int(cut[-1])) or HIGHEST - 1
        rows = edits.held(cut, len(self.rows))
        if reward == HIGHEST:
            return None
        return self._made(
            "near_miss", rows, self.goal.task, reward, label, **_short({"fraction": fraction})
        )

    def _rewind(self, rng: np.random.Generator) -> Sample | None:
        score = int(rng.integers(LOWEST, HIGHEST - 1))
        end = _between(rng, self.recipe.fractions.scores[score - 1])
        turn = float(rng.uniform(min(1.0, end + 0.3), 1.0))
        rows = edits.rewound(self.rows, turn, end)
        return self._labelled("rewind", rows, end, turn=turn, end=end)

    def _pause(self, rng: np.random.Generator) -> Sample | None:
        seconds = _between(rng, self.recipe.fractions.pause_s)
        at = float(rng.uniform(0.1, 0.9))
        rows = edits.paused(self.rows, at, max(1, round(seconds * self.recipe.output.fps)))
        return self._same("pause", rows, at=at, seconds=seconds)

    def _speed(self, rng: np.random.Generator) -> Sample | None:
        factor = float(np.exp(rng.uniform(*np.log(self.recipe.fractions.speed))))
        return self._same("speed", edits.at_speed(self.rows, factor), factor=factor)

    def _paraphrase(self, rng: np.random.Generator) -> Sample | None:
        ways = [*self.goal.instructions[1:]] or paraphrases(self.goal.task)
        if not ways:
            return None
        said = ways[int(rng.integers(len(ways)))]
        by = "source" if len(self.goal.instructions) > 1 else "rules"
        return self._same("paraphrase", self.rows, task=said, by=by)

    def _same(self, origin: str, rows: np.ndarray, *, task: str = "", **how: Any) -> Sample | None:
        reward = self.goal.reward
        assert reward is not None
        return self._made(
            origin, rows, task or self.goal.task, reward, self.goal.label_origin, **_short(how)
        )

    def _labelled(self, origin: str, rows: np.ndarray, kept: float, **how: Any) -> Sample | None:
        known = self._cut_score(kept, int(rows[-1]))
        if known is None:
            return None
        return self._made(origin, rows, self.goal.task, known[0], known[1], **_short(how))

    def _counterfactuals(self) -> Iterator[Sample]:
        rng = self._rng("counterfactuals")
        count = self._count("counterfactuals", rng)
        others = [g for g in self.video.goals if not g.meant and g.reward is not None]
        for goal in self._known(others, count, rng):
            assert goal.reward is not None
            said = goal.instructions[int(rng.integers(len(goal.instructions)))]
            yield self._made(
                "counterfactual",
                self.rows,
                said,
                goal.reward,
                goal.label_origin,
                change="goal",
            )
            count -= 1
        reward = self.goal.reward
        # A failed try may have done something else that was not asked for: only what is known to have
        # changed nothing, or to have gone right, bears another command.
        bears = reward == HIGHEST or self.goal.label_origin == "unfinished"
        if count <= 0 or reward is None or others or not bears:
            return
        things, places = self.words
        scene = Scene(self.goal.task, reward, self.video.things, things, places)
        frames = self.pictures(self.rows)
        for found in counterfactuals(scene, frames, count, rng, self.proposer, self.validator):
            by = "rules" if isinstance(self.proposer, RuleProposer) else "model"
            yield self._made(
                "counterfactual", self.rows, found.task, found.reward, by, change=found.change
            )

    @staticmethod
    def _known(goals: list[Goal], count: int, rng: np.random.Generator) -> list[Goal]:
        """Other goals whose label the source knows; scores take turns, so that not all are 1."""
        by_score: dict[int, list[Goal]] = {}
        for index in rng.permutation(len(goals)):
            by_score.setdefault(goals[index].reward or LOWEST, []).append(goals[index])
        turns = [by_score[s] for s in rng.permutation(sorted(by_score)).tolist()]
        longest = max((len(turn) for turn in turns), default=0)
        return [turn[k] for k in range(longest) for turn in turns if k < len(turn)][:count]


def _between(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return round(float(rng.uniform(*ends)), 4)


def _short(how: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in how.items()}
