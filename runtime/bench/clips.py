"""Records clips for the reward model: `python -m runtime.bench.clips --split train --output DIR ...`.

A folder of clips holds
- meta.json: format, split, picture size, the command;
- clips-WW.jsonl: one line a clip (`ClipLine`): which shard and rows, task, seed, style, and its goals, the
  task's own first and counterfactual ones after it, each with the ways to say it;
- shard-WW-NNNN.npz (no objects): `jpeg` uint8[N] all pictures end to end, `offsets` int64[2F+1] where
  each begins (front, wrist, front, ...), and per label row (goal by goal, frame by frame)
  `progress` float16, `success` uint8, `points` int16[., 4]: column and row of thing and target in the
  front picture, -1 where not in view.
Labels are the evaluators' reading of the state in that frame (`runtime.bench.goals`). Training never sees
the evaluation split: the reader refuses it (`trainer.rewards.data`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import ConfigError
from contracts.files import outputs
from contracts.images import encode_jpeg
from runtime.bench import goals as goal_rules
from runtime.bench import language, render, snapshots
from runtime.bench.experts import EXPERT, make_expert, styles_for
from runtime.bench.scene import Goal, RandomisationConfig, Scene
from runtime.bench.split import RESERVED_INSTRUCTIONS, SPLITS, TRAIN
from runtime.bench.state import BenchState
from runtime.bench.tasks import UnknownTask, find_task
from runtime.bench.world import World, WorldConfig

FORMAT = 1
JPEG_QUALITY = 95
CLIPS_PER_SHARD = 200
WIDTH, HEIGHT = 128, 96
TICK_HZ = 10.0
ARRANGED_FRAMES = 10
# What the shipped model was trained on: the nearest relatives of the evaluation tasks most often.
TASK_MIX = (
    *("put_on",) * 6,
    *("put_in",) * 3,
    *("open_drawer",) * 3,
    *("stack", "stack", "take_off", "take_off", "lift", "push_to", "close_drawer"),
    *("open_tray", "open_lid", "close_tray", "close_lid", "press_button"),
    *("turn_lever_left", "turn_lever_right", "store_in_drawer"),
)


class GoalLine(msgspec.Struct, frozen=True):
    """One goal of a clip; see the module's docstring."""

    kind: str
    thing: str
    target: str
    origin: str
    instructions: tuple[str, ...]


class ClipLine(msgspec.Struct, frozen=True):
    """One line of clips-WW.jsonl; see the module's docstring."""

    shard: str
    first_frame: int
    first_label: int
    frames: int
    task: str
    seed: int
    split: str
    style: str
    rate_hz: float
    fixture: str
    things: tuple[str, ...]
    goals: tuple[GoalLine, ...]


@dataclass
class Recording:
    """What one clip is made of while it is being recorded."""

    scene: Scene
    style: str
    rate_hz: float
    states: list[BenchState] = field(default_factory=list)
    pictures: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    camera_to_world: np.ndarray = field(default_factory=lambda: np.eye(4))


class ShardWriter:
    """Collects clips of one worker and writes a shard every `CLIPS_PER_SHARD`."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder, self._worker, self._shard = folder, worker, 0
        self._index = (folder / f"clips-{worker:02d}.jsonl").open("wb")
        self._clear()

    def add(self, clip: Recording, goals: list[tuple[Goal, str]]) -> None:
        """Label every frame of `clip` for every goal and keep it."""
        start = clip.states[0]
        readings = [
            [_read(goal, origin, state, start, clip.scene) for state in clip.states]
            for goal, origin in goals
        ]
        line = ClipLine(
            f"shard-{self._worker:02d}-{self._shard:04d}.npz",
            self._frames,
            len(self._progress),
            len(clip.states),
            clip.scene.task,
            clip.scene.seed,
            clip.scene.split,
            clip.style,
            clip.rate_hz,
            clip.scene.fixture_id,
            (*clip.scene.object_names, *clip.scene.container_names),
            tuple(
                GoalLine(g.kind, g.thing, g.target, origin, instructions(g, clip.scene.split))
                for g, origin in goals
            ),
        )
        for front, wrist in clip.pictures:
            for picture in (front, wrist):
                self._jpeg.append(encode_jpeg(picture, JPEG_QUALITY))
        self._frames += len(clip.pictures)
        for (goal, _), row in zip(goals, readings, strict=True):
            for state, (met, progress) in zip(clip.states, row, strict=True):
                self._progress.append(progress)
                self._success.append(met)
                self._points.append(_points(goal, state, clip))
        self._lines.append(msgspec.json.encode(line))
        if len(self._lines) >= CLIPS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        if not self._lines:
            return
        lengths = np.array([0, *(len(data) for data in self._jpeg)], np.int64)
        np.savez(
            self._folder / f"shard-{self._worker:02d}-{self._shard:04d}.npz",
            jpeg=np.frombuffer(b"".join(self._jpeg), np.uint8),
            offsets=np.cumsum(lengths),
            progress=np.array(self._progress, np.float16),
            success=np.array(self._success, np.uint8),
            points=np.array(self._points, np.int16),
        )
        self._index.write(b"\n".join(self._lines) + b"\n")
        self._index.flush()
        self._shard += 1
        self._clear()

    def close(self) -> None:
        self.flush()
        self._index.close()

    def _clear(self) -> None:
        self._frames = 0
        self._lines: list[bytes] = []
        self._jpeg: list[bytes] = []
        self._progress: list[float] = []
        self._success: list[bool] = []
        self._points: list[tuple[int, int, int, int]] = []


def instructions(goal: Goal, split: str) -> tuple[str, ...]:
    """The ways to say a goal; in training none that is reserved for evaluation."""
    said = language.phrases(goal)
    if split != TRAIN:
        return said
    return tuple(text for text in said if text not in RESERVED_INSTRUCTIONS)


def choose_goals(scene: Scene, rng: np.random.Generator, count: int) -> list[tuple[Goal, str]]:
    """The scene's own goal, then up to `count` others; "absent" ones name a thing that is not there."""
    chosen: list[tuple[Goal, str]] = [(scene.goal, "task")]
    seen = {scene.goal}
    for other in language.alternatives(scene, rng, count):
        if other.relation != "paraphrase" and other.goal not in seen:
            seen.add(other.goal)
            origin = "absent" if other.relation == "absent" else "counterfactual"
            chosen.append((other.goal, origin))
    return [(g, o) for g, o in chosen if instructions(g, scene.split)]


