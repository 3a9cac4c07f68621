"""The reward signal that every reward model gives. Owns its ranges and what abstaining means."""

from __future__ import annotations

import math

import msgspec


class RewardSignal(msgspec.Struct, frozen=True):
    """One score of one moment of an episode.

    `process`: progress in [0, 1]; `completion`: probability of done in [0, 1]; `contrastive`: in [-1, 1],
    positive when the current frame is closer to the goal than the earlier one; `score_distribution`:
    probabilities of the scores 1..5 where the model gives one; `uncertainty`: in [0, 1].
    A signal that the model does not give, or that it abstains from, is NaN; `abstained` then holds the
    reason. `step` is the index of the step scored, `model_id` the hash of model and prompt; `causal`: nothing
    later than `step` was looked at; `staleness_s`: how old the newest frame looked at was when the answer
    was there (NaN: scored after the episode, where age has no meaning).
    """

    step: int
    process: float = math.nan
    completion: float = math.nan
    contrastive: float = math.nan
    score_distribution: tuple[float, ...] = ()
    uncertainty: float = math.nan
    model_id: str = ""
    causal: bool = True
    abstained: str = ""
    staleness_s: float = math.nan

    def __post_init__(self) -> None:
        for name, low, high in (
            ("process", 0.0, 1.0),
            ("completion", 0.0, 1.0),
            ("contrastive", -1.0, 1.0),
        ):
            value = getattr(self, name)
            if not math.isnan(value) and not low <= value <= high:
                raise ValueError(f"{name} must be in [{low:g}, {high:g}] or NaN, found {value!r}")
        scores = self.score_distribution
        if scores and not (min(scores) >= 0.0 and abs(sum(scores) - 1.0) < 1e-3):
            raise ValueError(f"score_distribution must be probabilities, found {scores}")
        if self.abstained and not (math.isnan(self.process) and math.isnan(self.completion)):
            raise ValueError("a signal that abstains carries no process or completion value")


def abstain(step: int, reason: str, model_id: str = "") -> RewardSignal:
    """The signal of a model that can't say: no value, and why."""
    return RewardSignal(step=step, model_id=model_id, abstained=reason)
