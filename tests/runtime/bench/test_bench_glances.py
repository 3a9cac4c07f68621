"""Glances train a policy's eyes, so they obey the split: nothing reserved is said or shown in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.bench import arm, glances, split
from runtime.bench.experts import make_expert
from runtime.bench.hands import Hands
from runtime.bench.scene import Scene
from runtime.bench.world import World, WorldConfig

ROOT = Path(__file__).resolve().parents[3]

# Both evaluation tasks' relatives, often: these scenes are nearest to what is reserved.
TASKS = ("open_drawer", "put_on")


class Shown:
    """Every scene that the recorder makes, played or arranged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scenes: dict[tuple[str, int], Scene] = {}
        make_scene, reset = glances.snapshots.make_scene, glances.World.reset

        def made(*given: object, **named: object) -> Scene:
            return self._keep(make_scene(*given, **named))

        def played(world: object, *given: object, **named: object) -> Scene:
            return self._keep(reset(world, *given, **named))

        monkeypatch.setattr(glances.snapshots, "make_scene", made)
        monkeypatch.setattr(glances.World, "reset", played)

    def _keep(self, scene: Scene) -> Scene:
        self.scenes[scene.task, scene.seed] = scene
        return scene


def reserved(scenes: list[Scene], texts: list[str]) -> dict[str, int]:
    """How often each reserved thing occurs."""
    return {
        "split": sum(scene.split != split.TRAIN for scene in scenes),
        "drawer": sum(scene.fixture_id == split.RESERVED_DRAWER for scene in scenes),
        "pair": sum(
            split.shows_reserved_pair((*scene.object_names, *scene.container_names))
            for scene in scenes
        ),
        "instruction": sum(text in split.RESERVED_INSTRUCTIONS for text in texts),
        "pair in words": sum(
            thing in text and container in text
            for text in texts
            for thing, container in split.RESERVED_PAIRS
        ),
    }


def test_glances_say_and_show_nothing_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown(monkeypatch)
    tasks = (*glances.TASK_MIX, *TASKS * 2)
    work = [(tasks[index % len(tasks)], 10_000_000 + index) for index in range(60)]
    texts = glances.record(tmp_path, 0, work, 1)
    assert set(shown.scenes) == set(work), "the spy missed a scene"
    assert not any(reserved(list(shown.scenes.values()), texts).values())


def test_another_split_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glances, "TRAIN", split.EVAL)
    shown = Shown(monkeypatch)
    work = [(TASKS[index % 2], index) for index in range(6)]
    texts = glances.record(tmp_path, 0, work, 1)
    assert all(reserved(list(shown.scenes.values()), texts).values())


def test_the_expert_takes_over_from_a_policy(tmp_path: Path) -> None:
    """The first moment kept of a scene is where the policy had got to, and what is shown there is the
    expert's: it starts from the joints of that moment."""
    recorder = glances.Recorder(tmp_path, 0, Hands(ROOT / "pretrained" / "policy-open_drawer"))
    for seed in range(10_000_000, 10_000_006):
        recorder.add("put_on", seed, 3)
    recorder.flush()
    with np.load(tmp_path / "shard-00-0000.npz", allow_pickle=False) as shard:
        first = shard["acted"].astype(bool)
        assert first.sum() >= 6
        away = np.abs(shard["chunk"][first, 0, :5] - shard["state"][first, :5]).max()
        assert away < 15.0, "a chunk that does not begin where the arm is"
        home = np.abs(shard["state"][first, :5] - arm.HOME_DEG[:5]).max(1)
        assert (home > 10.0).mean() > 0.5, "the policy did not move the arm away from home"


def test_a_thing_in_hand_is_not_put_down_to_be_picked_up_again() -> None:
    world = World(WorldConfig(depth_noise=False))
    world.reset("put_on", 3, split.TRAIN)
    expert, thing = make_expert(world, 3), world.scene.object_index(world.scene.goal.thing)
    for _ in range(150):
        world.command(expert.act())
        world.step(0.1)
        if world.state().tip_m[2] > 0.06 and world.state().objects[thing].held:
            break
    taken_over = make_expert(world, 4)
    while not taken_over.done:
        held = world.state().objects[thing].held
        world.command(taken_over.act())
        world.step(0.1)
        if held and not world.state().objects[thing].held:
            break
    world.step(0.5)
    assert world.truth().success, "it let go somewhere else than on the target"


def test_the_command_records_training_scenes(tmp_path: Path) -> None:
    folder = tmp_path / "glances"
    command = [sys.executable, "-m", "runtime.bench.glances", "--scenes", "60", "--moments", "2"]
    command += ["--workers", "1", "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["split"] == split.TRAIN
    (texts,) = json.loads((folder / "texts.json").read_text())
    assert len(texts) > 60
    assert not any(reserved([], texts).values())
    moments = rows = 0
    for path in sorted(folder.glob("shard-*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            assert shard["text"].max() < len(texts)
            moments, rows = moments + len(shard["state"]), rows + len(shard["text"])
    assert moments >= 60 and rows > moments
