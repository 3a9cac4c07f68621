"""The black box: the last ten seconds of the loop at full rate, in shared memory, and its dump to a file.

Control writes a row a tick into memory that outlives it; after a fault, a trip or an emergency stop another
process copies it to disk. A row that was being written when control died is left out. docs/safety.md has the
columns.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import EntracteError
from runtime.arms import ArmState
from runtime.system import shared

SECONDS = 10.0
SECTIONS = ("wait", "observe", "infer", "gate", "reward", "record", "board")
"""Of a tick, in order."""
FORMAT = "entracte-blackbox-1"
_MAGIC = 0x454E_5452_424C_4B31  # "ENTRBLK1"
_ABOUT, _REASON, _HEADER = 64, 24 << 10, 32 << 10
_MAGIC_WORD, _ROWS_WORD, _COLUMNS_WORD, _COUNT_WORD, _JSON_WORD, _REASON_WORD = range(6)
SCALARS = (
    "tick_s",
    "lateness_s",
    "mode",
    "bits",
    "episode",
    "step",
    "chunk",
    "chunk_index",
    "action_episode",
    "action_version",
    "observed_s",
    "policy_version",
    "reward_version",
    "state_s",
    "state_age_s",
    "frame_age_s",
)
PER_JOINT = ("state", "requested", "command", "velocity", "target")
_AT = {name: index + 1 for index, name in enumerate(SCALARS)}


def columns(
    joints: Sequence[str], cameras: Sequence[str], sections: Sequence[str]
) -> tuple[str, ...]:
    """Names in order: the row's number (0: empty or half written), scalars, joints, cameras, sections."""
    return (
        "number",
        *SCALARS,
        *(f"{kind}.{joint}" for kind in PER_JOINT for joint in joints),
        *(f"captured_s.{camera}" for camera in cameras),
        *(f"section_s.{section}" for section in sections),
    )


