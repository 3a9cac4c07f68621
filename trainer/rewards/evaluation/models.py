"""Reward models that judge videos, from packages and from the registry, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts import registry
from contracts.errors import ConfigError
from trainer.interfaces import VideoRewardModel
from trainer.rewards.edge import EdgeReward


def video_models(
    packages: Sequence[Path], names: Sequence[str], options: Mapping[str, Any], seed: int
) -> dict[str, VideoRewardModel]:
    """Name -> model. Packages by their folder's name; registered ones with `options`."""
    models: dict[str, VideoRewardModel] = {
        path.resolve().name: EdgeReward(package=path) for path in packages
    }
    for name in names:
        made = registry.load("reward_models", name)(
            package=None, demonstrations=(), options=dict(options), seed=seed
        )
        # `OnEpisodes` wraps what judges videos.
        model = made if hasattr(made, "score") else getattr(made, "model", None)
        if model is None or not hasattr(model, "contract"):
            raise ConfigError(
                f"reward model '{name}' does not judge videos", found=type(made).__name__
            )
        models[name] = model
    return models
