"""Stored episodes out of a LeRobotDataset: for refining from recordings and after logs were dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.files.dataset_format import CAMERA_PREFIX
from contracts.files.dataset_reader import DatasetReader
from contracts.files.log_to_dataset import DEPTH_PREFIX
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from trainer.interfaces import EpisodeKey, StoredEpisode


class DatasetPictures:
    """`Pictures` of one episode of a data set."""

    def __init__(self, reader: DatasetReader, index: int) -> None:
        self._reader, self._index = reader, index

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self._reader.frames(self._index, CAMERA_PREFIX + camera, indices)

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self._reader.depth(self._index, DEPTH_PREFIX + camera, indices)


def stored_episodes(reader: DatasetReader) -> list[StoredEpisode]:
    """Every episode with the start and end that it was stored with, in the data set's order.

    Raises `EntracteError` for a data set without them (LeRobot's own: nobody knows who acted there).
    """
    return [stored_at(reader, index) for index in range(reader.num_episodes)]


def key_at(reader: DatasetReader, index: int) -> EpisodeKey:
    """Whose the episode at that place is. Raises `EntracteError` as `stored_episodes`."""
    return _key_of(_told(reader, index)[1])


def stored_at(reader: DatasetReader, index: int) -> StoredEpisode:
    """One of them alone."""
    session, start, end = _told(reader, index)
    return StoredEpisode(
        _key_of(start),
        int(reader.meta(index)["extra"].get("arrival", index)),
        session,
        start,
        end,
        reader.episode(index),
        DatasetPictures(reader, index),
    )


def _key_of(start: EpisodeStart) -> EpisodeKey:
    return EpisodeKey(start.robot_id, start.session_id, start.episode_seq)


def _told(reader: DatasetReader, index: int) -> tuple[SessionStart, EpisodeStart, EpisodeEnd]:
    extra: dict[str, Any] = reader.meta(index)["extra"]
    try:
        session = msgspec.convert(extra["session"], SessionStart)
        start = msgspec.convert(extra["start"], EpisodeStart)
        end = msgspec.convert(extra["end"], EpisodeEnd)
    except (KeyError, msgspec.ValidationError) as error:
        raise EntracteError(
            f"episode {index} of {reader.root} has no start and end",
            found=str(error),
            remedy="use a data set that robot-run or robot-trainer recorded",
        ) from error
    return session, start, end
