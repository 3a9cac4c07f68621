"""LeRobot itself (0.4.4, in its own environment) opens our data sets, and we open one of its own.

Needs `ENTRACTE_LEROBOT_PYTHON`, the interpreter of an environment with lerobot 0.4.4 (see docs/dataset.md).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from contracts.files import dataset_info
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.files.dataset_reader import DatasetReader

PYTHON = os.environ.get("ENTRACTE_LEROBOT_PYTHON")
SIDE = Path(__file__).with_name("lerobot_side.py")

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.skipif(
        not PYTHON,
        reason="ENTRACTE_LEROBOT_PYTHON is not set: name the Python of an environment with lerobot 0.4.4",
    ),
]

HEIGHT, WIDTH, FPS = 96, 128, 30
LENGTHS = (70, 33)
FRONT, WRIST, DEPTH = (
    "observation.images.front",
    "observation.images.wrist",
    "observation.depth.front",
)
JOINTS = ("pan.pos", "lift.pos", "elbow.pos", "flex.pos", "roll.pos", "gripper.pos")
FEATURES = {
    "observation.state": Feature("float32", (6,), JOINTS),
    "action": Feature("float32", (6,), JOINTS),
    "requested_chunk": Feature("float32", (8, 6)),
    "next.done": Feature("bool", (1,)),
    FRONT: Feature("video", (HEIGHT, WIDTH, 3)),
    WRIST: Feature("video", (HEIGHT, WIDTH, 3)),
    DEPTH: Feature("depth16", (HEIGHT, WIDTH)),
}
# LeRobot's PyAV brings an FFmpeg of its own, whose colour conversion may round otherwise by a level or
# two. Measured: equal, 0 levels (PyAV 15.1 there, 18.1 here, x86).
LEVELS = 2


def lerobot(*arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [PYTHON, str(SIDE), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def textured(seed, length):
    """Smooth colour noise that drifts, with a sharp square: nothing a codec finds easy."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    base = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    for step in range(length):
        frame = np.roll(base, step, axis=1)
        frame[20:40, step : step + 20] = (255, 0, 0)
        yield frame


def episode(seed, length):
    rng = np.random.default_rng(seed)
    return {
        "columns": {
            "observation.state": rng.normal(size=(length, 6)).astype(np.float32),
            "action": rng.normal(size=(length, 6)).astype(np.float32),
            "requested_chunk": rng.normal(size=(length, 8, 6)).astype(np.float32),
            "next.done": np.arange(length) == length - 1,
            "time.capture.front": 98765.4321 + np.arange(length) / FPS,
            "policy_version": np.full(length, 7 + seed),
            "reward.process": np.where(np.arange(length) % 2, np.nan, 0.25).astype(np.float32),
        },
        "frames": {FRONT: textured(seed, length), WRIST: textured(seed + 10, length)},
        "depth": {DEPTH: rng.integers(0, 65536, (length, HEIGHT, WIDTH), dtype=np.uint16)},
        "task": f"open drawer {seed}",
    }


def write_ours(root):
    """Two episodes, and all files but the last of a third, as a writer killed before its commit leaves it."""
    writer = DatasetWriter.create(root, FPS, FEATURES, "so101", {"note": "peer"})
    for seed, length in enumerate(LENGTHS):
        writer.add_episode(**episode(seed, length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_info, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.add_episode(**episode(2, 20))
    assert (root / "data/chunk-000/file-002.parquet").exists()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(our reader, arrays as LeRobot gives them, LeRobot's summary) of one data set."""
    root = tmp_path_factory.mktemp("peer") / "dataset"
    write_ours(root)
    out = root.parent / "lerobot.npz"
    lerobot("read", root, out)
    with np.load(out, allow_pickle=False) as arrays:
        return DatasetReader(root), dict(arrays), json.loads(Path(f"{out}.json").read_text())


def test_lerobot_sees_the_same_data_set(both):
    reader, _, summary = both
    assert (summary["episodes"], summary["frames"], summary["fps"]) == (2, sum(LENGTHS), FPS)
    assert summary["tasks"] == [
        f"open drawer {e}" for e, length in enumerate(LENGTHS) for _ in range(length)
    ]
    assert DEPTH not in summary["features"] and FRONT in summary["features"]
    assert {"min", "max", "mean", "std", "count", "q01", "q99"} <= set(summary["stats_keys"])
    assert np.allclose(summary["state_mean"], reader.stats["observation.state"]["mean"])
    assert summary["picture_mean_shape"] == [3, 1, 1]


def test_states_actions_and_own_columns_are_bit_equal(both):
    reader, arrays, _ = both
    compared = 0
    for key in reader.episode(0):
        ours = np.concatenate([reader.episode(i)[key] for i in range(2)])
        if ours.dtype == np.float64:
            # LeRobot makes float32 tensors of every float; the file keeps the full times.
            ours = ours.astype(np.float32)
        assert arrays[key].dtype == ours.dtype and arrays[key].tobytes() == ours.tobytes(), key
        compared += 1
    print(f"\n{compared} columns bit-equal over {sum(LENGTHS)} steps")


@pytest.mark.parametrize("camera", [FRONT, WRIST])
def test_frames_equal_our_decode(both, camera):
    reader, arrays, _ = both
    ours = np.concatenate([reader.frames(i, camera) for i in range(2)])
    difference = np.abs(arrays[camera].astype(int) - ours)
    print(
        f"\n{camera}: {(difference == 0).mean():.6f} of values equal, largest difference {difference.max()}"
    )
    assert difference.max() <= LEVELS


def test_lerobot_selects_episodes_and_windows(both):
    _, _, summary = both
    assert summary["second_episode"] == LENGTHS[1]
    assert summary["window_shapes"] == {"action": [2, 6], FRONT: [2, 3, HEIGHT, WIDTH]}


def test_we_read_a_data_set_of_lerobots(tmp_path):
    root = tmp_path / "dataset"
    lerobot("write", root)
    reader = DatasetReader(root)
    assert (reader.num_episodes, reader.fps, reader.tasks) == (2, 10, ["task 0", "task 1"])
    for episode, length in enumerate((6, 9)):
        columns = reader.episode(episode)
        values = 100 * episode + np.arange(length, dtype=np.float32)
        assert np.array_equal(columns["observation.state"], np.stack([values, -values], axis=1))
        assert reader.meta(episode) == {
            "episode_index": episode,
            "task": f"task {episode}",
            "length": length,
            "extra": {},
        }
        levels = reader.frames(episode, "observation.images.front").mean(axis=(1, 2, 3))
        assert np.abs(levels - (10 * np.arange(length) + 60 * episode)).max() < 3
        last = reader.frames(episode, "observation.images.front", [-1])
        assert np.abs(last.mean() - (10 * (length - 1) + 60 * episode)) < 3
