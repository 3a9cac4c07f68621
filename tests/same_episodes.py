"""Whether two evaluations of the same scenes are the same, whoever ran them and on however many machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from contracts.files.dataset_format import depth_keys, video_keys
from contracts.files.dataset_reader import DatasetReader

# Of a truth row and of an episode's record: what is of the run and not of the episode.
OF_THE_RUN = {"session_id"}
TIMED = {"started_at_unix_s", "session_id"}


def truth_of_episodes(path: Path) -> list[dict[str, Any]]:
    """The rows without what is of the run."""
    rows = map(json.loads, path.read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in OF_THE_RUN} for row in rows]


def require_same_episodes(left: Path, right: Path) -> int:
    """Two data sets hold the same episodes in the same order, bit by bit, no two of them alike; how many."""
    one, other = DatasetReader(left), DatasetReader(right)
    assert one.num_episodes == other.num_episodes
    assert one.features == other.features and one.tasks == other.tasks
    for episode in range(one.num_episodes):
        columns, others = one.episode(episode), other.episode(episode)
        assert columns.keys() == others.keys()
        for key, array in columns.items():
            assert array.tobytes() == others[key].tobytes(), (episode, key)
        for key in video_keys(one.features):
            assert np.array_equal(one.frames(episode, key), other.frames(episode, key))
        for key in depth_keys(one.features):
            assert np.array_equal(one.depth(episode, key), other.depth(episode, key))
        for part in ("start", "end"):
            told = [reader.meta(episode)["extra"][part] for reader in (one, other)]
            ours, theirs = ({k: v for k, v in t.items() if k not in TIMED} for t in told)
            if part == "end":
                ours.pop("timings"), theirs.pop("timings")
            assert ours == theirs
    # Or the comparison above would say little.
    actions = {one.episode(e)["action"].tobytes() for e in range(one.num_episodes)}
    assert len(actions) == one.num_episodes
    return one.num_episodes
