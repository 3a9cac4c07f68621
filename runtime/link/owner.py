"""Whose the episodes and reports in a spool are. Each end knows a robot by its id: under another than they
were recorded with, a trainer would put them aside, or answer nothing and hold up all that come after.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from contracts import wire
from contracts.errors import ConfigError, WireError, some_of
from contracts.files import atomic
from contracts.files.episode_log import PART_SUFFIX, EpisodeLogReader
from contracts.messages import ReleaseOutcome, SessionStart
from runtime.link import spool


def require_own(folder: Path, robot_id: str) -> None:
    """Before a start: raises `ConfigError` where something in the spool at `folder` waits that is another
    robot's. What can't be read is left for the link to judge."""
    others = {name for name in _robots(folder) if name != robot_id}
    if others:
        theirs = sorted(others)
        raise ConfigError(
            f"{folder} holds what a robot of another id has not delivered yet",
            expected=f"robot.id {robot_id}",
            found=some_of(theirs),
            remedy=f"start with robot.id={theirs[0]} until it is delivered (a keyed link: enroll it "
            "under that id again first), or move these files out of the spool",
        )


def _robots(folder: Path) -> set[str]:
    found = set()
    for pattern in (f"*{spool.SUFFIX}", f"*{spool.SUFFIX}{PART_SUFFIX}"):
        for path in folder.glob(pattern):
            with contextlib.suppress(WireError, OSError):
                first = next(EpisodeLogReader(path).packets(), None)
                if first is not None and isinstance(first.message, SessionStart):
                    found.add(first.message.robot_id)
    for path in (folder / "outcomes").glob(f"*{spool.OUTCOME_SUFFIX}"):
        with contextlib.suppress(atomic.FileError, WireError, OSError):
            data = atomic.read_bytes(path, wire.MAX_HEADER_BYTES)
            message = wire.unpack([data], oldest=wire.OLDEST_ON_DISK).message
            if isinstance(message, ReleaseOutcome):
                found.add(message.robot_id)
    return found
