"""The build's work on Ray Data, for inputs larger than one machine. All nodes must see the output folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from trainer import ray_cluster


def run(items: list[bytes], output: str) -> Iterator[object]:
    """A `trainer.reward_data.build.Runner` on the Ray cluster at hand (a local one is started without).

    Raises `MissingDependency` without ray, `ConfigError` where it can't start.
    """
    ray = ray_cluster.library("--ray", "ray.data")
    if not items:
        return
    with ray_cluster.cluster(ray, os.environ.get("RAY_ADDRESS") or "local"):
        rows = ray.data.from_items([{"item": item} for item in items])
        work_on: Any = _work  # Ray's types leave keyword arguments out
        # One block a video: a long one holds no other up.
        done = rows.repartition(len(items)).map(work_on, fn_kwargs={"output": output})
        yield from done.iter_rows()


def _work(row: dict[str, Any], output: str) -> dict[str, Any]:
    from trainer.reward_data.build import work

    return {"video_id": work(bytes(row["item"]), output)}
