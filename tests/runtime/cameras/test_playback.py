"""Recordings as cameras: the real D435 file, one that these tests record, and our own data sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyrealsense2 as rs
import pytest
from rehearsals import Rehearsed, make
from robots import until
from soft_realsense import SoftD435, noise

from contracts.errors import ConfigError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.specs import CameraSpec
from runtime.board import LoopState
from runtime.cameras import Picture, Source
from runtime.cameras.device_clock import DeviceClock
from runtime.cameras.playback import Player, Recorded, playback
from runtime.config import CameraSection, load_config
from runtime.run import Run, RunPlan

D435_FILE = (
    Path(__file__).resolve().parents[4] / "shared/data/realsense/single_depth_color_640x480.bag"
)
LENGTH, SIZE = 12, (160, 120)


def a_run(folder: Path, width: int, height: int, rate_hz: float, depth: bool = True) -> Run:
    camera = CameraSection(
        kind="playback", width=width, height=height, rate_hz=rate_hz, depth=depth
    )
    config = msgspec.structs.replace(
        load_config(None, ["pace=realtime"]), cameras={"front": camera}
    )
    return Run(config, RunPlan(), str(folder), str(folder), "test")


def play(source: Source, count: int) -> list[tuple[float, Picture]]:
    """So many pictures, each with the time at which it came (from the first)."""
    found: list[tuple[float, Picture]] = []
    began_s = time.monotonic()
    while len(found) < count:
        assert time.monotonic() - began_s < 20.0, "the recording stands still"
        if (picture := source.wait(0.1)) is not None:
            depth = None if picture.depth is None else picture.depth.copy()
            picture = replace(picture, rgb=picture.rgb.copy(), depth=depth)
            found.append((picture.received_s, picture))
    return [(at_s - found[0][0], picture) for at_s, picture in found]


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`LENGTH` pictures of a software device, written by librealsense's own recorder."""
    path = tmp_path_factory.mktemp("recording") / "own.db3"
    soft = SoftD435(*SIZE, 30)
    recorder = rs.recorder(str(path), soft.device)
    syncer = rs.syncer(4)
    for sensor in recorder.query_sensors():
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(syncer)
    for number in range(1, LENGTH + 1):
        soft.feed(number, *noise(soft.size, number), 1.7e9 + number / 30, number / 30)
        syncer.try_wait_for_frames(50)
    for sensor in recorder.query_sensors():
        sensor.stop()
        sensor.close()
    del recorder  # writes the index
    return path


@pytest.mark.skipif(not D435_FILE.exists(), reason=f"{D435_FILE} is not on this machine")
def test_the_real_d435_file_plays_aligned_as_librealsense_aligns_it(tmp_path: Path) -> None:
    source = playback(a_run(tmp_path, 640, 480, 6.0), "front", path=str(D435_FILE))
    pictures = play(source, 4)
    spec = source.spec()
    source.close()

    config, pipeline = rs.config(), rs.pipeline()
    config.enable_device_from_file(str(D435_FILE), True)
    pipeline.start(config)
    frames = pipeline.wait_for_frames(5000)
    while not (frames.get_depth_frame() and frames.get_color_frame()):
        frames = pipeline.wait_for_frames(5000)
    aligned = rs.align(rs.stream.color).process(frames)
    depth = np.asanyarray(aligned.get_depth_frame().get_data()).copy()
    rgb = np.asanyarray(frames.get_color_frame().get_data()).copy()
    pipeline.stop()

    assert (spec.model, spec.serial) == ("Intel RealSense D435", "728612070259")
    assert (spec.width, spec.height, spec.rate_hz) == (640, 480, 6.0)
    assert spec.fx == pytest.approx(613.2, abs=0.1) and spec.depth_scale_m == pytest.approx(0.001)
    for at, (at_s, picture) in enumerate(
        pictures
    ):  # it holds one picture: each round follows the last
        assert np.array_equal(picture.rgb, rgb)
        assert picture.depth is not None and np.array_equal(picture.depth, depth)
        assert at_s >= at / 6.0 - 0.02 and picture.number == at + 1
    assert np.count_nonzero(depth) > 100_000


@pytest.mark.skipif(not D435_FILE.exists(), reason=f"{D435_FILE} is not on this machine")
def test_a_whole_robot_runs_on_the_real_d435_file(tmp_path: Path) -> None:
    camera = {"kind": "playback", "width": 640, "height": 480, "rate_hz": 6}
    with Rehearsed(make(tmp_path, camera | {"options": {"path": str(D435_FILE)}})) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        until(lambda: robot.slots.pictures > 10 and robot.board.step > 10)
        report = robot.report()["cameras"]["front"]
    assert report["state"] == "live" and report["frozen"] == report["errors"] == 0


