"""What the monitors keep on disk: one line an episode, one line a label, and whether refinement is paused.

`monitors/` of the run folder. The daemon writes episodes and pauses; `robot-trainer audit` labels, and
`robot-trainer monitors resume` ends a pause, also while the daemon runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from contracts.errors import ConfigError, WireError
from contracts.files import atomic
from contracts.files.lock import locked
from trainer.interfaces import EpisodeKey
from trainer.receiver import check_key

FOLDER = "monitors"
MAX_LINES_BYTES = 256 * 1024 * 1024
Line = TypeVar("Line", bound=msgspec.Struct)


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was said of one episode of refinement. `verdict` and `score` (completion at the end, in [0, 1]):
    the reward's; `second` and `second_score`: the second opinion's; `operator`: a label that came with the
    episode; each None where it has none. `base`: the base policy acted. `chance`: of being labelled, as it
    was before the draw; `chosen`: a person is to label it; `random`: it would have been whatever its
    scores."""

    key: str
    arrival: int
    model_id: str
    verdict: bool | None
    score: float | None
    second: bool | None
    second_score: float | None
    operator: bool | None
    base: bool
    chance: float
    chosen: bool
    random: bool
    unix_s: float


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person's word on an episode. `success` None: nobody could tell. The last one of a key counts."""

    key: str
    success: bool | None
    by: str
    unix_s: float


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why refinement stands. `arrival`: of the last episode before it."""

    monitor: str
    why: str
    arrival: int
    unix_s: float


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`since`: evidence counts from the episode after that arrival, the last before the pause that ended: a
    person let go on that, having seen it. What came during the pause counts.
    `note`: what that person said."""

    pause: Pause | None = None
    since: int = -1
    note: str = ""


class Records:
    """The folder `monitors` of a run. Safe for several processes."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._rows, self._labels = self.folder / "episodes.jsonl", self.folder / "labels.jsonl"
        self._standing, self._lock = self.folder / "state.json", self.folder / "lock"

    def rows(self) -> list[Row]:
        """In the order in which they were judged; a line that a kill cut off is left out."""
        return _read(self._rows, Row)

    def add_row(self, row: Row) -> None:
        _add(self._rows, row)

    def labels(self) -> dict[str, Label]:
        """By episode, in the order in which each was first labelled."""
        found: dict[str, Label] = {}
        for label in _read(self._labels, Label):
            first = found.get(label.key, label)
            found[label.key] = msgspec.structs.replace(label, unix_s=first.unix_s)
        return found

    def add_label(self, label: Label) -> None:
        """Durable when this returns."""
        atomic.make_directory(self.folder)
        with locked(self._lock):
            _add(self._labels, label, synced=True)

    def standing(self) -> Standing:
        """Raises `ConfigError` where the file is damaged: going on unasked would be worse than standing."""
        if not self._standing.exists():
            return Standing()
        data = atomic.read_bytes(self._standing, atomic.MAX_JSON_BYTES)
        try:
            return msgspec.json.decode(data, type=Standing)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self._standing} is damaged",
                found=str(error),
                remedy="delete it to go on as if refinement had never been paused",
            ) from error

    def pause(self, pause: Pause) -> None:
        """Durable when this returns."""
        atomic.make_directory(self.folder)
        with locked(self._lock):
            self._write(msgspec.structs.replace(self.standing(), pause=pause))

    def resume(self, note: str) -> Pause:
        """What ended. Raises `ConfigError` where nothing is paused."""
        with locked(self._lock) if self.folder.is_dir() else contextlib.nullcontext():
            pause = self.standing().pause
            if pause is None:
                raise ConfigError(
                    f"refinement in {self.folder.parent} is not paused",
                    remedy="robot-trainer monitors status says how it stands",
                )
            self._write(Standing(None, pause.arrival, note))
            return pause

    def came_after(self, arrival: int) -> int:
        """Episodes that were judged after that one."""
        return len({row.key for row in self.rows() if row.arrival > arrival})

    def stamp(self) -> tuple[object, ...]:
        """Changes when labels or the pause do."""
        return tuple(_stamp(path) for path in (self._labels, self._standing))

    def _write(self, standing: Standing) -> None:
        atomic.write_bytes(self._standing, msgspec.json.encode(standing))


def truth_of(row: Row, labels: Mapping[str, Label]) -> bool | None:
    """What a person said of it, if anything: with the episode, else in the audit."""
    label = labels.get(row.key)
    return label.success if label is not None else row.operator


def waiting(rows: Iterable[Row], labels: Mapping[str, Label]) -> list[Row]:
    """Chosen for a person and not labelled yet, each episode once."""
    chosen = {row.key: row for row in rows if row.chosen}
    return [row for key, row in chosen.items() if key not in labels]


def key_of(text: str) -> EpisodeKey:
    """The key that prints so. Raises `ConfigError`."""
    parts = text.rsplit("__", 2)
    with contextlib.suppress(ValueError, WireError):
        if len(parts) == 3:
            return check_key(parts[0], parts[1], int(parts[2]))
    raise ConfigError(
        "name of an episode",
        expected="ROBOT__SESSION__NUMBER",
        found=text[:80],
        remedy="robot-trainer audit list names those that wait",
    )


def _add(path: Path, line: msgspec.Struct, *, synced: bool = False) -> None:
    atomic.make_directory(path.parent)
    data = msgspec.json.encode(line)
    if path.exists() and not _ends_whole(path):
        data = b"\n" + data  # a kill cut the line before it
    atomic.append_line(path, data, synced=synced)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _read(path: Path, kind: type[Line]) -> list[Line]:
    if not path.exists():
        return []
    found = []
    for line in atomic.read_bytes(path, MAX_LINES_BYTES).splitlines():
        with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
            found.append(msgspec.json.decode(line, type=kind))
    return found


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
