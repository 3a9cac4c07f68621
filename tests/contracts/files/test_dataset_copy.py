"""An episode that was taken over from another data set is the same to the bit, pictures and statistics."""

import numpy as np
import pytest
from sample_episodes import CAMERAS, FEATURES, FPS, episode

from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_copy import copy_episode, open_like
from contracts.files.dataset_format import DEPTH_PATTERN, VIDEO_PATTERN, DatasetError, path_at
from contracts.files.dataset_reader import DatasetReader


@pytest.fixture
def source(tmp_path):
    with DatasetWriter.create(tmp_path / "source", FPS, FEATURES, "so101", {"a": 1}) as writer:
        for seed in range(3):
            writer.add_episode(**episode(seed, 5 + seed))
    return DatasetReader(tmp_path / "source")


def test_in_another_order_and_bit_by_bit(tmp_path, source):
    with open_like(tmp_path / "copy", source) as writer:
        for place in (2, 0):
            copy_episode(writer, source, place)
    with open_like(tmp_path / "copy", source) as writer:  # it grows
        copy_episode(writer, source, 1)
    found = DatasetReader(tmp_path / "copy")
    assert found.num_episodes == 3 and found.extra_info == {"a": 1}
    for new, old in enumerate((2, 0, 1)):
        ours, theirs = found.episode(new), source.episode(old)
        for key in theirs.keys() - {"index", "episode_index", "task_index"}:
            assert ours[key].tobytes() == theirs[key].tobytes(), key
        assert (found.meta(new)["task"], found.meta(new)["extra"]) == (
            source.meta(old)["task"],
            source.meta(old)["extra"],
        )
        names = [(VIDEO_PATTERN, f"observation.images.{camera}") for camera in CAMERAS]
        for pattern, key in (*names, (DEPTH_PATTERN, "observation.depth.front")):
            files = [
                (root / path_at(pattern, at, video_key=key, key=key)).read_bytes()
                for root, at in ((found.root, new), (source.root, old))
            ]
            assert files[0] == files[1]
        for key, stats in source.episode_stats(old).items():
            if key not in ("index", "episode_index", "task_index"):
                for name, array in stats.items():
                    assert np.array_equal(found.episode_stats(new)[key][name], array)
    for key, stats in source.stats.items():
        if key.startswith("observation.images"):
            assert found.stats[key]["mean"] == pytest.approx(stats["mean"], rel=1e-9)
    assert not list(found.root.rglob("*.tmp"))


def test_another_rate_or_robot_is_refused_and_nothing_is_left(tmp_path, source):
    other = {key: f for key, f in FEATURES.items() if key != "latent"}
    for name, fps, features, words in (
        ("rate", FPS + 1, FEATURES, "another rate"),
        ("robot", FPS, other, "another robot"),
    ):
        with DatasetWriter.create(tmp_path / name, fps, features, "so101") as writer:
            with pytest.raises(DatasetError, match=words):
                copy_episode(writer, source, 0)
            assert writer.num_episodes == 0
        assert not list((tmp_path / name).rglob("*.tmp"))


def test_a_picture_that_is_gone_leaves_the_data_set_as_it_was(tmp_path, source):
    key = "observation.images.wrist"
    (source.root / path_at(VIDEO_PATTERN, 1, video_key=key)).unlink()
    with open_like(tmp_path / "copy", source) as writer:
        copy_episode(writer, source, 0)
        with pytest.raises(OSError):
            copy_episode(writer, source, 1)
    assert DatasetReader(tmp_path / "copy").num_episodes == 1
    assert not list((tmp_path / "copy").rglob("*.tmp"))
