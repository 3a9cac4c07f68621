"""What was written is what is read: bit-equal numbers and depth, the pictures of the video."""

import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from sample_episodes import CAMERAS, FEATURES, FPS, episode, pictures

from contracts.files import dataset_format
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import DatasetError, Feature
from contracts.files.dataset_reader import DatasetReader

LENGTHS = (9, 4, 30)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    with DatasetWriter.create(root, FPS, FEATURES, "so101", {"depth_scale_m": 0.001}) as writer:
        for seed, length in enumerate(LENGTHS):
            assert writer.add_episode(**episode(seed, length)) == seed
    return root


def test_head(dataset):
    reader = DatasetReader(dataset)
    assert (reader.fps, reader.robot_type, reader.num_episodes) == (FPS, "so101", 3)
    assert reader.num_frames == sum(LENGTHS)
    assert reader.tasks == ["open drawer 0", "open drawer 1"]
    assert reader.extra_info == {"depth_scale_m": 0.001}
    for key, feature in FEATURES.items():
        assert reader.features[key] == (
            feature if feature.dtype != "video" else Feature("video", feature.shape)
        )


def test_numbers_are_bit_equal(dataset):
    reader = DatasetReader(dataset)
    for seed, length in enumerate(LENGTHS):
        given, stored = episode(seed, length)["columns"], reader.episode(seed)
        for key, array in given.items():
            assert stored[key].dtype == reader.features[key].dtype
            assert stored[key].shape == array.shape
            assert np.ascontiguousarray(stored[key]).tobytes() == array.tobytes(), key


def test_bookkeeping_is_lerobots(dataset):
    reader = DatasetReader(dataset)
    last = reader.episode(2)
    assert np.array_equal(last["frame_index"], np.arange(30))
    assert np.array_equal(last["index"], np.arange(13, 43))
    assert set(last["episode_index"]) == {2} and set(last["task_index"]) == {0}
    assert np.array_equal(last["timestamp"], (np.arange(30) / FPS).astype(np.float32))


def test_our_columns_have_values_that_say_unknown(dataset):
    stored = DatasetReader(dataset).episode(0)
    for key in ("time.receive.front", "time.capture.wrist", "time.actuation", "reward.contrastive"):
        assert np.isnan(stored[key]).all()
    assert set(stored["reward_version"]) == {dataset_format.NO_VERSION}


def test_columns_can_be_chosen(dataset):
    reader = DatasetReader(dataset)
    assert set(reader.episode(1, ["action", "index"])) == {"action", "index"}
    with pytest.raises(DatasetError, match=r"no such columns.*'speed'"):
        reader.episode(1, ["action", "speed"])


def test_frames_are_the_videos_frames(dataset):
    reader = DatasetReader(dataset)
    path = dataset / "videos/observation.images.front/chunk-000/file-002.mp4"
    with av.open(str(path)) as container:
        reference = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    frames = reader.frames(2, "observation.images.front")
    assert np.array_equal(frames, reference)
    original = np.stack(pictures(2, 30))
    assert np.abs(frames.astype(int) - original).mean() < 6
    # Every frame is the one of its own step, not a neighbour's (in brightness: colour is halved).
    luma = np.array([0.299, 0.587, 0.114])
    for step in range(30):
        errors = np.abs((original - frames[step].astype(int)) @ luma).mean(axis=(1, 2))
        assert errors.argmin() == step


@pytest.mark.parametrize("indices", [[0], [29], [17, 3, 3, -1], list(range(0, 30, 7)), []])
def test_single_frames_equal_those_of_the_whole(dataset, indices):
    reader = DatasetReader(dataset)
    for camera in CAMERAS:
        whole = reader.frames(2, f"observation.images.{camera}")
        some = reader.frames(2, f"observation.images.{camera}", indices)
        assert np.array_equal(some, whole[indices])


def test_video_timestamps_are_exact(dataset):
    with av.open(str(dataset / "videos/observation.images.wrist/chunk-000/file-002.mp4")) as video:
        stream = video.streams.video[0]
        times = [frame.time for frame in video.decode(stream)]
        assert stream.average_rate == FPS and stream.frames == 30
    assert np.abs(np.array(times) - np.arange(30) / FPS).max() < 1e-9


def test_depth_is_bit_equal(dataset):
    reader = DatasetReader(dataset)
    given = np.stack(episode(1, 4)["depth"]["observation.depth.front"])
    assert np.array_equal(reader.depth(1, "observation.depth.front"), given)
    assert np.array_equal(reader.depth(1, "observation.depth.front", [3, -4]), given[[3, 0]])


def test_the_only_joint_of_a_robot_is_a_vector(tmp_path):
    """As its log has it: what is learned from is [T, n], whichever of the two it is read from."""
    features = {
        "action": Feature("float32", (1,), ("lift.pos",)),
        "chunk": Feature("int64", (1,)),
    }
    action = np.arange(5, dtype=np.float32)
    with DatasetWriter.create(tmp_path, FPS, features, "r") as writer:
        for shape in ((5, 1), (5,)):
            columns = {"action": action.reshape(shape), "chunk": np.arange(5)}
            writer.add_episode(columns, {}, None, "lift")
    reader = DatasetReader(tmp_path)
    for place in range(2):
        columns = reader.episode(place)
        assert np.array_equal(columns["action"], action[:, None])
        assert columns["chunk"].shape == columns["timestamp"].shape == (5,)
    assert reader.stats["action"]["mean"].shape == (1,)


