"""Which source videos go into a data set and into which split. Pure but for reading the sources.

A split is drawn over groups (all readings of one recording), source by source, so that every source is in
every split and nothing of a recording is in two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from contracts.errors import EntracteError
from trainer.reward_data.counterfactual import words_of
from trainer.reward_data.recipe import SPLITS, Recipe
from trainer.reward_data.record import SourceVideo, digest
from trainer.reward_data.sources import read_source

MOST_TASKS = 500
Words = tuple[tuple[str, ...], tuple[str, ...]]


class WorkItem(msgspec.Struct, frozen=True):
    """One source video and where its samples go."""

    video: SourceVideo
    split: str


class Plan(msgspec.Struct, frozen=True):
    """Work in the order of the output; `words`: (things, places) that each source's commands name; `found`:
    how many videos each source has."""

    items: tuple[WorkItem, ...]
    words: dict[str, Words]
    found: dict[str, int]


def make_plan(recipe: Recipe) -> Plan:
    """Reads the sources' lists of videos (no picture) and draws. Raises `EntracteError` on an empty one."""
    videos = {source.name: read_source(source) for source in recipe.sources}
    for name, listed in videos.items():
        if not listed:
            raise EntracteError(f"source '{name}' has no videos")
    counts = shares(
        {name: len(listed) for name, listed in videos.items()},
        {source.name: source.weight for source in recipe.sources},
        recipe.videos,
    )
    chosen = {
        name: sorted(listed, key=lambda v: digest(recipe.seed, "draw", v.video_id))[: counts[name]]
        for name, listed in videos.items()
    }
    refuse_twice(video for listed in videos.values() for video in listed)
    where = splits(chosen.values(), recipe)
    items = tuple(
        WorkItem(video, where[video.group])
        for name in videos
        for video in sorted(chosen[name], key=lambda v: v.video_id)
    )
    words = {
        name: words_of(sorted({v.goals[0].task for v in listed})[:MOST_TASKS])
        for name, listed in videos.items()
    }
    return Plan(items, words, {name: len(listed) for name, listed in videos.items()})


def refuse_twice(videos: Iterable[SourceVideo]) -> None:
    """Raises `EntracteError` where two videos have one id: their samples would take each other's place."""
    known: set[str] = set()
    for video in videos:
        if video.video_id in known:
            raise EntracteError(
                f"source '{video.source}': two videos can't be told apart",
                found=f"{video.video_id} twice, {video.pictures}",
                remedy="name each folder as a source of its own",
            )
        known.add(video.video_id)


def shares(found: dict[str, int], weights: dict[str, float], wanted: int) -> dict[str, int]:
    """How many videos of each source: in proportion to the weights, no video twice, at least one each.

    `wanted` 0: as many as the scarcest source allows at these weights.
    """
    total = sum(weights.values())
    size = wanted or min(found[name] * total / weights[name] for name in found)
    return {
        name: max(1, min(found[name], math.floor(size * weights[name] / total + 1e-9)))
        for name in found
    }


def splits(sources: Iterable[Sequence[SourceVideo]], recipe: Recipe) -> dict[str, str]:
    """Group -> split. A group that an earlier source has keeps its split."""
    where: dict[str, str] = {}
    for videos in sources:
        groups = sorted(
            {v.group for v in videos} - set(where), key=lambda g: digest(recipe.seed, "split", g)
        )
        ends = (
            int(recipe.split.train * len(groups) + 0.5),
            int((recipe.split.train + recipe.split.val) * len(groups) + 0.5),
        )
        for index, group in enumerate(groups):
            where[group] = SPLITS[sum(index >= end for end in ends)]
    return where
