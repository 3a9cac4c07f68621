"""The spool: finished episodes on the robot's disk until the trainer acknowledged them.

Owns the folder and its file names. One process writes here (the link). Nothing is deleted before `drop`;
when the folder is full new episodes are refused and counted by the caller, never old ones thrown away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import EntracteError, WireError
from contracts.files import atomic
from contracts.files.episode_log import PART_SUFFIX, EpisodeLogWriter, LogFile, describe

SUFFIX = ".elog"
_NAME = re.compile(r"(?P<session>[A-Za-z0-9-]{1,64})_(?P<seq>\d{8})\.elog")


class SpoolFull(EntracteError):
    """The spool has reached its cap; the trainer must catch up or `link.spool_max_mib` grow."""


@dataclass(frozen=True)
class Spooled:
    """One finished episode that waits."""

    session_id: str
    episode_seq: int
    log: LogFile


class Spool:
    """Episodes of one robot, oldest first."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        atomic.make_directory(folder)
        self._waiting: dict[tuple[str, int], Spooled] = {}
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
            match = _NAME.fullmatch(path.name)
            if match:
                key = (match["session"], int(match["seq"]))
                self._waiting[key] = Spooled(*key, describe(path))

    @property
    def waiting(self) -> list[Spooled]:
        """Finished and not acknowledged, oldest first."""
        return list(self._waiting.values())

    def begin(self, session_id: str, episode_seq: int) -> EpisodeLogWriter:
        """A log for one episode. Raises `SpoolFull`."""
        used = sum(item.log.nbytes for item in self._waiting.values())
        if used >= self.max_bytes:
            raise SpoolFull(
                "spool is full",
                expected=f"< {self.max_bytes >> 20} MiB",
                found=f"{used >> 20} MiB in {len(self._waiting)} episodes",
                remedy="start the trainer, or raise link.spool_max_mib",
            )
        name = f"{session_id}_{episode_seq:08d}{SUFFIX}"
        if not _NAME.fullmatch(name):
            raise EntracteError("session id", expected="letters, digits, '-'", found=session_id)
        return EpisodeLogWriter(self.folder / name)

    def interrupted(self) -> list[tuple[EpisodeLogWriter, list[list[bytes]]]]:
        """Logs that a killed link left unfinished, oldest first, open to go on, each
        with its packets; what is no log is deleted. Call once, before `begin`."""
        found = []
        parts = self.folder.glob(f"*{SUFFIX}{PART_SUFFIX}")
        for part in sorted(parts, key=lambda p: (p.stat().st_mtime_ns, p.name)):
            try:
                found.append(
                    EpisodeLogWriter.resume(part.with_name(part.name[: -len(PART_SUFFIX)]))
                )
            except WireError:
                part.unlink()
        return found

    def finished(self, session_id: str, episode_seq: int, log: LogFile) -> Spooled:
        """Take in a log that `EpisodeLogWriter.finish` gave."""
        item = Spooled(session_id, episode_seq, log)
        self._waiting[session_id, episode_seq] = item
        return item

    def find(self, session_id: str, episode_seq: int) -> Spooled | None:
        return self._waiting.get((session_id, episode_seq))

    def drop(self, session_id: str, episode_seq: int) -> bool:
        """Delete an acknowledged episode; False if it isn't here (acknowledged twice)."""
        item = self._waiting.pop((session_id, episode_seq), None)
        if item is None:
            return False
        item.log.path.unlink(missing_ok=True)
        return True
