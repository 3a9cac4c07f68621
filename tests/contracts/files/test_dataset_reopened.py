"""Data sets that grow although another version began them, or another program changed them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_episodes import FEATURES, FPS, episode

from contracts.files import dataset_format
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import DatasetError
from contracts.files.dataset_reader import DatasetReader


def test_a_data_set_from_before_one_of_our_columns_grows(tmp_path, monkeypatch):
    """Its rows know no statistics of that column: null, once one came that does."""
    given = [episode(seed, 5) for seed in range(4)]
    for one in given:
        del one["columns"]["intervention"]
    with monkeypatch.context() as earlier:
        earlier.delitem(dataset_format._OWN, "intervention")
        with DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer:
            writer.add_episode(**given[0])
    for seed in (1, 2):
        with DatasetWriter.open(tmp_path) as writer:
            assert writer.add_episode(**given[seed]) == seed
    with DatasetWriter.open(tmp_path) as writer:
        assert writer.drop_last() == 2
        writer.add_episode(**given[3])
    reader = DatasetReader(tmp_path)
    for place, seed in enumerate((0, 1, 3)):
        assert np.array_equal(reader.episode(place)["action"], given[seed]["columns"]["action"])
    assert reader.stats["action"]["count"] == reader.num_frames == 15


def test_what_another_program_appended_is_not_overwritten(tmp_path):
    """As LeRobot does it, several episodes to a file, its rows in the next file of theirs."""
    with DatasetWriter.create(tmp_path, FPS, FEATURES, "so101") as writer:
        for seed in range(2):
            writer.add_episode(**episode(seed, 5))
    table = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").slice(1)
    at = table.column_names.index("episode_index")
    table = table.set_column(at, "episode_index", pa.array([2]))
    pq.write_table(table, tmp_path / "meta/episodes/chunk-000/file-001.parquet")
    head = json.loads((tmp_path / "meta/info.json").read_text())
    head |= {"total_episodes": 3, "total_frames": 15}
    (tmp_path / "meta/info.json").write_text(json.dumps(head))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert DatasetReader(tmp_path).num_episodes == 3
    with pytest.raises(DatasetError, match=r"changed by another program.*found 2 rows; read it"):
        DatasetWriter.open(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
