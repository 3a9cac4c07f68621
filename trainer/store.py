"""The episode store: logs, an index in order of arrival, scores, and a LeRobotDataset v3.0 per robot.

An episode is stored when its log has its final name; the index is a journal that is rebuilt from the
logs where a crash cut it. The data set is written behind (`write_dataset`), from the logs, exactly once:
its own episodes' keys say what it holds.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import EntracteError, WireError
from contracts.files import atomic
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import INFO_PATH
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import describe
from contracts.files.log_to_dataset import append, create_dataset, read_episode
from contracts.reward import RewardSignal
from trainer.interfaces import EpisodeKey, Pictures, ScoredEpisode, StoredEpisode
from trainer.receiver import check_key

MAX_INDEX_BYTES = 256 * 1024 * 1024
MAX_SCORES_BYTES = 64 << 20
MAX_ID = 80
"""Letters of a policy's id that the index keeps; ours have 16."""
_LOG_NAME = re.compile(r"(?P<robot>[^_]+)__(?P<session>[^_]+)__(?P<seq>\d{8})\.elog")
_arrival = attrgetter("arrival")


class UnreadableLog(EntracteError):
    """The disk does not give a log that lies there."""


class IndexEntry(msgspec.Struct, frozen=True):
    """One stored episode. `purpose` is empty when the log can't be read (`problem` says why). `policy_id`: of
    the package that acted, empty where that is not known (as in an index of before)."""

    arrival: int
    robot_id: str
    session_id: str
    episode_seq: int
    sha256: str
    purpose: str
    policy_version: int
    problem: str = ""
    policy_id: str = ""

    @property
    def key(self) -> EpisodeKey:
        return EpisodeKey(self.robot_id, self.session_id, self.episode_seq)


class Scores(msgspec.Struct, frozen=True):
    """What is kept of a scoring, so that a restart need not repeat it."""

    model_id: str
    success: bool | None
    failure: str
    scoring_s: float
    signals: list[dict[str, object]]


