"""The reward model `endpoint` as a config names it. Owns the options and their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.errors import ConfigError
from trainer.rewards.endpoint.caller import Caller, Terms
from trainer.rewards.endpoint.key import check_url, read_key
from trainer.rewards.endpoint.model import EndpointReward, Manner
from trainer.rewards.episodes import OnEpisodes
from trainer.rewards.vlm.asking import Asking, question_of

MOST_LISTED = 2000
"""OpenAI lists 20 tokens at most; vLLM as many as its `--max-logprobs` says."""
_TAKEN = {"model", "messages", "logprobs", "top_logprobs", "stream"}


class Options(Asking, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the reward model `endpoint`; see `Asking` for which questions are asked.

    `url`: the server's base, as http://127.0.0.1:8000/v1; `model`: its name there. `key_env`, `key_file`:
    environment variable, or file that only you can read, with the API key. `pixels`: most of a frame.
    `logprobs`, `top`, `force_answer`: see `Manner` (`forced`). `deadline_s`, `at_once`, prices and
    `most_cost`: see `Terms`. `extra`: more fields of every request's body (a server's own).
    """

    url: str
    model: str
    key_env: str = ""
    key_file: str = ""
    pixels: int = 256 * 256
    logprobs: Literal["auto", "require", "never"] = "auto"
    top: int = 20
    force_answer: bool = False
    jpeg_quality: int = 90
    deadline_s: float = 60.0
    at_once: int = 8
    prompt_price: float = 0.0
    completion_price: float = 0.0
    most_cost: float = 0.0
    extra: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        good = 1 <= self.top <= MOST_LISTED and 1 <= self.jpeg_quality <= 100 and self.at_once >= 1
        if not (good and self.deadline_s > 0 and not _TAKEN & set(self.extra)):
            raise ValueError(
                f"top must be 1 to {MOST_LISTED}, jpeg_quality 1 to 100, "
                f"at_once >= 1, deadline_s > 0, and extra without {sorted(_TAKEN)}"
            )
        if min(self.prompt_price, self.completion_price, self.most_cost) < 0:
            raise ValueError("prices and most_cost must be at least 0")
        if self.most_cost and not (self.prompt_price or self.completion_price):
            raise ValueError("most_cost needs prompt_price or completion_price to count with")


def endpoint(
    *,
    package: Path | None = None,
    demonstrations: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> OnEpisodes:
    """`RewardModelFactory` of the registry. Takes no package: the weights are the server's."""
    del demonstrations, seed
    if package is not None:
        raise ConfigError("reward model 'endpoint'", expected="no package", found=str(package))
    chosen = read_options(options or {})
    return OnEpisodes(make(chosen), chosen.scores_per_s)


def read_options(options: Mapping[str, Any]) -> Options:
    """Raises `ConfigError` for an option that is missing, unknown or can't be."""
    try:
        return msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise ConfigError("options of the reward model 'endpoint'", found=str(error)) from error


def make(options: Options) -> EndpointReward:
    """Asks the server nothing yet. Raises `ConfigError`, `MissingDependency`."""
    key = read_key(options.key_env, options.key_file)
    url = check_url(options.url, key)
    pixels = options.pixels
    questions = [
        question_of(signal, options, video_pixels=pixels, picture_pixels=pixels)
        for signal in options.signals
    ]
    manner = Manner(
        options.logprobs,
        options.top,
        options.force_answer,
        options.jpeg_quality,
        options.least_mass,
        options.completion_threshold,
        options.completion_consecutive,
    )
    terms = Terms(
        options.deadline_s,
        options.at_once,
        options.prompt_price,
        options.completion_price,
        options.most_cost,
    )
    return EndpointReward(Caller(url, key, terms, options.extra), options.model, questions, manner)
