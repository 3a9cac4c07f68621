"""The bench's cameras in real time: another process takes the same pictures, and follows what happens."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from robots import REALTIME, config, until

from contracts.errors import DeviceError, EntracteError
from runtime.bench import World, WorldConfig
from runtime.bench.pictures import Viewer
from runtime.bench.protocol import BenchClient, Done, Reset, SceneReady, Write
from runtime.bench.stage import Stage
from runtime.board import LoopState
from runtime.frames import FrameSlots
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan

SMALL = WorldConfig(width=96, height=72)


def _robot(folder: Path, *overrides: str) -> Supervisor:
    run = make_run(
        config(*REALTIME, "episode.max_s=30", *overrides),
        RunPlan(purpose="record", driver="expert", style="idle", episodes=1, sink="none"),
        folder,
    )
    return Supervisor(run)


def _camera_process(robot: Supervisor) -> psutil.Process:
    bench = robot.child("bench").process
    assert bench is not None
    (cameras,) = psutil.Process(bench.pid).children()
    return cameras


@pytest.mark.parametrize("task", ["open_drawer", "put_on", "press_button"])
def test_a_picture_of_a_glimpse_is_the_worlds_own(tmp_path: Path, task: str) -> None:
    world, viewer = World(SMALL), Viewer(SMALL)
    stage = Stage.create(tmp_path / "stage")
    reader = Stage.open(tmp_path / "stage")
    assert reader.newest() is None
    for seed in (3, 4):
        world.reset(task, seed)
        stage.show(seed, world.model_xml(), world.sight(), 1.0)
        glimpse = reader.newest()
        assert glimpse is not None
        viewer.look(glimpse)
        for camera in ("front", "wrist"):
            for mine, theirs in zip(viewer.render(camera), world.render(camera), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_pictures_follow_the_arm_and_what_is_painted(tmp_path: Path) -> None:
    world, viewer = World(SMALL), Viewer(SMALL)
    stage = Stage.create(tmp_path / "stage")
    pictures = []

    def take() -> None:
        stage.show(1, world.model_xml(), world.sight(), 1.0)
        glimpse = stage.newest()
        assert glimpse is not None
        viewer.look(glimpse)
        pictures.append(viewer.render("front")[0].astype(int))

    world.reset("press_button", 3)
    take()
    pose = world.positions().astype(float)
    pose[0] += 40.0
    world.command(pose)
    world.step(1.0)
    take()
    physics = world._live()
    physics._lit = True
    physics._paint()
    take()
    for before, after in itertools.pairwise(pictures):
        assert (np.abs(after - before).max(axis=2) > 20).sum() > 10


def test_what_is_no_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no stage"):
        Stage.open(tmp_path / "nothing")
    (tmp_path / "other").write_bytes(b"\0" * 4096)
    with pytest.raises(DeviceError, match="layout"):
        Stage.open(tmp_path / "other")
    world = World(SMALL)
    world.reset("open_drawer", 3)
    with pytest.raises(EntracteError, match="too large"):
        Stage.create(tmp_path / "stage").show(1, "x" * 70_000, world.sight(), 1.0)


def test_a_running_bench_shows_the_arm_that_moves_and_the_next_scene(tmp_path: Path) -> None:
    with _robot(tmp_path) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING and robot.board.step > 5)
        slots = FrameSlots.open(robot.run.frames_path("front"))
        os.kill(robot.board.control_pid, signal.SIGSTOP)
        until(lambda: robot.board.watchdog_tripped != 0)
        client = BenchClient(robot.run.bench_address, "test")

        def seen(after_s: float) -> np.ndarray:
            until(lambda: (slots.newest(0.0) or first).captured_s > after_s)
            frame = slots.newest(0.0)
            assert frame is not None
            return frame.rgb.astype(int)

        first = slots.newest(0.0)
        assert first is not None
        pictures = [first.rgb.astype(int)]
        assert client.ask(Write(1000, (40.0, -60.0, 60.0, 60.0, 0.0, 50.0)), Done).accepted
        pictures.append(seen(time.monotonic() + 1.0))
        ready = client.ask(Reset("put_on", 7, "eval", 1, "record"), SceneReady)
        pictures.append(seen(ready.now_s))
        client.close()
        os.kill(robot.board.control_pid, signal.SIGCONT)
    for before, after in itertools.pairwise(pictures):
        assert (np.abs(after - before).max(axis=2) > 20).sum() > 100


def test_rendering_gets_a_larger_share_but_not_the_first_place_and_ends_with_the_bench(
    tmp_path: Path,
) -> None:
    with _robot(tmp_path) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        cameras = _camera_process(robot)
        for thread in cameras.threads():
            assert os.sched_getscheduler(thread.id) not in (os.SCHED_FIFO, os.SCHED_RR)
        if os.geteuid() == 0:  # a larger share, in its session and of its session
            assert cameras.nice() == os.nice(0) - 10
            group = Path(f"/proc/{cameras.pid}/autogroup")
            assert not group.exists() or group.read_text().split()[-1] == "-10"
        bench = robot.child("bench").process
        assert bench is not None
        bench.kill()
        cameras.wait(5.0)
        assert not cameras.is_running()


def test_a_dead_camera_stops_the_episode_and_not_the_bus(tmp_path: Path) -> None:
    with _robot(tmp_path) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING and robot.board.step > 5)
        _camera_process(robot).kill()
        until(lambda: robot.board.loop_state == LoopState.FAULT, 10.0)
        assert robot.child("bench").code is None
        outcome = robot.wait()
    assert outcome.code == 3
    assert "old" in outcome.what
    assert "the cameras ended" in (tmp_path / "logs" / "bench.log").read_text()
