"""Plug points by entry point: cameras, arms, teleoperators, engines, policies, reward models and so on.

A package of the user's own declares `[project.entry-points."entracte.arms"] my_arm = "pkg.module:make"`
and names `my_arm` in YAML. Ours are declared the same way in pyproject.toml.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from contracts.errors import ConfigError

GROUPS = (
    "cameras",
    "arms",
    "engines",
    "policies",
    "reward_models",
    "refiners",
    "tasks",
    "teleoperators",
)


def names(group: str) -> list[str]:
    """Every name registered in a group, ours and the user's."""
    return sorted({entry.name for entry in entry_points(group=f"entracte.{group}")})


def load(group: str, name: str) -> Any:
    """The object behind a name; imported here and now, so that absent extras fail only if used."""
    found = [entry for entry in entry_points(group=f"entracte.{group}") if entry.name == name]
    if not found:
        raise ConfigError(
            f"no {group.replace('_', ' ').rstrip('s')} named '{name}'",
            expected=f"one of {names(group)}",
            remedy="fix the name, or install the package that provides it",
        )
    return found[0].load()