def test_episode_metadata(dataset):
    assert DatasetReader(dataset).meta(1) == {
        "episode_index": 1,
        "task": "open drawer 1",
        "length": 4,
        "extra": {"seed": 1, "reason": "time_limit"},
    }


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_an_episode_without_any_reward_stands_among_others(tmp_path, silent):
    """Its statistics are of no value at all; `merge` leaves them out, and LeRobot's columns stay alike."""
    given = [episode(seed, 5) for seed in range(3)]
    given[silent]["columns"]["reward.process"][:] = np.nan
    with DatasetWriter.create(tmp_path / "set", FPS, FEATURES, "so101") as writer:
        for one in given:
            writer.add_episode(**one)
    with DatasetWriter.open(tmp_path / "set") as writer:
        writer.add_episode(**episode(3, 5))
    reader = DatasetReader(tmp_path / "set")
    assert reader.num_episodes == 4
    values = np.concatenate([reader.episode(i)["reward.process"] for i in range(4)]).astype(float)
    found = reader.stats["reward.process"]
    assert found["count"] == np.isfinite(values).sum() and found["max"] == np.nanmax(values)


def test_statistics_equal_those_of_all_steps(dataset):
    reader = DatasetReader(dataset)
    for key in ("action", "requested_chunk", "reward.process", "intervention", "index"):
        steps = np.concatenate([reader.episode(i)[key] for i in range(3)]).astype(float)
        stats = reader.stats[key]
        assert np.allclose(stats["min"], np.nanmin(steps, axis=0))
        assert np.allclose(stats["max"], np.nanmax(steps, axis=0))
        assert np.allclose(stats["mean"], np.nanmean(steps, axis=0))
        assert np.allclose(stats["std"], np.nanstd(steps, axis=0))
        assert stats["count"] == np.isfinite(steps.reshape(len(steps), -1)[:, 0]).sum()
    picture = reader.stats["observation.images.front"]
    assert (
        picture["mean"].shape == (3, 1, 1)
        and 0 <= picture["q01"].min() <= picture["q99"].max() <= 1
    )
    original = np.concatenate([pictures(seed, length) for seed, length in enumerate(LENGTHS)]) / 255
    assert np.allclose(picture["mean"].ravel(), original.mean(axis=(0, 1, 2)), atol=0.02)
    assert "reward.contrastive" not in reader.stats  # never scored: no number is true of it


def test_statistics_are_strict_json(dataset):
    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    for name in ("stats.json", "info.json"):
        json.loads((dataset / "meta" / name).read_text(), parse_constant=refuse)


def test_depth_stays_out_of_lerobots_sight(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    assert "observation.depth.front" not in info["features"]
    assert (
        "observation.depth.front"
        not in pq.read_schema(dataset / "data/chunk-000/file-000.parquet").names
    )


def test_append_after_reopening(tmp_path):
    with DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer:
        writer.add_episode(**episode(0))
    reader = DatasetReader(tmp_path)
    with DatasetWriter.open(tmp_path) as writer:
        assert writer.num_episodes == 1
        assert writer.add_episode(**episode(1, 5)) == 1
        assert reader.num_episodes == 1
        assert reader.refresh() == 2
    once = tmp_path / "once"
    with DatasetWriter.create(once, FPS, FEATURES, "so101") as writer:
        writer.add_episode(**episode(0))
        writer.add_episode(**episode(1, 5))
    for name in ("meta/stats.json", "meta/info.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((once / name).read_text())
    assert reader.tasks == ["open drawer 0", "open drawer 1"]
    assert np.array_equal(reader.episode(1)["index"], np.arange(9, 14))


def test_metadata_tables_roll_over(tmp_path, monkeypatch):
    monkeypatch.setattr("contracts.files.dataset.EPISODES_PER_META_FILE", 2)
    features = {"action": Feature("float32", (1,))}
    with DatasetWriter.create(tmp_path, FPS, features, "") as writer:
        for seed in range(3):
            writer.add_episode({"action": np.full(2, seed, np.float32)}, {}, None, "t")
    with DatasetWriter.open(tmp_path) as writer:
        for seed in range(3, 5):
            writer.add_episode({"action": np.full((2, 1), seed, np.float32)}, {}, None, "t")
    reader = DatasetReader(tmp_path)
    assert len(list((tmp_path / "meta/episodes").glob("*/*.parquet"))) == 3
    assert [reader.episode(i)["action"][0] for i in range(5)] == [0, 1, 2, 3, 4]
    assert reader.stats["action"]["mean"] == 2


def test_empty_dataset_can_be_read_and_appended_to(tmp_path):
    DatasetWriter.create(tmp_path, FPS, FEATURES, "so101").close()
    reader = DatasetReader(tmp_path)
    assert reader.num_episodes == 0 and reader.tasks == [] and reader.stats == {}
    with DatasetWriter.open(tmp_path) as writer:
        writer.add_episode(**episode(0))
    assert reader.refresh() == 1
