"""Opens a reward model by name, for the commands that show it videos rather than the daemon's episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from contracts import registry
from contracts.errors import ConfigError
from trainer.interfaces import DistantRewardModel, VideoRewardModel


def options_of(assignments: Sequence[str]) -> dict[str, Any]:
    """Options of a model from `key=value` words; values are YAML (numbers, lists, true)."""
    found: dict[str, Any] = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError("option of a reward model", expected="key=value", found=word)
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"option '{key}' of a reward model",
                expected="a value in YAML",
                found=value,
                remedy="quote it",
            ) from error
    return found


def open_video_model(
    name: str,
    package: Path | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    demonstrations: Sequence[Path] = (),
) -> VideoRewardModel:
    """The model of the entry-point group `entracte.reward_models` that judges videos. Raises `ConfigError`
    for one that needs an episode's label (a person's, the bench's)."""
    factory = registry.load("reward_models", name)
    made = factory(
        package=package, demonstrations=demonstrations, options=dict(options or {}), seed=seed
    )
    model = inner(made)
    if not hasattr(model, "score") or not hasattr(model, "contract"):
        raise ConfigError(
            f"reward model '{name}' judges whole episodes by their label, not videos",
            expected="one with a frame contract, as edge or vlm",
        )
    return cast(VideoRewardModel, model)


def inner(model: Any) -> Any:
    """What `OnEpisodes` wraps; any other model itself."""
    return getattr(model, "model", model)


def require_reachable(model: Any) -> None:
    """Before the work of a command whose user waits for it. Raises `EntracteError` where the model is
    elsewhere and nothing answers."""
    if isinstance(inner(model), DistantRewardModel):
        inner(model).require_reachable()
