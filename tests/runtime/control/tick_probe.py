"""The control process with a probe in it: what its ticks open, send, log and allocate, as JSON.

Started by the supervisor in control's place (test_tick.py); everything else is runtime.control.process's.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

from runtime.control import process as control
from runtime.control.episode import Episode

WATCHED = ("open", "os.", "socket.", "subprocess.", "shutil.", "ctypes.dlopen", "import", "mmap.")
"""Audit events (PEP 578) of disk, network, processes and imports."""


class Probe:
    """Counts while the main thread is inside a tick."""

    def __init__(self) -> None:
        self.inside = False
        self.main = threading.get_ident()
        self.events: dict[str, int] = {}
        self.written: list[str] = []
        self.kept: list[int] = []
        self.peaks: list[int] = []
        self.collections = 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside and threading.get_ident() == self.main and event.startswith(WATCHED):
            what = f"{event} {str(arguments[0])[:60] if arguments else ''}"
            self.events[what] = self.events.get(what, 0) + 1

    def watch(self) -> None:
        tick, probe = Episode.tick, self

        def watched(episode: Episode) -> None:
            tracemalloc.clear_traces()
            before, _ = tracemalloc.get_traced_memory()
            collected = sum(one["collections"] for one in gc.get_stats())
            probe.inside = True
            try:
                tick(episode)
            finally:
                probe.inside = False
            after, peak = tracemalloc.get_traced_memory()
            probe.kept.append(after - before)
            probe.peaks.append(peak - before)
            probe.collections += sum(one["collections"] for one in gc.get_stats()) - collected

        Episode.tick = watched  # type: ignore[method-assign]
        logging.getLogger().addHandler(_Handler(self))
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Stream(getattr(sys, name), self))
        sys.addaudithook(self.audit)
        tracemalloc.start()

    def leave(self, path: Path) -> None:
        found = {key: value for key, value in vars(self).items() if key not in ("inside", "main")}
        path.write_text(json.dumps(found))


class _Handler(logging.Handler):
    def __init__(self, probe: Probe) -> None:
        super().__init__(0)
        self._probe = probe

    def emit(self, record: logging.LogRecord) -> None:
        if self._probe.inside:
            self._probe.written.append(record.getMessage())


class _Stream:
    def __init__(self, stream: Any, probe: Probe) -> None:
        self._stream, self._probe = stream, probe

    def write(self, text: str) -> Any:
        if self._probe.inside:
            self._probe.written.append(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> int:
    probe = Probe()
    probe.watch()
    try:
        return control.main()
    finally:
        probe.leave(Path(sys.argv[sys.argv.index("--run-dir") + 1]) / "probe.json")


if __name__ == "__main__":
    sys.exit(main())
