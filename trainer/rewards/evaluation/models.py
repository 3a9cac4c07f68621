"""Reward models that judge videos, from packages and from the registry, by a name each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.errors import ConfigError
from trainer.interfaces import VideoRewardModel
from trainer.rewards.edge import EdgeReward
from trainer.rewards.opening import open_video_model, require_reachable


def video_models(
    packages: Sequence[Path], names: Sequence[str], options: Mapping[str, Any], seed: int
) -> dict[str, VideoRewardModel]:
    """Name -> model. Packages by their folder's name; registered ones with `options`. Raises `ConfigError`
    where a name comes twice or can't be opened, `EntracteError` where a server is away."""
    folders = named(packages, "reward packages")
    twice = [name for name in names if name in folders or names.count(name) > 1]
    if twice:
        raise ConfigError("reward models", expected="different names", found=sorted({*twice}))
    models: dict[str, VideoRewardModel] = {
        name: EdgeReward(package=path) for name, path in folders.items()
    }
    models |= {name: open_video_model(name, options=options, seed=seed) for name in names}
    for model in models.values():
        require_reachable(model)
    return models


def named(paths: Sequence[Path], what: str) -> dict[str, Path]:
    """Last part of the path, without an ending of a file -> path; with its folder's name before it where
    two are called the same. Raises `ConfigError` for the same path twice."""
    whole = [path.resolve() for path in paths]
    if len({*whole}) < len(whole):
        raise ConfigError(what, expected="each once", found=[str(path) for path in paths])
    last = [path.stem if path.is_file() else path.name for path in whole]
    found: dict[str, Path] = {}
    for path, name in zip(whole, last, strict=True):
        unique = name if last.count(name) == 1 else f"{path.parent.name}/{name}"
        if unique in found:
            raise ConfigError(what, expected="names of their own", found=unique)
        found[unique] = path
    return found
