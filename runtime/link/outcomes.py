"""What became of releases, kept on the robot's disk until the trainer has it. Owns the folder of reports.

Told one at a time and in order, again after a while without an answer; no sockets, sending is injected.
The trainer knows a report by its `report_id` and records it once, however often it is told.
"""

from __future__ import annotations

from pathlib import Path

from contracts import wire
from contracts.errors import WireError
from contracts.files import atomic
from contracts.messages import OutcomeStored, ReleaseOutcome
from runtime.link.episodes import Send
from runtime.link.spool import OUTCOME_SUFFIX

AGAIN_S = 1.0
MAX_WAITING = 1000
"""Reports kept at most: more have come only where offers are made up; the newest are then not kept."""


class OutcomeSpool:
    """The reports of one robot, oldest first. One process writes here (the link)."""

    def __init__(self, folder: Path, send: Send) -> None:
        self._folder, self._send = folder, send
        self._waiting: list[tuple[Path, ReleaseOutcome]] = []
        self._told_s = -AGAIN_S
        self.lost = 0
        atomic.make_directory(folder)
        for path in sorted(folder.iterdir()):
            if path.suffix != OUTCOME_SUFFIX:
                # Of a link that was killed while it wrote: control's packet is still in the ring.
                path.unlink(missing_ok=True)
                continue
            try:
                data = atomic.read_bytes(path, wire.MAX_HEADER_BYTES)
                message = wire.unpack([data], oldest=wire.OLDEST_ON_DISK).message
            except (atomic.FileError, WireError):
                message = None
            if isinstance(message, ReleaseOutcome):
                self._waiting.append((path, message))

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, outcome: ReleaseOutcome) -> None:
        """Durable when this returns. A report that waits already is taken once. Raises `WireError` on one
        without a name: it could never be acknowledged."""
        if not outcome.report_id:
            raise WireError("release outcome without a report_id", found=outcome.outcome)
        if any(known.report_id == outcome.report_id for _, known in self._waiting):
            return
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            return
        number = int(self._waiting[-1][0].stem) + 1 if self._waiting else 0
        path = self._folder / f"{number:08d}{OUTCOME_SUFFIX}"
        atomic.write_bytes(path, bytes(wire.pack(outcome)[0]))
        self._waiting.append((path, outcome))

    def tick(self, now_s: float) -> None:
        """Tell the oldest, if it wasn't a moment ago."""
        if self._waiting and now_s - self._told_s >= AGAIN_S:
            self._told_s = now_s
            self._send(wire.pack(self._waiting[0][1]))

    def on_stored(self, stored: OutcomeStored, now_s: float) -> None:
        """Forget what the trainer has, and go on with the next."""
        if self._waiting and self._waiting[0][1].report_id == stored.report_id:
            self._waiting.pop(0)[0].unlink(missing_ok=True)
            self._told_s = now_s - AGAIN_S
            self.tick(now_s)