class Store:
    """Safe for several threads: one takes in, one works, one asks what is there."""

    def __init__(self, root: Path, used: int = -1) -> None:
        """`used`: the highest number that somebody has used; new ones are above it, whatever is left here."""
        self.root = root
        self._logs, self._scores = root / "logs", root / "scores"
        for folder in (self._logs, self._scores):
            atomic.make_directory(folder)
        self._index_path = root / "index.jsonl"
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._entries: dict[EpisodeKey, IndexEntry] = {}
        self._in_order: list[IndexEntry] = []
        self._used = used
        self.ended_at = -1
        """The highest number in the index as it was found."""
        self._kept_bytes = sum(_size(path) for path in self._logs.iterdir())
        """Of the logs folder: kept up rather than added up, once there are many. A log that somebody else
        removes counts until the next start."""
        self.unread: dict[Path, str] = {}
        """Logs that are not entered, since the disk does not give them or they are called otherwise, and why.
        They stay; a robot that was not told that its episode is stored offers it again."""
        self._last: tuple[EpisodeKey | None, Pictures | None] = (None, None)
        self._load_index()
        self._in_dataset: dict[str, set[EpisodeKey]] = {}

    @property
    def entries(self) -> list[IndexEntry]:
        """Every stored episode in the order of arrival."""
        with self._lock:
            return self._in_order.copy()

    def have(self, key: EpisodeKey) -> bool:
        with self._lock:
            return key in self._entries

    def sha256_of(self, key: EpisodeKey) -> str | None:
        """Hash of that episode's log as it was stored, None if it is not."""
        with self._lock:
            entry = self._entries.get(key)
        return entry.sha256 if entry else None

    @property
    def log_bytes(self) -> int:
        """What the logs take of the disk, those under way included; one being stored may count twice."""
        inbox = self.root / "inbox"
        under_way = sum(_size(path) for path in inbox.iterdir()) if inbox.exists() else 0
        with self._lock:
            return self._kept_bytes + under_way

    def entry(self, key: EpisodeKey) -> IndexEntry:
        with self._lock:
            return self._entries[key]

    def log_path(self, key: EpisodeKey) -> Path:
        return _log_path(self.root, key)

    def accept(self, key: EpisodeKey, partial: Path, sha256: str) -> None:
        """Take a whole, synced log: from here on it is stored and never taken again. Raises `OSError`; then
        it is not stored, and may be offered again."""
        described = _describe(partial, key)  # takes its time: before the lock
        with self._writing:
            if self.have(key):
                partial.unlink(missing_ok=True)
                return
            path = self.log_path(key)
            # A crash or a full disk may have left it there already.
            grown = _size(partial) - _size(path)
            with self._lock:
                os.replace(partial, path)
                self._kept_bytes += grown
            atomic.sync(self._logs)
            self._enter(key, sha256, *described)

    def since(self, arrival: int) -> list[IndexEntry]:
        """The stored episodes from that arrival on, in order."""
        with self._lock:
            return self._in_order[bisect_left(self._in_order, arrival, key=_arrival) :]

    def load(self, entry: IndexEntry) -> StoredEpisode:
        """The episode from its log, or from the data set where the log is gone. Its pictures are read again
        whenever they are asked for, but the last one's: an iteration's episodes wait for each other."""
        episode = self._read(entry.key, entry.arrival)
        return dataclasses.replace(episode, pictures=_Reread(self, entry.key))

    def pictures_of(self, key: EpisodeKey) -> Pictures:
        """Those of the last episode that was read are still there. Raises `WireError`: they can't be read."""
        last_key, pictures = self._last
        if last_key == key and pictures is not None:
            return pictures
        try:
            return self._read(key).pictures
        except (EntracteError, OSError) as error:
            what = f"the pictures of episode {key} can't be read again"
            raise WireError(what, found=str(error)) from error

    def _read(self, key: EpisodeKey, arrival: int = -1) -> StoredEpisode:
        self._last = None, None  # before the next one is there: they are large
        episode = stored_episode(self.root, key, arrival)
        self._last = key, episode.pictures
        return episode

    def save_scores(self, scored: ScoredEpisode) -> None:
        write_scores(self._scores, scored)

    def load_scores(
        self, key: EpisodeKey, model_id: str
    ) -> tuple[list[RewardSignal], Scores] | None:
        """Scores that this same model gave before, or None."""
        return read_scores(self._scores, key, model_id)

    def write_dataset(self, entry: IndexEntry, *, keep_log: bool) -> bool:
        """Add an episode to its robot's data set unless it is there; False if it was, or can't be. Raises
        `UnreadableLog` where the disk does not give its log, `OSError` where it takes no data set."""
        root = self.root / "dataset" / entry.robot_id
        path = self.log_path(entry.key)
        written = False
        if entry.key not in self._dataset_keys(root, entry.robot_id):
            try:
                if entry.problem or not path.exists():
                    return False
                logged = read_episode(path)
            except OSError as error:
                raise UnreadableLog(f"{path} can't be read", found=error.strerror) from error
            known = (root / INFO_PATH).exists()
            writer = DatasetWriter.open(root) if known else create_dataset(root, logged)
            try:
                with writer:
                    append(writer, logged, {"key": list(entry.key), "arrival": entry.arrival})
            except OSError:  # whether it counts is on disk only: what is there is looked at anew
                del self._in_dataset[entry.robot_id]
                raise
            except EntracteError:
                if not writer.num_episodes:  # the next one begins it, which may be of another kind
                    (root / INFO_PATH).unlink(missing_ok=True)
                raise
            self._in_dataset[entry.robot_id].add(entry.key)
            written = True
        if not keep_log:
            dropped = _size(path)
            path.unlink(missing_ok=True)
            with self._lock:
                self._kept_bytes -= dropped
        return written

    def _dataset_keys(self, root: Path, robot_id: str) -> set[EpisodeKey]:
        """Raises `DatasetError` for one that can't be read: taken for empty, it would be written again."""
        if robot_id not in self._in_dataset:
            keys: set[EpisodeKey] = set()
            if (root / INFO_PATH).exists():
                reader = DatasetReader(root)
                extras = (reader.meta(n)["extra"] for n in range(reader.num_episodes))
                keys |= {EpisodeKey(*extra["key"]) for extra in extras if "key" in extra}
            self._in_dataset[robot_id] = keys
        return self._in_dataset[robot_id]

    def _load_index(self) -> None:
        if self._index_path.exists():
            data = atomic.read_bytes(self._index_path, MAX_INDEX_BYTES)
            whole = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), 1):
                entry = _entry(line, f"line {number} of {self._index_path}")
                self._entries[entry.key] = entry
            self._in_order = sorted(self._entries.values(), key=_arrival)
            self.ended_at = self._in_order[-1].arrival if self._in_order else -1
            if len(whole) < len(data):
                atomic.write_bytes(self._index_path, whole)
        # Logs that a crash kept from being entered, in the order in which their robots numbered them: the
        # times of files are the wall clock's.
        known = {self.log_path(key).name for key in self._entries}
        found: list[EpisodeKey] = []
        for path in self._logs.glob("*.elog"):
            if path.name in known:
                continue
            if match := _LOG_NAME.fullmatch(path.name):
                found.append(EpisodeKey(match["robot"], match["session"], int(match["seq"])))
            else:
                self.unread[path] = "its name is not that of an episode's log"
        for key in sorted(found, key=lambda k: (k.robot_id, k.episode_seq)):
            path = self.log_path(key)
            try:
                described = describe(path).sha256, *_describe(path, key)
            except OSError as error:
                self.unread[path] = str(error)
                continue
            self._enter(key, *described)

    def _enter(
        self, key: EpisodeKey, sha256: str, purpose: str, version: int, problem: str, policy_id: str
    ) -> None:
        # Not how many there are: a line that somebody removed leaves a gap, and no number is given twice.
        last = self._in_order[-1].arrival if self._in_order else -1
        arrival = max(last, self._used) + 1
        entry = IndexEntry(arrival, *key, sha256, purpose, version, problem, policy_id)
        atomic.append_line(self._index_path, msgspec.json.encode(entry), synced=True)
        with self._lock:
            self._entries[key] = entry
            self._in_order.append(entry)


