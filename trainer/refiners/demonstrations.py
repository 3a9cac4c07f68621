"""The control: as many gradient steps as `bestofn` makes, on the demonstrations alone.

What extra training gains without any reward must not pass for refinement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.interfaces import ScoredEpisode, Update
from trainer.refiners.bestofn import BestOfN
from trainer.refiners.placement import ALONE, Placement


class DemonstrationsOnly(BestOfN):
    """Takes the options of `bestofn`; sees every episode and uses none. Draws one chunk, as the base does."""

    def __init__(
        self,
        *,
        package: Path,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
        place: Placement = ALONE,
    ) -> None:
        super().__init__(
            package=package,
            demonstrations=demonstrations,
            options={**options, "samples": 1},
            seed=seed,
            place=place,
        )

    def read(self, scored: ScoredEpisode, iteration: int) -> None:
        """Nothing: none is used."""

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        return super().update([], iteration)
