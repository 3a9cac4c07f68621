"""Every refusal names what was expected and found, and leaves the data set as it was."""

import numpy as np
import pytest
from sample_episodes import FEATURES, FPS, HEIGHT, WIDTH, episode

from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import DatasetError, Feature
from contracts.files.dataset_reader import DatasetReader


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    with DatasetWriter.create(root, FPS, FEATURES, "so101") as writer:
        writer.add_episode(**episode(0))
        yield writer


def broken(**changes):
    """An episode with parts replaced: "columns.action" or "task"; None deletes a key."""
    arguments = episode(1)
    for path, value in changes.items():
        part, _, key = path.partition("__")
        if not key:
            arguments[part] = value
        elif value is None:
            del arguments[part][key.replace("_", ".")]
        else:
            arguments[part][key.replace("_", ".")] = value
    return arguments


def with_value(value, dtype="float32"):
    array = np.zeros((9, 3), dtype)
    array[4, 1] = value
    return array


FRONT = "frames__observation_images_front"
GOOD = np.zeros((9, HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns__action": None}, r"missing \['action'\]"),
        ({"columns__speed": np.zeros(9)}, r"unknown \['speed'\]"),
        ({"columns__action": np.zeros((8, 3), np.float32)}, "length of column 'action'"),
        ({"columns__action": np.zeros((9, 4), np.float32)}, r"expected \(9, 3\), found \(9, 4\)"),
        ({"columns__action": np.zeros((9, 3))}, "expected float32, found float64"),
        (
            {"columns__action": with_value(np.nan)},
            r"finite values, found nan at step 4, entry \(1,\)",
        ),
        ({"columns__observation_state": with_value(np.inf)}, "found inf at step 4"),
        ({"columns__reward_process": np.full(9, np.inf, np.float32)}, "finite values or NaN"),
        ({"columns__intervention": np.zeros(9)}, "expected bool, found float64"),
        ({"columns": {}}, "missing"),
        ({"task": " "}, "instruction in words"),
        ({"extra": {"x": float("nan")}}, "not JSON"),
        ({"extra": {"x": np.float32(1)}}, "not JSON"),
        ({"depth": None}, "depth of the episode"),
        ({FRONT: None}, "frames of the episode"),
        ({FRONT: GOOD[:8]}, r"expected 9 \(one per step\), found 8"),
        ({FRONT: np.concatenate([GOOD, GOOD])}, "found more"),
        ({FRONT: GOOD.astype(np.float32)}, "frame 0 of 'observation.images.front'"),
        ({FRONT: GOOD[:, :16]}, "expected uint8 of shape"),
        ({FRONT: [None] * 9}, "found NoneType"),
        ({"depth__observation_depth_front": GOOD[..., 0]}, "expected uint16"),
        ({"depth__observation_depth_front": GOOD[:3, ..., 0].astype(np.uint16)}, "found 3"),
    ],
)
def test_bad_episode_is_refused_and_leaves_no_trace(writer, changes, message):
    before = sorted(p for p in writer.root.rglob("*") if p.is_file())
    with pytest.raises(DatasetError, match=message):
        writer.add_episode(**broken(**changes))
    assert sorted(p for p in writer.root.rglob("*") if p.is_file()) == before
    assert DatasetReader(writer.root).num_episodes == writer.num_episodes


def test_empty_episode_is_refused(writer):
    arguments = episode(1)
    arguments["columns"] = {key: array[:0] for key, array in arguments["columns"].items()}
    with pytest.raises(DatasetError, match="empty episode"):
        writer.add_episode(**arguments)


def test_a_failing_iterator_leaves_no_trace(writer):
    def camera_dies():
        yield GOOD[0]
        raise RuntimeError("camera died")

    before = writer.num_episodes
    with pytest.raises(RuntimeError, match="camera died"):
        writer.add_episode(**broken(**{FRONT: camera_dies()}))
    assert writer.num_episodes == before == DatasetReader(writer.root).num_episodes
    assert writer.add_episode(**episode(1)) == before


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        ("a/b", Feature("float32", (1,)), "without '/'"),
        ("timestamp", Feature("float32", (1,)), "filled by the writer"),
        ("x", Feature("float16", (1,)), "dtype of feature 'x'"),
        ("x", Feature("float32", ()), "shape of feature 'x'"),
        ("x", Feature("float32", (0,)), "shape of feature 'x'"),
        ("x", Feature("float32", (2,), ("a",)), "1 names"),
        ("x", Feature("video", (31, 48, 3)), "even H and W"),
        ("x", Feature("video", (32, 48)), "even H and W"),
        ("x", Feature("depth16", (32, 48, 1)), "shape of feature 'x'"),
        ("policy_version", Feature("float32", (1,)), "Entracte's own"),
    ],
)
def test_bad_features_are_refused(tmp_path, name, feature, message):
    with pytest.raises(DatasetError, match=message):
        DatasetWriter.create(tmp_path, FPS, {name: feature}, "so101")


def test_bad_fps_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="fps"):
        DatasetWriter.create(tmp_path, 0, FEATURES, "so101")


def test_create_does_not_overwrite(writer, tmp_path):
    DatasetWriter.create(tmp_path, FPS, FEATURES, "so101").close()
    with pytest.raises(DatasetError, match="holds a data set"):
        DatasetWriter.create(tmp_path, FPS, FEATURES, "so101")


def test_only_one_writer_at_a_time(writer):
    with pytest.raises(DatasetError, match="written by another"):
        DatasetWriter.open(writer.root)


def test_closed_writer_refuses(tmp_path):
    writer = DatasetWriter.create(tmp_path, FPS, FEATURES, "so101")
    writer.close()
    with pytest.raises(DatasetError, match="closed"):
        writer.add_episode(**episode(0))


def test_reader_says_what_is_not_there(writer, tmp_path):
    with pytest.raises(DatasetError, match="no data set at"):
        DatasetReader(tmp_path)
    with pytest.raises(DatasetError, match="no data set at"):
        DatasetWriter.open(tmp_path)
    reader = DatasetReader(writer.root)
    with pytest.raises(DatasetError, match="no such episode"):
        reader.episode(99)
    with pytest.raises(DatasetError, match="no video feature 'front'"):
        reader.frames(0, "front")
    with pytest.raises(DatasetError, match="no such steps"):
        reader.frames(0, "observation.images.front", [9])
    with pytest.raises(DatasetError, match="no depth16 feature"):
        reader.depth(0, "observation.images.front")


@pytest.mark.parametrize(
    "victim",
    [
        "data/chunk-000/file-000.parquet",
        "videos/observation.images.front/chunk-000/file-000.mp4",
        "depth/observation.depth.front/chunk-000/file-000.depth",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/tasks.parquet",
        "meta/info.json",
        "meta/entracte/info.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_damaged_files_give_typed_errors(tmp_path, victim, damage):
    with DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer:
        writer.add_episode(**episode(0))
    path = tmp_path / victim
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\x00\xff" * (len(data) // 2))
    with pytest.raises(DatasetError):
        reader = DatasetReader(tmp_path)
        reader.episode(0)
        reader.frames(0, "observation.images.front")
        reader.depth(0, "observation.depth.front")