class _Reread:
    """`Pictures` of one episode of that store."""

    def __init__(self, store: Store, key: EpisodeKey) -> None:
        self._store, self._key = store, key

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self._store.pictures_of(self._key).frames(camera, indices)

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self._store.pictures_of(self._key).depth(camera, indices)


def write_scores(folder: Path, scored: ScoredEpisode) -> None:
    """`<key>.json` in that folder, whole or not at all. Raises `OSError`."""
    scores = Scores(
        scored.model_id,
        scored.success,
        scored.failure,
        scored.scoring_s,
        [_signal_json(signal) for signal in scored.signals],
    )
    atomic.write_bytes(folder / f"{scored.episode.key}.json", msgspec.json.encode(scores))


def read_scores(
    folder: Path, key: EpisodeKey, model_id: str
) -> tuple[list[RewardSignal], Scores] | None:
    """What that model said of the episode, from where `write_scores` put it, or None."""
    try:
        data = atomic.read_bytes(folder / f"{key}.json", MAX_SCORES_BYTES)
        scores = msgspec.json.decode(data, type=Scores)
        if scores.model_id != model_id:
            return None
        return [_signal(tree) for tree in scores.signals], scores
    except (atomic.FileError, msgspec.MsgspecError, ValueError):
        return None


def _entry(line: bytes, what: str) -> IndexEntry:
    """Raises `EntracteError`: left out in silence, an episode would be stored and scored again."""
    try:
        entry = msgspec.json.decode(line, type=IndexEntry)
        check_key(*entry.key)
    except (msgspec.MsgspecError, WireError, ValueError, RecursionError) as error:
        raise EntracteError(
            f"{what} is damaged",
            found=str(error),
            remedy="remove that line: the episode is entered again from its log",
        ) from error
    return entry


def stored_episode(root: Path, key: EpisodeKey, arrival: int = -1) -> StoredEpisode:
    """That episode of the store at `root`, which another process may write to. Raises `EntracteError`."""
    path = _log_path(root, key)
    if not path.exists():
        from trainer.dataset_episodes import key_at, stored_at

        dataset = root / "dataset" / key.robot_id
        if (dataset / INFO_PATH).exists():
            reader = DatasetReader(dataset)
            for place in range(reader.num_episodes):
                if key_at(reader, place) == key:
                    return stored_at(reader, place)
        raise EntracteError(f"episode {key} is neither in the logs nor in the data set")
    logged = read_episode(path)
    if len(logged.columns["observation.state"]) == 0:
        raise WireError(f"{path.name} holds no step")
    return StoredEpisode(
        key, arrival, logged.session, logged.start, logged.end, logged.columns, logged.pictures
    )


def load_dataset(root: Path) -> list[StoredEpisode]:
    """All episodes of a data set that the store (or `robot-run record`) wrote, pictures decoded late."""
    from trainer.dataset_episodes import stored_episodes

    return stored_episodes(DatasetReader(root))


def _log_path(root: Path, key: EpisodeKey) -> Path:
    return root / "logs" / f"{key}.elog"


def _describe(path: Path, key: EpisodeKey) -> tuple[str, int, str, str]:
    """(purpose, policy version, why it can't be used, policy id) of the log of that episode."""
    try:
        start = read_episode(path).start
    except EntracteError as error:
        return "", -1, str(error), ""
    if (start.robot_id, start.session_id, start.episode_seq) != key:
        return "", -1, "log is of another episode than was offered", ""
    return start.purpose, start.policy_version, "", start.policy_id[:MAX_ID]


def _size(path: Path) -> int:
    """0 where there is no such file (any more)."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _signal_json(signal: RewardSignal) -> dict[str, object]:
    tree: dict[str, object] = msgspec.to_builtins(signal)
    # JSON has no NaN: what the model did not say is left out.
    return {k: v for k, v in tree.items() if not (isinstance(v, float) and np.isnan(v))}


def _signal(tree: dict[str, object]) -> RewardSignal:
    return msgspec.convert(tree, RewardSignal)
