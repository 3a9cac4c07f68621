"""The spool: finished episodes on the robot's disk until the trainer acknowledged them.

Owns the folder, its file names and its budget. One process writes here (the link). Nothing is deleted before
`drop`; without room for another episode a new one is refused, and never is an old one thrown away.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from contracts.errors import EntracteError, WireError
from contracts.files import atomic
from contracts.files.episode_log import PART_SUFFIX, EpisodeLogWriter, LogFile, describe

SUFFIX = ".elog"
OUTCOME_SUFFIX = ".wire"
"""Of the reports that wait in its folder `outcomes` (`runtime.link.outcomes`)."""
ASIDE = ".aside"
_NAME = re.compile(r"(?P<session>[A-Za-z0-9-]{1,64})_(?P<seq>\d{8})\.elog")


class SpoolFull(EntracteError):
    """There is no room for another episode; the trainer must catch up, or the budget grow."""


class Spooled:
    """One finished episode that waits."""

    def __init__(
        self,
        session_id: str,
        episode_seq: int,
        path: Path,
        nbytes: int,
        log: LogFile | None = None,
    ) -> None:
        self.session_id, self.episode_seq = session_id, episode_seq
        self.path, self.nbytes, self._log = path, nbytes, log

    def read(self) -> None:
        """Hash it, which takes long for a large one. Raises `OSError`."""
        self._log = self._log or describe(self.path)

    @property
    def log(self) -> LogFile:
        """What to say of it; read first where that was not done."""
        self.read()
        assert self._log is not None
        return self._log

    @property
    def is_read(self) -> bool:
        """Whether `log` is known already."""
        return self._log is not None

    def doubt(self) -> None:
        """The file could not be read: `log` must not be said of it before it can."""
        self._log = None


class Spool:
    """Episodes of one robot, oldest first: by their number, which only ever grows (the diary is beside the
    spool). Times of files are the wall clock's, and that may be set back."""

    def __init__(self, folder: Path, max_bytes: int, min_free_bytes: int = 0) -> None:
        self.folder, self.max_bytes, self._min_free_bytes = folder, max_bytes, min_free_bytes
        atomic.make_directory(folder)
        self._waiting: dict[tuple[str, int], Spooled] = {}
        self._largest = 0
        self.aside: dict[Path, str] = {}
        """What is kept here and not offered again before the next start, and why."""
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=_number):
            if match := _NAME.fullmatch(path.name):
                key = (match["session"], int(match["seq"]))
                try:
                    self._take_in(Spooled(*key, path, path.stat().st_size))
                except OSError as error:
                    self.aside[path] = f"it can't be read: {error}"

    @property
    def waiting(self) -> list[Spooled]:
        """Finished and not acknowledged, oldest first."""
        return list(self._waiting.values())

    def no_room(self) -> str:
        """Why another episode, as large as the largest so far, might not fit; "" if it does. In an empty
        spool there is room for one of any size."""
        used = sum(item.nbytes for item in self._waiting.values())
        if self._waiting and used + self._largest > self.max_bytes:
            return (
                f"{used >> 20} MiB of link.spool_max_mib {self.max_bytes >> 20} in "
                f"{len(self._waiting)} episodes"
            )
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < self._min_free_bytes + self._largest:
            least = f"link.spool_min_free_mib {self._min_free_bytes >> 20}"
            return f"{free >> 20} MiB of the disk are free, to stay free are {least}"
        return ""

    def begin(
        self, session_id: str, episode_seq: int, *, under_way: bool = False
    ) -> EpisodeLogWriter:
        """A log for one episode. Raises `SpoolFull`, but not for one that is `under_way`: control asked
        before the link knew that the episode before it took the last room."""
        if not under_way and (why := self.no_room()):
            raise SpoolFull(
                "the spool is full",
                found=why,
                remedy="start the trainer, or raise link.spool_max_mib, or free some disk",
            )
        name = f"{session_id}_{episode_seq:08d}{SUFFIX}"
        if not _NAME.fullmatch(name):
            raise EntracteError("session id", expected="letters, digits, '-'", found=session_id)
        return EpisodeLogWriter(self.folder / name)

    def interrupted(self) -> list[EpisodeLogWriter]:
        """Logs that a killed link left unfinished, oldest first, open to go on; what is no log is deleted,
        what can't be read stays for the next start. Call once, before `begin`."""
        found = []
        for part in sorted(self.folder.glob(f"*{SUFFIX}{PART_SUFFIX}"), key=_number):
            try:
                found.append(
                    EpisodeLogWriter.resume(part.with_name(part.name[: -len(PART_SUFFIX)]))
                )
            except WireError:
                part.unlink()
            except OSError as error:
                self.aside[part] = f"it can't be read: {error}"
        return found

    def finished(self, session_id: str, episode_seq: int, log: LogFile) -> Spooled:
        """Take in a log that `EpisodeLogWriter.finish` gave."""
        return self._take_in(Spooled(session_id, episode_seq, log.path, log.nbytes, log))

    def finish_unread(self, log: EpisodeLogWriter) -> None:
        """End and take in an interrupted log by what its file name says."""
        match = _NAME.fullmatch(log.path.name)
        finished = log.finish()
        if match:
            self.finished(match["session"], int(match["seq"]), finished)

    def find(self, session_id: str, episode_seq: int) -> Spooled | None:
        return self._waiting.get((session_id, episode_seq))

    def drop(self, session_id: str, episode_seq: int) -> bool:
        """Delete an acknowledged episode; False if it isn't here (acknowledged twice)."""
        item = self._waiting.pop((session_id, episode_seq), None)
        if item is None:
            return False
        item.path.unlink(missing_ok=True)
        return True

    def set_aside(self, session_id: str, episode_seq: int, why: str) -> None:
        """Keep an episode that the trainer does not take or the disk does not give, out of the way of the
        next."""
        item = self._waiting.pop((session_id, episode_seq), None)
        if item is None:
            return
        aside = item.path.with_name(item.path.name + ASIDE)
        try:
            os.replace(item.path, aside)
        except OSError:
            aside = item.path  # tried again after the next start
        self.aside[aside] = why

    def _take_in(self, item: Spooled) -> Spooled:
        self._waiting[item.session_id, item.episode_seq] = item
        self._largest = max(self._largest, item.nbytes)
        return item


def _number(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name.removesuffix(PART_SUFFIX))
    return int(match["seq"]) if match else 0, path.name
