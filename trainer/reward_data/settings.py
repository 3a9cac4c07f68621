"""What a recipe says of every source, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from contracts.errors import ConfigError

Outcome = Literal["success", "unknown"]


class SourceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`path`: of the data, relative to the recipe; `weight`: its share of the source videos against the other
    sources' weights; `limit`: at most so many of its videos (0: all); `licence`: of the data."""

    kind: str
    path: str
    name: str = ""
    weight: float = 1.0
    licence: str = "not stated"
    limit: int = 0

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.limit < 0:
            raise ValueError(
                f"weight must be above 0 and limit at least 0, found {self.weight}, {self.limit}"
            )


def folder_of(settings: SourceSettings) -> Path:
    """The source's path; `ConfigError` where nothing is there."""
    path = Path(settings.path)
    if not path.exists():
        raise ConfigError(
            f"source '{settings.name}'", expected=f"a file or folder at {path}", found="nothing"
        )
    return path
