"""Records glances, to train a policy's eyes on: `python -m runtime.bench.glances --output DIR ...`.

A glance is one moment of an expert's episode, or of an arranged scene: both pictures, the joint state, what
the expert does from there on, and for several instructions that make sense there where the thing and its
target are. Few moments of many scenes teach eyes more than many moments of few. Training scenes only: no
reserved pair, drawer or instruction (`runtime.bench.split`). With `--hands PACKAGE` a policy begins and the
expert takes over where it got to: what to do about the policy's own mistakes (Ross et al. 2011, DAgger).
A folder holds
- meta.json: format, picture size, chunk, seed, the command; written last;
- texts.json: of each worker the instructions that occur;
- shard-WW-NNNN.npz (no objects), F moments, R rows, one per (moment, instruction), the scene's own first:
  `jpeg` uint8[N] all pictures end to end, `offsets` int64[2F+1] where each begins (front, wrist, front, ...),
  `state` float32[F, 6] and `chunk` float32[F, T, 6] in deg and %, `keyframe` float32[F, 6] the action at
  the next keyframe (`contracts.keyframes`), `acted` uint8[F] whether these two count,
  `tip` float32[F, 3] between the fingertips, metres in the arm's base frame,
  `rows` int64[F+1] where each moment's rows begin, `text` int32[R], `points` float32[R, 2, 3] metres in the
  arm's base frame and `pixels` float32[R, 2, 2, 2] (camera; thing, target; column, row), NaN where none.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contracts.errors import ConfigError
from contracts.files import outputs
from contracts.images import encode_jpeg
from contracts.keyframes import next_keyframes
from runtime.bench import language, render, snapshots
from runtime.bench.clips import TASK_MIX, instructions, where
from runtime.bench.experts import EXPERT, make_expert
from runtime.bench.hands import Hands
from runtime.bench.scene import RandomisationConfig, Scene
from runtime.bench.split import TRAIN
from runtime.bench.state import BenchState
from runtime.bench.wander import Wander
from runtime.bench.world import World, WorldConfig

FORMAT = 3
JPEG_QUALITY = 95
WIDTH, HEIGHT = 128, 96
TICK_S = 0.1
CHUNK = 16
SCENES_PER_SHARD = 500
OTHER_GOALS = 3
ARRANGED_SHARE = 0.2
SETTLE_S = 0.5
# Most episodes wander, so that the expert is seen to correct itself: a policy that never saw it takes the
# hand to be where it belongs and doesn't look (Laskey et al. 2017, DART). Degrees, std of the largest.
WANDER_DEG = 6.0
WANDER_SHARE = 0.8
# A policy that leads does so for at most this long.
LEAD_S = 9.0


class Texts:
    """Instructions by number. Each worker numbers its own; a shard's name says whose numbers it uses."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))


class _Shard:
    def __init__(self) -> None:
        self.jpeg: list[bytes] = []
        self.state: list[np.ndarray] = []
        self.tip: list[np.ndarray] = []
        self.chunk: list[np.ndarray] = []
        self.keyframe: list[np.ndarray] = []
        self.acted: list[bool] = []
        self.rows: list[int] = [0]
        self.text: list[int] = []
        self.points: list[np.ndarray] = []
        self.pixels: list[np.ndarray] = []

    def save(self, path: Path) -> None:
        lengths = np.array([0, *(len(data) for data in self.jpeg)], np.int64)
        np.savez(
            path,
            jpeg=np.frombuffer(b"".join(self.jpeg), np.uint8),
            offsets=np.cumsum(lengths),
            state=np.array(self.state, np.float32),
            tip=np.array(self.tip, np.float32),
            chunk=np.array(self.chunk, np.float32),
            keyframe=np.array(self.keyframe, np.float32),
            acted=np.array(self.acted, np.uint8),
            rows=np.array(self.rows, np.int64),
            text=np.array(self.text, np.int32),
            points=np.array(self.points, np.float32),
            pixels=np.array(self.pixels, np.float32),
        )


