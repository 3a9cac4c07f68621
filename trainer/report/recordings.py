"""Recorded episodes as the report reads them: from the data set, else from the episode's log."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from contracts.files.dataset_format import CAMERA_PREFIX, video_keys
from contracts.files.dataset_reader import DatasetReader
from contracts.files.log_to_dataset import LoggedEpisode, read_episode
from contracts.reward import RewardSignal

COLUMNS = (
    "action",
    "time.tick",
    "time.lateness",
    "gate.verdict",
    "reward.process",
    "reward.completion",
    "reward.contrastive",
)


class DatasetRecording:
    """Episode `index` of a data set; `signals` (the trainer's scores) replace the robot's own."""

    def __init__(
        self, reader: DatasetReader, index: int, signals: tuple[RewardSignal, ...] = ()
    ) -> None:
        self._reader, self._index, self._signals = reader, index, signals

    @property
    def cameras(self) -> list[str]:
        return [key.removeprefix(CAMERA_PREFIX) for key in video_keys(self._reader.features)]

    def columns(self) -> dict[str, np.ndarray]:
        return self._columns

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        held = [name for name in COLUMNS if name in self._reader.features]
        return with_signals(self._reader.episode(self._index, held), self._signals)

    def frames(self, camera: str, indices: list[int]) -> np.ndarray:
        return self._reader.frames(self._index, CAMERA_PREFIX + camera, indices)


class LogRecording:
    """An episode log; read again for every use, since logs with their pictures are large."""

    def __init__(self, path: Path, signals: tuple[RewardSignal, ...] = ()) -> None:
        self._path, self._signals = path, signals

    def episode(self) -> LoggedEpisode:
        return read_episode(self._path)

    @property
    def cameras(self) -> list[str]:
        return self.episode().pictures.cameras

    def columns(self) -> dict[str, np.ndarray]:
        return self._columns

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        columns = self.episode().columns
        return with_signals({name: columns[name] for name in COLUMNS}, self._signals)

    def frames(self, camera: str, indices: list[int]) -> np.ndarray:
        return self.episode().pictures.frames(camera, indices)


def with_signals(
    columns: dict[str, np.ndarray], signals: tuple[RewardSignal, ...]
) -> dict[str, np.ndarray]:
    """The columns with `reward.*` as these signals say; NaN at steps that they don't score."""
    if not signals:
        return columns
    length = len(columns["action"])
    for name in ("process", "completion", "contrastive"):
        values = np.full(length, np.nan, np.float32)
        for signal in signals:
            if 0 <= signal.step < length:
                values[signal.step] = getattr(signal, name)
        columns[f"reward.{name}"] = values
    return columns
