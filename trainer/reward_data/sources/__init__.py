"""One module a kind of source: its settings in a recipe and `read`, which lists its videos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.reward_data.record import SourceVideo
from trainer.reward_data.settings import SourceSettings
from trainer.reward_data.sources import (
    bench,
    egodex,
    hoi4d,
    human,
    lerobot,
    rlds,
    roboarena,
    roboreward,
)

KINDS: dict[str, tuple[type[SourceSettings], Callable[[Any], list[SourceVideo]]]] = {
    "bench": (bench.BenchSettings, bench.read),
    "egodex": (egodex.EgoDexSettings, egodex.read),
    "hoi4d": (hoi4d.Hoi4dSettings, hoi4d.read),
    "human": (human.HumanSettings, human.read),
    "lerobot": (lerobot.LeRobotSettings, lerobot.read),
    "rlds": (rlds.RldsSettings, rlds.read),
    "roboarena": (roboarena.RoboArenaSettings, roboarena.read),
    "roboreward": (roboreward.RoboRewardSettings, roboreward.read),
}


def read_source(settings: SourceSettings) -> list[SourceVideo]:
    """Videos of one source, in an order that depends on the data alone; no more than its `limit`."""
    videos = KINDS[settings.kind][1](settings)
    return videos[: settings.limit] if settings.limit else videos