class Recorder:
    """One worker's scenes, written a shard at a time."""

    def __init__(self, folder: Path, worker: int, hands: Hands | None = None) -> None:
        self._folder, self._worker, self._written = folder, worker, 0
        self._hands = hands
        self._world = World(WorldConfig(WIDTH, HEIGHT, depth_noise=False))
        self._still = render.Renderer(render.intrinsics(WIDTH, HEIGHT), False)
        self.texts = Texts()
        self._shard, self._scenes = _Shard(), 0

    def add(self, task: str, seed: int, moments: int) -> None:
        rng = np.random.default_rng([seed & 0xFFFFFFFF, 41])
        if self._hands is not None:
            self._led(task, seed, moments, rng)
        elif task in snapshots.ARRANGEABLE and rng.random() < ARRANGED_SHARE:
            self._arranged(task, seed, moments, rng)
        else:
            self._played(task, seed, moments, rng)
        self._scenes += 1
        if self._scenes == SCENES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        if self._scenes:
            self._shard.save(self._folder / f"shard-{self._worker:02d}-{self._written:04d}.npz")
            self._written += 1
        self._shard, self._scenes = _Shard(), 0

    def _arranged(self, task: str, seed: int, moments: int, rng: np.random.Generator) -> None:
        scene = snapshots.make_scene(task, seed, TRAIN, RandomisationConfig())
        view = render.intrinsics(WIDTH, HEIGHT)
        for index, physics in enumerate(snapshots.arrangements(scene, view, rng, moments)):
            self._still.forget()
            key = (seed & 0xFFFFFFFF, index)
            pictures = [
                self._still.render(physics.model, physics.data, camera, key)[0]
                for camera in render.CAMERAS
            ]
            poses = [physics.camera_to_world(camera) for camera in render.CAMERAS]
            self._keep(scene, physics.state(), rng, pictures, poses, physics.positions(), None)

    def _played(self, task: str, seed: int, moments: int, rng: np.random.Generator) -> None:
        # How long the episode takes is known only afterwards: it is played twice, and looked at once.
        actions = self._play(task, seed, frozenset(), int(rng.integers(1 << 30)))[0]
        length = len(actions)
        chosen = rng.choice(length, size=min(moments, length), replace=False)
        self._again(task, seed, actions, 0, chosen, rng)

    def _led(self, task: str, seed: int, moments: int, rng: np.random.Generator) -> None:
        """The policy leads for a while; the moment of the take-over is kept, and others after it."""
        lead = int(rng.integers(1, round(LEAD_S / TICK_S)))
        actions, _ = self._play(task, seed, frozenset(), int(rng.integers(1 << 30)), lead=lead)
        after = len(actions) - lead
        if after < 1:  # it had done it by then
            return
        others = 1 + rng.choice(after - 1, size=min(moments, after) - 1, replace=False)
        self._again(task, seed, actions, lead, lead + np.array([0, *others]), rng)

    def _again(
        self,
        task: str,
        seed: int,
        actions: list[tuple[np.ndarray, np.ndarray]],
        lead: int,
        chosen: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Keep the `chosen` ticks of an episode that was just played; the expert acted from `lead` on."""
        world = self._world
        world.step(SETTLE_S)
        succeeded = world.truth().success
        _, seen = self._play(task, seed, frozenset(chosen.tolist()), 0, actions)
        clean = np.array([action for action, _ in actions[lead:]], np.float32)
        following, last = next_keyframes(clean), len(clean) - 1
        for at, state, pictures, poses, joints in seen:
            chunk = clean[np.minimum(at - lead + np.arange(CHUNK), last)]
            # What an expert does who fails is not to be imitated.
            shown = (chunk, clean[following[at - lead]]) if succeeded else None
            self._keep(world.scene, state, rng, pictures, poses, joints, shown)

    def _play(
        self,
        task: str,
        seed: int,
        look_at: frozenset[int],
        noise_seed: int,
        again: list[tuple[np.ndarray, np.ndarray]] | None = None,
        lead: int = 0,
    ) -> tuple[
        list[tuple[np.ndarray, np.ndarray]],
        list[tuple[int, BenchState, list[np.ndarray], list[np.ndarray], np.ndarray]],
    ]:
        """(expert's action, what was commanded) per tick, and the moments of `look_at`. For the first `lead`
        ticks the policy acts; no expert follows if it succeeds by then."""
        world = self._world
        scene = world.reset(task, seed, TRAIN)
        actions = self._lead(scene, seed, lead) if lead else []
        if lead and world.truth().success:
            return actions, []
        seen = []
        rng = np.random.default_rng([noise_seed, 43])
        size = rng.uniform(0.0, WANDER_DEG) * float(rng.random() < WANDER_SHARE)
        wander = Wander(rng, size)
        expert = None if again else make_expert(world, seed, EXPERT)
        for tick in range(len(again) if again else round(scene.time_limit_s / TICK_S)):
            if tick in look_at:
                seen.append(
                    (
                        tick,
                        world.state(),
                        [world.render(camera)[0] for camera in render.CAMERAS],
                        [world.extrinsics(camera) for camera in render.CAMERAS],
                        world.positions(),
                    )
                )
            if again:
                world.command(again[tick][1])
            else:
                assert expert is not None
                action = np.asarray(expert.act(), float)
                actions.append((action, action + wander.step()))
                world.command(actions[-1][1])
            world.step(TICK_S)
            if expert is not None and expert.done:
                break
        return (again or actions), seen

    def _lead(self, scene: Scene, seed: int, ticks: int) -> list[tuple[np.ndarray, np.ndarray]]:
        world, hands = self._world, self._hands
        assert hands is not None
        hands.begin(scene.instruction, seed)
        actions = []
        for _ in range(ticks):
            action = np.asarray(hands.act(world), float)
            actions.append((action, action))
            world.command(action)
            world.step(TICK_S)
            if world.truth().success:
                break
        return actions

    def _keep(
        self,
        scene: Scene,
        state: BenchState,
        rng: np.random.Generator,
        pictures: Sequence[np.ndarray],
        poses: Sequence[np.ndarray],
        joints: np.ndarray,
        shown: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        """`shown`: the expert's chunk and keyframe, where there is one to learn from."""
        shard = self._shard
        shard.jpeg += [encode_jpeg(picture, JPEG_QUALITY) for picture in pictures]
        shard.state.append(joints)
        shard.tip.append(state.tip_m)
        chunk, keyframe = shown or (np.zeros((CHUNK, 6)), np.zeros(6))
        shard.chunk.append(chunk)
        shard.keyframe.append(keyframe)
        shard.acted.append(shown is not None)
        others = [g for g in language.possible_goals(scene) if g != scene.goal]
        order = rng.permutation(len(others))[:OTHER_GOALS]
        for goal in (scene.goal, *(others[int(k)] for k in order)):
            said = instructions(goal, TRAIN)
            if not said:
                continue
            shard.text.append(self.texts.number(said[int(rng.integers(len(said)))]))
            places = [where(name, state, scene) for name in (goal.thing, goal.target)]
            shard.points.append(
                np.array([np.full(3, np.nan) if place is None else place for place in places])
            )
            shard.pixels.append(
                np.array([[_pixel(place, pose) for place in places] for pose in poses])
            )
        shard.rows.append(len(shard.text))


def _pixel(place: np.ndarray | None, camera_to_world: np.ndarray) -> tuple[float, float]:
    """(column, row) from the picture's upper left edge, NaN where the place is not in the picture."""
    if place is None:
        return np.nan, np.nan
    view = render.intrinsics(WIDTH, HEIGHT)
    x, y, z = camera_to_world[:3, :3].T @ (place - camera_to_world[:3, 3])
    if z < 0.02:
        return np.nan, np.nan
    u, v = view.fx * x / z + view.cx + 0.5, view.fy * y / z + view.cy + 0.5
    return (u, v) if 0 <= u < WIDTH and 0 <= v < HEIGHT else (np.nan, np.nan)


def record(
    folder: Path,
    worker: int,
    work: Sequence[tuple[str, int]],
    moments: int,
    package: Path | None = None,
) -> list[str]:
    """Every scene of `work` into the folder, led by the policy of `package`; returns this worker's
    instructions in the order of their numbers."""
    recorder = Recorder(folder, worker, Hands(package) if package else None)
    began = time.monotonic()
    for count, (task, seed) in enumerate(work):
        recorder.add(task, seed, moments)
        if worker == 0 and count % 500 == 499:
            rate = (count + 1) / (time.monotonic() - began)
            print(f"{count + 1}/{len(work)} scenes a worker, {rate:.1f} a second", flush=True)
    recorder.flush()
    return list(recorder.texts.known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of `python -m runtime.bench.glances`."""
    parser = argparse.ArgumentParser(prog="python -m runtime.bench.glances", description=__doc__)
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--moments", type=int, default=6, help="of each scene")
    parser.add_argument("--tasks", nargs="*", default=list(TASK_MIX), help="repeated: more often")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hands", type=Path, help="policy package that begins each episode")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        outputs.require_folder(given.output, "glances")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    given.output.mkdir(parents=True, exist_ok=True)
    work = [
        (given.tasks[index % len(given.tasks)], given.seed * 10_000_000 + index)
        for index in range(given.scenes)
    ]
    parts = [
        (given.output, worker, work[worker :: given.workers], given.moments, given.hands)
        for worker in range(given.workers)
    ]
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        texts = pool.starmap(record, parts)
    (given.output / "texts.json").write_text(json.dumps(texts, indent=1) + "\n")
    meta = {
        "format": FORMAT,
        "split": TRAIN,
        "width": WIDTH,
        "height": HEIGHT,
        "chunk": CHUNK,
        "tick_s": TICK_S,
        "command": f"python -m runtime.bench.glances --scenes {given.scenes} --moments "
        f"{given.moments} --tasks {' '.join(given.tasks)} --seed {given.seed} --workers {given.workers}"
        + (f" --hands {given.hands.name}" if given.hands else ""),
    }
    # Written last: a folder without it is an unfinished one.
    (given.output / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{len(work)} scenes in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