def add_true_goals(
    clip: Recording, goals: list[tuple[Goal, str]], rng: np.random.Generator, count: int
) -> list[tuple[Goal, str]]:
    """Up to `count` further goals that are met in some frame though nobody asked for them."""
    have = {goal for goal, _ in goals}
    start = clip.states[0]
    extra = [
        (goal, "counterfactual")
        for goal in language.possible_goals(clip.scene)
        if goal not in have
        and any(goal_rules.evaluate(goal, s, start, clip.scene).met for s in clip.states[1:])
    ]
    extra = [(g, o) for g, o in extra if instructions(g, clip.scene.split)]
    rng.shuffle(extra)
    return goals + extra[:count]


def _read(
    goal: Goal, origin: str, state: BenchState, start: BenchState, scene: Scene
) -> tuple[bool, float]:
    if origin == "absent":
        return False, 0.0
    reading = goal_rules.evaluate(goal, state, start, scene)
    return reading.met, reading.progress


def where(name: str, state: BenchState, scene: Scene) -> np.ndarray | None:
    if name in scene.object_names:
        return state.objects[scene.object_index(name)].position_m
    if name in scene.container_names:
        place = scene.container(name)
        return np.array([place.x_m, place.y_m, 0.01])
    if name and scene.fixture is not None and name.endswith(scene.fixture.type.kind):  # type: ignore[union-attr]
        return state.handle_m
    return None


def _points(goal: Goal, state: BenchState, clip: Recording) -> tuple[int, int, int, int]:
    out: list[int] = []
    view = render.intrinsics(WIDTH, HEIGHT)
    turn, origin = clip.camera_to_world[:3, :3], clip.camera_to_world[:3, 3]
    for name in (goal.thing, goal.target):
        place = where(name, state, clip.scene)
        pixel = (-1, -1)
        if place is not None:
            x, y, z = turn.T @ (place - origin)
            if z > 0.02:
                # From the picture's edge: whole numbers below are the pixel that it lies in.
                u, v = view.fx * x / z + view.cx + 0.5, view.fy * y / z + view.cy + 0.5
                if 0 <= u < WIDTH and 0 <= v < HEIGHT:
                    pixel = (int(u), int(v))
        out += pixel
    return out[0], out[1], out[2], out[3]


def arranged(task: str, seed: int, split: str, renderer: render.Renderer, frames: int) -> Recording:
    """A clip of one scene in `frames` unrelated states; the first is how the scene starts."""
    randomise = RandomisationConfig()
    scene = snapshots.make_scene(task, seed, split, randomise)
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 77])
    view = render.intrinsics(WIDTH, HEIGHT)
    clip = Recording(scene, "arranged", 0.0)
    renderer.forget()
    for index, physics in enumerate(snapshots.arrangements(scene, view, rng, frames)):
        clip.states.append(physics.state())
        clip.camera_to_world = physics.camera_to_world("front")
        renderer.forget()
        front, wrist = (
            renderer.render(physics.model, physics.data, camera, (seed & 0xFFFFFFFF, index))[0]
            for camera in render.CAMERAS
        )
        clip.pictures.append((front, wrist))
    return clip


def played(
    world: World, task: str, seed: int, split: str, *, styles: Sequence[str], every: int = 3
) -> Recording:
    """A clip of one episode at 10 / `every` Hz. `styles` to draw from: "expert", "clumsy" (an expert
    whose commands wander and stall, as a half-trained policy's do) and "failure" (any that fits)."""
    scene = world.reset(task, seed, split)
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 33])
    style = styles[int(rng.integers(len(styles)))]
    if style == "failure":
        fitting = styles_for(world)
        style = fitting[int(rng.integers(len(fitting)))]
    clip = Recording(scene, style, TICK_HZ / every, camera_to_world=world.extrinsics("front"))
    expert = make_expert(world, seed, EXPERT if style == "clumsy" else style)
    hand = _Clumsy(rng, style == "clumsy")
    after, tick = int(rng.integers(3, 12)), 0
    while True:
        last = tick >= scene.time_limit_s * TICK_HZ or (expert.done and after <= 0)
        if tick % every == 0 or last:
            clip.states.append(world.state())
            clip.pictures.append((world.render("front")[0], world.render("wrist")[0]))
        if last:
            return clip
        world.command(hand.spoil(expert.act()))
        world.step(1.0 / TICK_HZ)
        after -= int(expert.done)
        tick += 1


