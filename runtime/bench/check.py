"""Measures the bench: `python -m runtime.bench.check`.

Prints, for each task, how often its expert and each way of failing succeed, and how fast reset,
physics and rendering are on this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from runtime.bench import motion
from runtime.bench.experts import EXPERT, make_expert, styles_for
from runtime.bench.physics import PhysicsDiverged
from runtime.bench.split import EVAL, EVALUATION_TASKS, TRAIN
from runtime.bench.tasks import TASKS
from runtime.bench.world import World, WorldConfig

# Let things come to rest before the final verdict.
_SETTLE_TICKS = 4
_MOST_TICKS = 400


@dataclass(frozen=True)
class Outcome:
    """How one episode ended. ever: success held at some time; peaks in deg/s and deg/s^2."""

    success: bool
    ever: bool
    ticks: int
    gave_up: bool
    peak_speed: float
    peak_acceleration: float


def run_episode(world: World, task: str, seed: int, split: str, style: str) -> Outcome | None:
    """Run one scripted episode to its end; None where the scene has no room for the style.

    Raises:
        PhysicsDiverged: the simulation became unstable.
    """
    world.reset(task, seed, split)
    if style != EXPERT and style not in styles_for(world):
        return None
    expert = make_expert(world, seed, style)
    sent = [world.positions().astype(float)]
    while not expert.done and len(sent) < _MOST_TICKS:
        target = expert.act()
        world.command(target)
        world.step(motion.TICK_S)
        sent.append(target.astype(float))
    world.step(_SETTLE_TICKS * motion.TICK_S)
    truth = world.truth()
    speed = np.diff(np.array(sent)[:, :5], axis=0) / motion.TICK_S
    change = np.diff(speed, axis=0) / motion.TICK_S if len(speed) > 1 else np.zeros((1, 5))
    return Outcome(
        truth.success,
        "success" in truth.events,
        len(sent) - 1,
        expert.gave_up,
        float(np.abs(speed).max()),
        float(np.abs(change).max()),
    )


@dataclass
class Row:
    """Totals of one (task, style)."""

    task: str
    style: str
    split: str
    episodes: int = 0
    successes: int = 0
    ever: int = 0
    gave_up: int = 0
    diverged: int = 0
    median_s: float = 0.0
    peak_speed: float = 0.0
    peak_acceleration: float = 0.0

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else float("nan")


def measure(world: World, task: str, style: str, split: str, episodes: int) -> Row:
    """Run seeds 0 .. episodes - 1 of one task and style."""
    row = Row(task, style, split)
    ticks: list[int] = []
    for seed in range(episodes):
        try:
            outcome = run_episode(world, task, seed, split, style)
        except PhysicsDiverged:
            row.diverged += 1
            row.episodes += 1
            continue
        if outcome is None:
            continue
        row.episodes += 1
        row.successes += outcome.success
        row.ever += outcome.ever
        row.gave_up += outcome.gave_up
        row.peak_speed = max(row.peak_speed, outcome.peak_speed)
        row.peak_acceleration = max(row.peak_acceleration, outcome.peak_acceleration)
        ticks.append(outcome.ticks)
    row.median_s = float(np.median(ticks)) * motion.TICK_S if ticks else 0.0
    return row


def _timed_ms(action: Callable[[int], object], times: int) -> float:
    """Median milliseconds of one call."""
    spent = []
    for k in range(times):
        begin = time.perf_counter()
        action(k)
        spent.append((time.perf_counter() - begin) * 1e3)
    return float(np.median(spent))


def speeds() -> dict[str, float]:
    """Median milliseconds of reset, a 0.1 s step, and one camera's render at two sizes."""
    world = World()
    world.reset("put_on", 0)
    world.render("front")
    out = {"reset": _timed_ms(lambda k: world.reset(("put_on", "open_drawer")[k % 2], k), 40)}
    for task in EVALUATION_TASKS:
        world.reset(task, 1)
        out[f"step 0.1 s, {task}"] = _timed_ms(lambda _: world.step(0.1), 60)
    out["truth + 8 counterfactuals"] = _timed_ms(lambda _: world.counterfactuals(), 30)
    out["render 128x96"] = _timed_ms(lambda _: world.render("front"), 60)
    world.close()
    large = World(WorldConfig(width=640, height=480))
    large.reset("put_on", 1)
    large.render("front")
    out["render 640x480"] = _timed_ms(lambda _: large.render("front"), 20)
    large.close()
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if an expert is below 90 %."""
    parser = argparse.ArgumentParser(prog="runtime.bench.check", description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--episodes", type=int, default=50, help="seeds for each expert")
    parser.add_argument("--failures", type=int, default=10, help="seeds for each way of failing")
    parser.add_argument("--split", choices=(EVAL, TRAIN), help="default: both for evaluation tasks")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    world = World()
    rows: list[Row] = []
    say("task              style         split       success  ever  median s  gave up")
    for task in options.tasks:
        splits = (EVAL, TRAIN) if task in EVALUATION_TASKS else (TRAIN,)
        for split in (options.split,) if options.split else splits:
            jobs = [(EXPERT, options.episodes)]
            jobs += [(style, options.failures) for style in TASKS[task].failures]
            for style, episodes in jobs:
                row = measure(world, task, style, split, episodes)
                rows.append(row)
                say(
                    f"{task:18s}{style:14s}{split:7s}{row.successes:6d}/{row.episodes:<5d}{row.ever:6d}"
                    f"{row.median_s:10.1f}{row.gave_up:9d}"
                )
    world.close()
    timings = speeds()
    for name, value in timings.items():
        say(f"{name:34s}{value:8.2f} ms")
    if options.json:
        json.dump({"rows": [asdict(row) for row in rows], "median_ms": timings}, sys.stdout)
    return int(any(r.style == EXPERT and r.rate < 0.9 for r in rows))


if __name__ == "__main__":
    sys.exit(main())
