"""Counterfactual commands by models: a language model describes, proposes and validates, or a reward model
validates.

A model is anything behind `Ask`; the HTTP client of an OpenAI-compatible server or a local GGUF model is made
elsewhere and named in the recipe. An answer that can't be read is no proposal and no consent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from contracts.errors import ConfigError
from contracts.frames import Video
from trainer.interfaces import VideoRewardModel
from trainer.reward_data.counterfactual import (
    Proposal,
    Proposer,
    RuleProposer,
    RuleValidator,
    Scene,
    Validator,
    Verdict,
)
from trainer.reward_data.recipe import Counterfactual, Role
from trainer.rewards.episodes import OnEpisodes
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST

# (prompt, pictures uint8[H, W, 3] RGB, perhaps none) -> the model's text.
Ask = Callable[[str, Sequence[np.ndarray]], str]
SHOWN = 4

DESCRIBE = (
    "These frames, in order, show a robot or a person at work. In at most five short sentences name the "
    "objects, containers and colours in view, where they are, and what was moved where. "
    "State only what is seen."
)
PROPOSE = """A video was recorded for the command: "{task}". It ended with score {reward} of 5.
What it shows: {description}
Things known to be there: {things}

Propose {count} other commands for the same scene which the video does NOT fully carry out, with the score
that the end of the video deserves for each: 1 nothing of it happened, 2 a little, 3 a good part but a major
requirement is violated, 4 all but one minor requirement. Use different scores, in rising order.
Answer with a JSON list only: [{{"command": "...", "score": 1}}, ...]"""
VALIDATE = """The frames show how a video goes and ends. Someone says that for the command "{task}" its end
deserves the score {reward} on this scale: 1 nothing of it happened, 2 a little, 3 a good part but a major
requirement is violated, 4 all but one minor requirement, 5 all of it.
Is the command meaningful in this scene, and the score right? Answer with YES or NO as the first word."""


class _Said(msgspec.Struct):
    command: str
    score: int


class ModelProposer:
    """Describe by one model, which is shown frames, then propose by another, which need not see; `count`
    commands are asked for."""

    def __init__(self, ask: Ask, describe: Ask | None = None, count: int = 6) -> None:
        self._ask, self._describe, self._count = ask, describe, count

    def propose(
        self, scene: Scene, frames: Sequence[np.ndarray], rng: np.random.Generator
    ) -> list[Proposal]:
        """Proposals, scores 1 to 4 in rising order; [] where the answer can't be read or its order falls."""
        description = scene.description
        if not description and self._describe is not None:
            description = self._describe(DESCRIBE, spread(frames)).strip()
        prompt = PROPOSE.format(
            task=scene.task,
            reward=scene.reward,
            description=description or "not described",
            things=", ".join((*scene.things, *scene.elsewhere)) or "not said",
            count=self._count,
        )
        said = read_proposals(self._ask(prompt, ()))
        if any(a.score > b.score for a, b in pairwise(said)):
            return []
        return [Proposal(s.command.strip(), s.score, "model") for s in said if s.command.strip()]


def read_proposals(text: str) -> list[_Said]:
    """The JSON list in a model's answer, [] where its form is wrong or a score is not 1 to 4."""
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return []
    try:
        said = msgspec.json.decode(text[start : end + 1], type=list[_Said], strict=True)
    except msgspec.MsgspecError:
        return []
    return said if all(LOWEST <= s.score < HIGHEST for s in said) else []


class ModelValidator:
    """Consent of a model that sees the frames: YES as the first word, anything else refuses."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def validate(self, scene: Scene, frames: Sequence[np.ndarray], proposal: Proposal) -> Verdict:
        prompt = VALIDATE.format(task=proposal.task, reward=proposal.reward)
        answer = self._ask(prompt, spread(frames)).strip()
        first = answer.split()[0].strip(".,:;!*").upper() if answer else ""
        return Verdict(first == "YES", "" if first == "YES" else answer[:200] or "no answer")


class RewardModelValidator:
    """A `VideoRewardModel` judges the video for the proposed command: it holds where its score is within
    `tolerance` of the proposed one. One that abstains refuses."""

    def __init__(self, model: VideoRewardModel, rate_hz: float, tolerance: float = 1.0) -> None:
        self._model, self._rate_hz, self._tolerance = model, rate_hz, tolerance

    def validate(self, scene: Scene, frames: Sequence[np.ndarray], proposal: Proposal) -> Verdict:
        times = np.arange(len(frames)) / self._rate_hz
        cameras = self._model.contract.cameras or ("front",)
        video = Video({c: np.stack(frames) for c in cameras}, times, np.arange(len(frames)))
        signal = self._model.score(video, proposal.task)
        if signal.score_distribution:
            score = sum(n * p for n, p in enumerate(signal.score_distribution, LOWEST))
        else:
            score = LOWEST + (HIGHEST - LOWEST) * signal.process
        if signal.abstained or math.isnan(score):
            return Verdict(False, f"abstained: {signal.abstained or 'no score'}")
        holds = abs(score - proposal.reward) <= self._tolerance
        return Verdict(holds, "" if holds else f"the model says {score:.2f}")


class Both:
    """Holds where each of several validators says so, asked in order: the cheap one first."""

    def __init__(self, *validators: Validator) -> None:
        self._validators = validators

    def validate(self, scene: Scene, frames: Sequence[np.ndarray], proposal: Proposal) -> Verdict:
        for validator in self._validators:
            verdict = validator.validate(scene, frames, proposal)
            if not verdict.holds:
                return verdict
        return Verdict(True)


def make(settings: Counterfactual, rate_hz: float) -> tuple[Proposer, Validator]:
    """The proposer and validator that a recipe names. The rules' own proposals are checked by rules first."""
    proposer: Proposer = RuleProposer()
    if settings.proposer == "model" and settings.proposer_model is not None:
        seer = settings.describer_model
        proposer = ModelProposer(load(settings.proposer_model), load(seer) if seer else None)
    if settings.validator == "rules" or settings.validator_model is None:
        return proposer, RuleValidator()
    behind = load(settings.validator_model)
    validator: Validator = ModelValidator(behind)
    if settings.validator == "reward_model":
        model = behind.model if isinstance(behind, OnEpisodes) else behind
        validator = RewardModelValidator(model, rate_hz, settings.tolerance)
    return proposer, Both(RuleValidator(), validator) if settings.proposer == "rules" else validator


def load(role: Role) -> Any:
    """What a role's factory makes. Raises `ConfigError` where there is no such factory."""
    module, _, attribute = role.make.partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"recipe: '{role.make}'", expected="package.module:factory", found=str(error)
        ) from error
    try:
        return factory(**role.options)
    except TypeError as error:
        raise ConfigError(f"recipe: options of '{role.make}'", found=str(error)) from error


def spread(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """At most `SHOWN` frames, first and last in."""
    rows = np.unique(np.linspace(0, len(frames) - 1, SHOWN).round().astype(int))
    return [frames[row] for row in rows]