class _Clumsy:
    """Commands off by a slowly wandering error, sometimes stalled, jaw sometimes late."""

    def __init__(self, rng: np.random.Generator, active: bool) -> None:
        self._rng, self._active = rng, active
        self._size = rng.uniform(0.3, 3.5) * np.array([1.0, 1.0, 1.0, 1.0, 2.0, 0.0])
        self._error = np.zeros(6)
        self._stall, self._jaw_delay = 0, int(rng.integers(0, 6))
        self._held: np.ndarray | None = None
        self._jaw: list[float] = []

    def spoil(self, target: np.ndarray) -> np.ndarray:
        if not self._active:
            return target
        rng = self._rng
        self._error = 0.93 * self._error + 0.37 * self._size * rng.normal(size=6)
        if self._stall == 0 and rng.random() < 0.015:
            self._stall = int(rng.integers(3, 25))
        if self._stall > 0 and self._held is not None:
            self._stall -= 1
            return self._held
        self._jaw.append(float(target[5]))
        out = np.asarray(target, float) + self._error
        out[5] = self._jaw[max(0, len(self._jaw) - 1 - self._jaw_delay)]
        self._held = out
        return out


def jobs(
    tasks: Sequence[str], episodes: int, seed: int, arranged_share: float
) -> list[tuple[str, int, bool]]:
    """(task, scene seed, arranged?) of every clip, task by task in turn."""
    rng = np.random.default_rng([seed, 5])
    out = []
    for index in range(episodes):
        task = tasks[index % len(tasks)]
        still = task in snapshots.ARRANGEABLE and rng.random() < arranged_share
        out.append((task, seed * 1_000_000 + index, still))
    return out


def record(
    folder: Path,
    worker: int,
    work: Sequence[tuple[str, int, bool]],
    split: str,
    styles: Sequence[str],
) -> int:
    """Record every clip of `work` into the folder; returns how many."""
    world = World(WorldConfig(WIDTH, HEIGHT, depth_noise=False))
    renderer = render.Renderer(render.intrinsics(WIDTH, HEIGHT), False)
    writer = ShardWriter(folder, worker)
    began = time.monotonic()
    for count, (task, seed, still) in enumerate(work):
        rng = np.random.default_rng([seed & 0xFFFFFFFF, 9])
        if still:
            clip = arranged(task, seed, split, renderer, ARRANGED_FRAMES)
        else:
            clip = played(world, task, seed, split, styles=styles)
        goals = add_true_goals(clip, choose_goals(clip.scene, rng, 7), rng, 3)
        writer.add(clip, goals)
        if worker == 0 and count % 200 == 199:
            rate = (count + 1) / (time.monotonic() - began)
            print(f"{count + 1}/{len(work)} clips a worker, {rate:.1f} a second", flush=True)
    writer.close()
    return len(work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of `python -m runtime.bench.clips`."""
    parser = argparse.ArgumentParser(prog="python -m runtime.bench.clips", description=__doc__)
    parser.add_argument("--split", choices=SPLITS, default=TRAIN)
    parser.add_argument(
        "--tasks", nargs="*", default=[], help="names, repeated ones more often; a mix"
    )
    parser.add_argument("--episodes", type=int, default=2000, help="clips in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arranged", type=float, default=0.5, help="share of arranged scenes")
    parser.add_argument("--styles", nargs="*", default=["expert", "clumsy", "clumsy", "failure"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    tasks = given.tasks or list(TASK_MIX)
    try:
        for name in tasks:
            find_task(name)
        outputs.require_folder(given.output, "clips")
    except (UnknownTask, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    given.output.mkdir(parents=True, exist_ok=True)
    meta = {
        "format": FORMAT,
        "split": given.split,
        "width": WIDTH,
        "height": HEIGHT,
        "fx": render.intrinsics(WIDTH, HEIGHT).fx,
        "command": f"python -m runtime.bench.clips --split {given.split} --tasks {' '.join(tasks)} "
        f"--episodes {given.episodes} --seed {given.seed} --arranged {given.arranged:g} "
        f"--styles {' '.join(given.styles)} --workers {given.workers}",
    }
    work = jobs(tasks, given.episodes, given.seed, given.arranged)
    shares = [work[k :: given.workers] for k in range(given.workers)]
    parts = [
        (given.output, k, share, given.split, tuple(given.styles)) for k, share in enumerate(shares)
    ]
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        done = sum(pool.starmap(record, parts))
    # Written last: a folder without it is an unfinished one.
    (given.output / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{done} clips in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
