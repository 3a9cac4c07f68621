"""What is read off a run of the link: ages, rates, how memory grows. Reads files, starts nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.files.episode_log import EpisodeLogReader
from contracts.messages import Step
from trainer.metrics import read_metrics
from trainer.report.statistics import student_t

BLOCKS = 20


class Ages(msgspec.Struct, frozen=True):
    """Seconds from capture, p50 and p99. `spooled`: in the episode's file on the robot; `live`: at the
    trainer by the live stream; `last`: an episode's last frame on the trainer's disk, synced; `all`: every
    frame, which waits for its episode's end. `error`: largest error of the clock offset that was used."""

    spooled: tuple[float, float]
    live: tuple[float, float]
    last: tuple[float, float]
    all: tuple[float, float]
    error: float
    steps: int
    nbytes: int


class Slope(msgspec.Struct, frozen=True):
    """Growth in MB a minute with its 95 % interval (Student's t), and the smallest and largest of what is
    counted. `grown`: how many more descriptors and threads at most in the second half than in the first."""

    mb_min: float
    low: float
    high: float
    first_mb: float
    last_mb: float
    descriptors: tuple[int, int]
    threads: tuple[int, int]
    grown: tuple[int, int] = (0, 0)


def ages(root: Path, spooled: tuple[float, float]) -> Ages:
    """From the trainer's folder: stored logs give the capture times, metrics the moments of storing."""
    records = read_metrics(root / "metrics.jsonl")
    lost = [r for r in records if r["kind"] == "robot" and r.get("state") == "lost"][-1]
    last, every, nbytes = [], [], 0
    known = [r for r in records if r["kind"] == "stored" and "clock_offset_s" in r]
    if not known:
        raise EntracteError(
            "no episode was stored with a known clock", found=f"{len(records)} records"
        )
    for record in known:
        path = root / "store" / "logs" / f"{record['key']}.elog"
        stored_s = record["at_s"] - record["clock_offset_s"]
        taken = [
            min(packet.message.captured_s.values())
            for packet in EpisodeLogReader(path).packets()
            if isinstance(packet.message, Step)
        ]
        nbytes += path.stat().st_size
        every += [stored_s - at_s for at_s in taken]
        last.append(stored_s - taken[-1])
    return Ages(
        spooled=spooled,
        live=(lost.get("live_age_p50_s", math.nan), lost.get("live_age_p99_s", math.nan)),
        last=_percentiles(last),
        all=_percentiles(every),
        error=max(record["clock_error_s"] for record in known),
        steps=len(every),
        nbytes=nbytes,
    )


def slope(samples: Sequence[dict[str, Any]], warm_up_s: float) -> Slope:
    """Least squares over what follows the warm-up. The interval is over means of blocks, since readings a
    second apart are not independent of one another."""
    kept = [s for s in samples if s["at_s"] - samples[0]["at_s"] >= warm_up_s] or list(samples)
    blocks = np.array_split(np.array([(s["at_s"], s["rss_mb"]) for s in kept]), BLOCKS)
    points = np.array([block.mean(axis=0) for block in blocks if len(block)])
    minutes, mb = (points[:, 0] - points[0, 0]) / 60.0, points[:, 1]
    spread = float(np.square(minutes - minutes.mean()).sum())
    found, half = 0.0, math.inf
    if len(points) > 2 and spread > 0.0:
        found = float(((minutes - minutes.mean()) * (mb - mb.mean())).sum() / spread)
        rest = mb - mb.mean() - found * (minutes - minutes.mean())
        freedom = len(points) - 2
        error = math.sqrt(float(np.square(rest).sum()) / freedom / spread)
        half = student_t(freedom) * error
    counted = {
        name: (min(s[name] for s in kept), max(s[name] for s in kept))
        for name in ("descriptors", "threads")
    }
    return Slope(
        mb_min=found,
        low=found - half,
        high=found + half,
        first_mb=float(mb[0]),
        last_mb=float(mb[-1]),
        **counted,
        grown=(_grown(kept, "descriptors"), _grown(kept, "threads")),
    )


def _grown(samples: Sequence[dict[str, Any]], name: str) -> int:
    """Files are opened and closed with every episode: what counts is the most at a time."""
    counts = [int(sample[name]) for sample in samples]
    middle = len(counts) // 2
    return max(counts[middle:]) - max(counts[: max(1, middle)])


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return float(p50), float(p99)
