"""An episode written as it comes is the one written at once; one that is taken out leaves no trace."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from sample_episodes import FEATURES, FPS, HEIGHT, WIDTH, depths, episode

from contracts.files import dataset_info, dataset_stream, depth_file
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import DatasetError, Feature
from contracts.files.dataset_reader import DatasetReader
from contracts.files.depth_file import DepthWriter

DEPTH = "observation.depth.front"


def files_of(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def stream(writer: DatasetWriter, given: dict, reserve: int) -> int:
    """Every feature from a thread of its own, as the recorder does."""
    files = writer.begin(reserve)

    def fill(key: str, frames: list[np.ndarray]) -> None:
        for frame in frames:
            files.files[key].add(frame)

    threads = [
        threading.Thread(target=fill, args=item)
        for item in (*given["frames"].items(), *given["depth"].items())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return writer.keep(files, given["columns"], given["task"], given["extra"])


@pytest.mark.parametrize("reserve", [30, 100, 3])
def test_streamed_and_whole_episodes_are_the_same(
    tmp_path: Path, reserve: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for the index to spare, exactly enough, and too little; synced all the time."""
    monkeypatch.setattr(dataset_stream, "SYNC_EVERY_BYTES", 1)
    readers = []
    for name in ("whole", "streamed"):
        with DatasetWriter.create(tmp_path / name, FPS, FEATURES, "so101") as writer:
            for seed in range(2):
                given = episode(seed, 30)
                if name == "whole":
                    assert writer.add_episode(**given) == seed
                else:
                    assert stream(writer, given, reserve) == seed
        readers.append(DatasetReader(tmp_path / name))
    whole, streamed = readers
    assert files_of(whole.root) == files_of(streamed.root)
    for seed in range(2):
        for key, array in whole.episode(seed).items():
            assert np.array_equal(array, streamed.episode(seed)[key], equal_nan=True), key
        assert np.array_equal(streamed.depth(seed, DEPTH), np.stack(depths(seed, 30)))
        for camera in ("front", "wrist"):
            key = f"observation.images.{camera}"
            assert np.array_equal(whole.frames(seed, key), streamed.frames(seed, key))
    assert (tmp_path / "whole/meta/stats.json").read_text() == (
        tmp_path / "streamed/meta/stats.json"
    ).read_text()


def test_a_repeated_picture_is_the_one_before(tmp_path: Path) -> None:
    features = {
        "action": Feature("float32", (1,)),
        "observation.images.a": Feature("video", (HEIGHT, WIDTH, 3)),
        "observation.depth.a": Feature("depth16", (HEIGHT, WIDTH)),
    }
    given = episode(3, 4)
    pictures, depth = given["frames"]["observation.images.front"], given["depth"][DEPTH]
    with DatasetWriter.create(tmp_path, FPS, features, "") as writer:
        files = writer.begin(6)
        for row in (0, None, 1, None, None, 2):
            for key, frames in (("observation.images.a", pictures), ("observation.depth.a", depth)):
                if row is None:
                    files.files[key].repeat()
                else:
                    files.files[key].add(frames[row])
        writer.keep(files, {"action": np.zeros(6, np.float32)}, "t")
    reader = DatasetReader(tmp_path)
    shown = reader.depth(0, "observation.depth.a")
    assert np.array_equal(shown, np.stack([depth[i] for i in (0, 0, 1, 1, 1, 2)]))
    colour = reader.frames(0, "observation.images.a").astype(int)
    for row, picture in enumerate((0, 0, 1, 1, 1, 2)):
        assert np.abs(colour[row] - pictures[picture]).mean() < 6


def test_an_episode_that_is_thrown_away_leaves_no_file(tmp_path: Path) -> None:
    with DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer:
        before = files_of(tmp_path)
        for _ in range(2):
            files = writer.begin(9)
            for key, frames in episode(0)["frames"].items():
                files.files[key].add(frames[0])
            files.discard()
            files.discard()
        assert files_of(tmp_path) == before
        files = writer.begin(9)
        for key, frames in episode(0)["frames"].items():
            files.files[key].add(frames[0])
        with pytest.raises(DatasetError, match="expected 9"):
            writer.keep(files, episode(0)["columns"], "t")
        assert files_of(tmp_path) == before
        assert writer.add_episode(**episode(0)) == 0


def test_depth_that_outgrows_its_index_costs_no_frame(tmp_path: Path) -> None:
    frames = depths(5, 12)
    for reserve in (0, 11, 12, 500):
        path = tmp_path / f"{reserve}.depth"
        writer = DepthWriter(path, shape=(HEIGHT, WIDTH), what="d", reserve=reserve)
        for frame in frames:
            writer.add(frame)
        writer.close()
        found = depth_file.read(path, shape=(HEIGHT, WIDTH), length=12, indices=range(12))
        assert np.array_equal(found, np.stack(frames))
    assert {path.suffix for path in tmp_path.iterdir()} == {".depth"}


def content(reader: DatasetReader) -> list[bytes]:
    return [reader.episode(i)["action"].tobytes() for i in range(reader.num_episodes)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_last_episode_can_be_taken_out(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its row was the first of a metadata table, or its task was its own."""
    monkeypatch.setattr("contracts.files.dataset.EPISODES_PER_META_FILE", 2)
    once, twice = tmp_path / "once", tmp_path / "twice"
    with DatasetWriter.create(once, FPS, FEATURES, "so101") as writer:
        for seed in range(count - 1):
            writer.add_episode(**episode(seed))
        writer.add_episode(**episode(7, 5))
    with DatasetWriter.create(twice, FPS, FEATURES, "so101") as writer:
        for seed in range(count):
            writer.add_episode(**episode(seed))
        assert writer.drop_last() == count - 1
        reader = DatasetReader(twice)
        assert reader.num_episodes == count - 1
        assert content(reader) == content(DatasetReader(once))[:-1]
        writer.add_episode(**episode(7, 5))
    reader = DatasetReader(twice)
    assert content(reader) == content(DatasetReader(once))
    assert reader.num_frames == DatasetReader(once).num_frames
    for key, stats in DatasetReader(once).stats.items():
        assert np.allclose(stats["mean"], reader.stats[key]["mean"]), key
    assert files_of(once) == files_of(twice)
    with DatasetWriter.open(twice) as writer:
        assert writer.removed == 0
        assert writer.num_episodes == count


def test_an_empty_data_set_has_no_last_episode(tmp_path: Path) -> None:
    with (
        DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer,
        pytest.raises(DatasetError, match="no episode to drop"),
    ):
        writer.drop_last()


def test_killed_while_taking_one_out_it_is_there_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dataset_info.commit

    def die(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer:
        for seed in range(2):
            writer.add_episode(**episode(seed))
        monkeypatch.setattr(dataset_info, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            writer.drop_last()
    monkeypatch.undo()
    assert len(content(DatasetReader(tmp_path))) == 1
    with DatasetWriter.open(tmp_path) as writer:
        assert writer.removed == 5  # steps, extra, two videos, depth
        assert writer.add_episode(**episode(4)) == 1
    assert content(DatasetReader(tmp_path))[1] == episode(4)["columns"]["action"].tobytes()