class BlackBox:
    """Control's end. `begin` a tick, tell it what is known, `commit`; nothing allocates much or waits."""

    def __init__(
        self,
        path: Path,
        rate_hz: float,
        joints: Sequence[str],
        cameras: Sequence[str],
        sections: Sequence[str],
        about: Mapping[str, Any],
    ) -> None:
        """`about`: JSON that the dump repeats (versions, limits, names)."""
        names = columns(joints, cameras, sections)
        count = max(2, math.ceil(SECONDS * rate_hz) + 1)
        text = json.dumps({**about, "columns": names, "joints": list(joints)}).encode()
        if len(text) > _REASON - _ABOUT:
            raise EntracteError("the black box's header is too long", found=len(text))
        self._map = shared.create(path, _HEADER + count * len(names) * 8)
        self._words = np.frombuffer(self._map, np.int64, _ABOUT // 8)
        self._words[_ROWS_WORD : _JSON_WORD + 1] = (count, len(names), 0, len(text))
        self._map[_ABOUT : _ABOUT + len(text)] = text
        self._rows = np.frombuffer(self._map, np.float64, count * len(names), _HEADER)
        self._rows = self._rows.reshape(count, len(names))
        self._row = np.full(len(names), math.nan)
        self._joints, self._cameras = len(joints), tuple(cameras)
        self._captured = len(SCALARS) + 1 + len(PER_JOINT) * len(joints)
        self._sections = self._captured + len(cameras)
        self._section = {name: self._sections + k for k, name in enumerate(sections)}
        self._committed, self._reason = True, ""
        self.judgement = False
        """Whether this tick's command is noted."""
        self._words[_MAGIC_WORD] = _MAGIC

    def begin(self, at_s: float, lateness_s: float) -> None:
        """A tick begins; timings of sections stay until they are measured again."""
        self._row[: self._sections] = math.nan
        self._row[1], self._row[2] = at_s, lateness_s
        self._committed = self.judgement = False

    def saw(
        self, joints: ArmState, state_age_s: float, frame_age_s: float, captured_s: Sequence[float]
    ) -> None:
        """`captured_s` by camera, in the order of the spec; NaN where there is no picture."""
        row, n = self._row, self._joints
        row[_AT["state_s"]] = joints.at_s
        row[_AT["state_age_s"]], row[_AT["frame_age_s"]] = state_age_s, frame_age_s
        first = len(SCALARS) + 1
        row[first : first + n] = joints.positions
        if joints.velocities is not None:
            row[first + 3 * n : first + 4 * n] = joints.velocities
        if joints.targets is not None:
            row[first + 4 * n : first + 5 * n] = joints.targets
        row[self._captured : self._sections] = captured_s

    def judged(
        self, mode: int, bits: int, requested: Sequence[float] | None, command: Sequence[float]
    ) -> None:
        self.judgement = True
        row, n, first = self._row, self._joints, len(SCALARS) + 1
        row[_AT["mode"]], row[_AT["bits"]] = mode, bits
        # One of another arity is told by its bit; it has no place here.
        if requested is not None and len(requested) == n:
            row[first + n : first + 2 * n] = requested
        if len(command) == n:
            row[first + 2 * n : first + 3 * n] = command

    def put(self, **scalars: float) -> None:
        """Any of `SCALARS`."""
        for name, value in scalars.items():
            self._row[_AT[name]] = value

    def took(self, section: str, seconds: float) -> None:
        self._row[self._section[section]] = seconds

    def commit(self) -> None:
        """The row as it is now is the tick's; a second time in a tick it takes the first one's place."""
        count = int(self._words[_COUNT_WORD])
        number = count if self._committed and count else count + 1
        slot = self._rows[(number - 1) % len(self._rows)]
        if not self._committed:
            slot[0] = 0.0
        slot[1:] = self._row[1:]
        slot[0] = number
        self._words[_COUNT_WORD] = number
        self._committed = True

    def say(self, reason: str) -> None:
        """Why the gate holds or is latched; written when it changes."""
        if reason != self._reason:
            self._reason = reason
            text = reason.encode()[: _HEADER - _REASON]
            self._words[_REASON_WORD] = 0
            self._map[_REASON : _REASON + len(text)] = text
            self._words[_REASON_WORD] = len(text)


@dataclass(frozen=True)
class Dump:
    """`about`: the header, with cause and times of the stop. `rows` float64[n, columns], oldest first.
    `after` float64[k, 1 + 2 joints]: time, positions and targets as the dumping process read them after it
    had taken the arm (none otherwise)."""

    about: dict[str, Any]
    rows: np.ndarray
    after: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return np.array(self.rows[:, list(self.about["columns"]).index(name)])

    def joint_columns(self, kind: str) -> np.ndarray:
        """float64[n, joints] of one of `PER_JOINT`."""
        names = list(self.about["columns"])
        first = names.index(f"{kind}.{self.about['joints'][0]}")
        return np.array(self.rows[:, first : first + len(self.about["joints"])])


def look(path: Path) -> Dump:
    """What the box holds now, whether its writer lives or not. Raises `EntracteError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EntracteError(f"no black box at {path}", found=error.strerror) from error
    words = np.frombuffer(data[:_ABOUT].ljust(_ABOUT, b"\0"), np.int64)
    if words[_MAGIC_WORD] != _MAGIC:
        raise EntracteError(f"{path} is no black box")
    count, width, newest = (int(words[i]) for i in (_ROWS_WORD, _COLUMNS_WORD, _COUNT_WORD))
    about = json.loads(data[_ABOUT : _ABOUT + int(words[_JSON_WORD])])
    about["reason"] = data[_REASON : _REASON + int(words[_REASON_WORD])].decode(errors="replace")
    rows = np.frombuffer(data, np.float64, count * width, _HEADER).reshape(count, width)
    # Newer than the counter may be one row, whose writer died before it counted it.
    whole = rows[(rows[:, 0] > newest - count) & (rows[:, 0] <= newest + 1) & (rows[:, 0] > 0)]
    joints = len(about["joints"])
    return Dump(about, whole[np.argsort(whole[:, 0])], np.zeros((0, 1 + 2 * joints)))


def write(dump: Dump, folder: Path) -> Path:
    """A new file in `folder`, synced. Raises `OSError` (a full disk)."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    cause = str(dump.about.get("cause", "unknown")).replace(" ", "-")
    about = {**dump.about, "written_at_unix_s": time.time()}
    data = save(
        {"rows": np.ascontiguousarray(dump.rows), "after": np.ascontiguousarray(dump.after)},
        {"format": FORMAT, "about": json.dumps(about)},
    )
    numbers = (path.name.split("-")[0] for path in folder.glob("*.safetensors"))
    number = 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)
    path = folder / f"{number:03d}-{cause}.safetensors"
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def read(path: Path) -> Dump:
    """A dump from disk. Raises `EntracteError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise EntracteError(
                    f"{path} is no black box", expected=FORMAT, found=metadata.get("format")
                )
            tensors = [file.get_tensor(name) for name in ("rows", "after")]
    except (OSError, SafetensorError) as error:
        raise EntracteError(f"can't read the black box {path}", found=str(error)) from error
    return Dump(json.loads(metadata["about"]), *tensors)
