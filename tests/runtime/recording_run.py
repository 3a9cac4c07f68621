"""What a recorder needs of a run: its folder, board and ring; and packets as control pushes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from robots import config
from tiny_robot import Parts, session_start, step

from contracts import wire
from contracts.files.dataset_reader import DatasetReader
from contracts.messages import EpisodeEnd, EpisodeStart
from contracts.specs import CameraSpec
from runtime.board import Board
from runtime.processes.supervisor import make_run
from runtime.recording.recorder import Recorder
from runtime.ring import Ring
from runtime.run import Run, RunPlan

HEIGHT, WIDTH = 48, 64
TASK = "open the drawer"


@contextmanager
def recording_run(folder: Path, output: Path, *overrides: str, keep: str = "all") -> Iterator[Run]:
    """A run whose recorder writes `output`; its shared memory is gone afterwards."""
    plan = {"purpose": "record", "driver": "expert", "sink": "dataset", "output": str(output)}
    run = make_run(config(*overrides), msgspec.convert({**plan, "keep": keep}, RunPlan), folder)
    try:
        Board.create(run.board_path).close()
        Ring.create(run.ring_path, run.ring_bytes()).close()
        yield run
    finally:
        shutil.rmtree(run.shm_dir, ignore_errors=True)


@contextmanager
def recorder_of(run: Run) -> Iterator[Recorder]:
    """A recorder in this process."""
    with Board.open(run.board_path) as board:
        recorder = Recorder(run, board)
        try:
            yield recorder
        finally:
            recorder.close()


def start_recorder(run: Run) -> subprocess.Popen[str]:
    """A recorder in a process of its own, as the supervisor starts it."""
    command = [sys.executable, "-m", "runtime.recording.recorder", "--run-dir", run.run_dir]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def session() -> Parts:
    camera = CameraSpec("front", WIDTH, HEIGHT, 10.0)
    message = session_start()
    observation = msgspec.structs.replace(message.observation, cameras=(camera,))
    return wire.pack(msgspec.structs.replace(message, observation=observation))


def colour(seq: int, index: int) -> np.ndarray:
    """uint8[H, W, 3]: a ramp whose brightness tells the episode and the step."""
    ramp = np.linspace(0, 120, WIDTH)[None, :, None] + np.zeros((HEIGHT, 1, 3))
    return (ramp + 4 * (index % 25) + 10 * (seq % 3)).astype(np.uint8)


def depth(seq: int, index: int) -> np.ndarray:
    """uint16[H, W] of noise, so that an episode takes room on the disk."""
    rng = np.random.default_rng(1000 * seq + index)
    return rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)


def one_step(seq: int, index: int, pictures: bool = True) -> Parts:
    if not pictures:
        return wire.pack(step(index, version=seq))
    buffers = [
        wire.raw("front.colour", colour(seq, index)),
        wire.raw("front.depth", depth(seq, index)),
    ]
    return wire.pack(step(index, version=seq), buffers)


def begin(seq: int) -> Parts:
    text = (TASK, "open-drawer", "record")
    return wire.pack(EpisodeStart("bench-0", "s1", seq, *text, 0, "p", 0, "", 1000 + seq, 1e9))


def end(seq: int, steps: int, reason: str = "completed", success: bool | None = True) -> Parts:
    return wire.pack(EpisodeEnd(seq, steps, reason, success))


def packets(seq: int, steps: int = 6) -> Iterator[Parts]:
    """A whole episode."""
    yield begin(seq)
    for index in range(steps):
        yield one_step(seq, index)
    yield end(seq, steps)


def check_whole(root: Path) -> list[int]:
    """The numbers of the data set's episodes, each read to its last byte and found to be what was sent."""
    reader = DatasetReader(root)
    numbers = []
    for episode in range(reader.num_episodes):
        columns, meta = reader.episode(episode), reader.meta(episode)
        seq, steps = int(columns["policy_version"][0]), meta["length"]
        numbers.append(seq)
        assert meta["extra"]["end"]["episode_seq"] == seq and meta["extra"]["pictures_lost"] == 0
        assert columns["observation.state"][:, 5].tolist() == list(range(steps))
        stored = reader.depth(episode, "observation.depth.front")
        assert np.array_equal(stored, np.stack([depth(seq, i) for i in range(steps)]))
        shown = reader.frames(episode, "observation.images.front").astype(int)
        sent = np.stack([colour(seq, i) for i in range(steps)])
        assert np.abs(shown - sent).mean() < 2
    return numbers


def push(ring: Ring, parts: Parts, timeout_s: float = 10.0) -> bool:
    """Into the ring as soon as it fits; False when nobody makes room."""
    give_up_s = time.monotonic() + timeout_s
    while not ring.try_push(parts):
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.001)
    return True