def test_a_recorded_file_comes_back_whole_at_its_pace_and_over_and_over(
    tmp_path: Path, own_file: Path
) -> None:
    source = playback(a_run(tmp_path, *SIZE, 30.0), "front", path=str(own_file))
    pictures = play(source, 2 * LENGTH)
    source.close()
    contents = [noise((SIZE[1], SIZE[0]), number)[0] for number in range(1, LENGTH + 1)]

    def which(picture: Picture) -> int:
        return next(i for i, rgb in enumerate(contents) if np.array_equal(picture.rgb, rgb))

    order = [which(picture) for _, picture in pictures]
    assert order == 2 * list(range(LENGTH))
    times = [picture.device_s for _, picture in pictures]
    assert np.diff(times) == pytest.approx(1 / 30, abs=1e-3)
    assert pictures[-1][0] >= (2 * LENGTH - 1) / 30 - 0.02


def test_a_file_of_another_rate_or_size_is_refused_in_a_sentence(
    tmp_path: Path, own_file: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expected 10 Hz, found 30 Hz; set cameras.front.rate"):
        playback(a_run(tmp_path, *SIZE, 10.0), "front", path=str(own_file))
    slower = playback(
        a_run(tmp_path, *SIZE, 10.0), "front", path=str(own_file), recorded_pace=False
    )
    assert play(slower, 3)[-1][0] >= 0.18
    slower.close()
    with pytest.raises(ConfigError, match=r"nothing to play.*found /nowhere.db3"):
        playback(a_run(tmp_path, *SIZE, 30.0), "front", path="/nowhere.db3")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Two episodes at 15 Hz whose camera skipped a beat: step 2 looked at the picture of step 1 again."""
    root = tmp_path_factory.mktemp("recorded") / "set"
    features = {
        "observation.state": Feature("float32", (1,), ("pan.pos",)),
        "action": Feature("float32", (1,), ("pan.pos",)),
        "observation.images.front": Feature("video", (48, 64, 3)),
        "observation.depth.front": Feature("depth16", (48, 64)),
    }
    extra = {
        "observation": {
            "cameras": [{"name": "front", "width": 64, "height": 48, "rate_hz": 15.0, "fx": 61.5}]
        }
    }
    times = np.array([0.0, 0.07, 0.07, 0.2, 0.27]) + 5e3
    depths = np.arange(10, dtype=np.uint16)[:, None, None] * np.ones((48, 64), np.uint16)
    with DatasetWriter.create(root, 15, features, "bench", extra) as writer:
        for episode in range(2):
            columns: dict[str, Any] = {
                key: np.zeros((5, 1), np.float32) for key in ("observation.state", "action")
            }
            writer.add_episode(
                columns | {"time.capture.front": times + 100 * episode},
                {
                    "observation.images.front": [
                        np.full((48, 64, 3), 40 * i, np.uint8) for i in range(5)
                    ]
                },
                {"observation.depth.front": list(depths[5 * episode :][:5])},
                task="look",
            )
    return root, times - times[0]


@pytest.mark.parametrize("memory_mib", [256, 0])
def test_a_recorded_data_set_plays_at_its_true_capture_times(
    tmp_path: Path, dataset: tuple[Path, np.ndarray], memory_mib: int
) -> None:
    root, times = dataset
    run = a_run(tmp_path, 64, 48, 15.0)
    source = playback(run, "front", path=str(root), memory_mib=memory_mib)
    pictures = play(source, 9)
    assert source.spec().fx == 61.5
    source.close()
    depths = [int(picture.depth[0, 0]) for _, picture in pictures if picture.depth is not None]
    assert depths == [0, 1, 3, 4, 5, 6, 8, 9, 0]
    device = np.array([picture.device_s for _, picture in pictures])
    assert device[:4] - device[0] == pytest.approx(times[[0, 1, 3, 4]])
    assert pictures[3][0] >= times[-1] - 0.02
    assert device[4] - device[3] == pytest.approx(1 / 15)  # the next episode follows at once
    assert abs(int(pictures[1][1].rgb.mean()) - 40) < 4
    with pytest.raises(ConfigError, match=r"no camera 'wrist': expected one of \['front'\]"):
        playback(run, "front", path=str(root), camera="wrist")


class InMemory:
    """`Recording`: ten pictures at 20 Hz."""

    spec = CameraSpec("front", 64, 48, 20.0)

    def pictures(self) -> Iterator[Recorded]:
        for at in range(10):
            yield Recorded(np.full((48, 64, 3), at, np.uint8), None, 7.0 + at / 20)

    def close(self) -> None: ...


@pytest.mark.parametrize("recorded_pace", [True, False])
def test_what_stood_still_is_late_no_longer_when_it_goes_on(recorded_pace: bool) -> None:
    player, clock = Player(InMemory(), "front", 1 / 20, recorded_pace), DeviceClock()
    early = [picture for _, picture in play(player, 4)]
    time.sleep(2.0)
    after = [picture for _, picture in play(player, 12)]  # and once more from the beginning
    late_s = [p.received_s - clock.captured_s(p.device_s, p.received_s) for p in early + after]
    assert max(late_s) < 1.0
    assert [p.number for p in early + after] == list(range(1, 17))
    assert np.diff([p.device_s for p in after]) == pytest.approx(1 / 20)
    assert after[-1].received_s - after[0].received_s > 0.5, "at its pace, in no burst"
