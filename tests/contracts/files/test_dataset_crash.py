"""A killed writer leaves a data set that ends with the last finished episode, and can be appended to."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sample_episodes import episode

from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_reader import DatasetReader

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]


def start(verb, root):
    environment = {"PYTHONPATH": f"{REPOSITORY}:{HERE}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(HERE / "crashing_writer.py"), verb, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def check_whole(root, lengths):
    """Every committed episode is complete and is the one that was written; returns how many."""
    reader = DatasetReader(root)
    index = 0
    for seed in range(reader.num_episodes):
        given, stored = episode(seed, lengths(seed)), reader.episode(seed)
        for key, array in given["columns"].items():
            assert stored[key].tobytes() == array.tobytes()
        assert stored["index"][0] == index
        index += len(stored["index"])
        for key, frames in given["frames"].items():
            # The square's brightness tells whose frame it is.
            assert np.abs(reader.frames(seed, key).astype(int) - np.stack(frames)).mean() < 8
        for key, frames in given["depth"].items():
            assert np.array_equal(reader.depth(seed, key), np.stack(frames))
        assert reader.meta(seed)["extra"] == given["extra"]
        assert reader.meta(seed)["task"] == given["task"]
    assert reader.num_frames == index
    if reader.num_episodes:
        assert reader.stats["action"]["count"] >= index
    return reader.num_episodes


def check_appendable(root, lengths):
    with DatasetWriter.open(root) as writer:
        seed = writer.num_episodes
        writer.add_episode(**episode(seed, lengths(seed)))
    assert check_whole(root, lengths) == seed + 1
    assert DatasetReader(root).stats["action"]["count"] == DatasetReader(root).num_frames
    assert not list(root.rglob("*.tmp"))


def test_death_at_every_sync_and_rename(tmp_path):
    with start("steps", tmp_path) as child:
        results = [json.loads(line) for line in child.stdout]
    assert [r["code"] for r in results[:-1]] == [9] * (len(results) - 1) and results[-1][
        "code"
    ] == 0
    assert len(results) > 20
    found = []
    for result in results:
        root = tmp_path / str(result["call"])
        found.append(check_whole(root, lambda _: 9))
        check_appendable(root, lambda _: 9)
    # One moment decides: before it the old data set, after it the new one.
    assert found == sorted(found) and set(found) == {1, 2}


@pytest.mark.parametrize("seed", range(2))
def test_kill_at_random_moments(tmp_path, seed):
    rng = random.Random(seed)

    def lengths(episode_index):
        return 4 + episode_index % 5

    announced = -1
    for _ in range(3):
        with start("endless", tmp_path) as child:
            announced = int(child.stdout.readline())
            time.sleep(rng.uniform(0, 0.3))
            child.kill()
            rest = child.stdout.read().split()
        announced = max([announced, *(int(word) for word in rest)])
        # Announced episodes are committed; one more may be, whose announcement was lost.
        assert announced + 1 <= check_whole(tmp_path, lengths) <= announced + 2
    check_appendable(tmp_path, lengths)
