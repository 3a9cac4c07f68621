"""The recorder process: takes episodes from the ring and writes them as a LeRobotDataset v3.0.

`python -m runtime.recorder --run-dir <dir>`. It takes the link's place in `robot-run record`. An episode
goes raw into a log beside the data set first, so that memory does not grow with its length.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path

from contracts import wire
from contracts.errors import EntracteError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import INFO_PATH
from contracts.files.episode_log import EpisodeLogWriter
from contracts.files.log_to_dataset import append, create_dataset, read_episode
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from runtime.config import Run
from runtime.ring import Ring

_PAUSE_S = 0.001


class Recorder:
    """One data set, one episode at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._root = Path(run.plan.output)
        self._session: list[bytes] = []
        self._log: EpisodeLogWriter | None = None
        self._writer: DatasetWriter | None = None
        if (self._root / INFO_PATH).exists():
            self._writer = DatasetWriter.open(self._root)
        self.kept = self.dropped = 0

    @property
    def recording(self) -> bool:
        return self._log is not None

    def take(self, parts: list[memoryview]) -> None:
        """One record of the ring, in order."""
        message = wire.unpack(parts).message
        if isinstance(message, SessionStart):
            self._session = [bytes(part) for part in parts]
            return
        if isinstance(message, EpisodeStart):
            if self._log is not None:
                self._log.abandon()
            path = Path(self._run.run_dir) / f"recording-{message.episode_seq:08d}.elog"
            self._log = EpisodeLogWriter(path)
            self._log.append(self._session)
        if self._log is None:
            return
        self._log.append(parts)
        if isinstance(message, EpisodeEnd):
            self._finish(message)

    def close(self) -> None:
        if self._log is not None:
            self._log.abandon()
        if self._writer is not None:
            self._writer.close()

    def _finish(self, end: EpisodeEnd) -> None:
        assert self._log is not None
        path = self._log.finish().path
        self._log = None
        try:
            wanted = end.reason not in ("aborted", "fault") and (
                self._run.plan.keep == "all" or end.operator_success is True
            )
            if not wanted or end.steps == 0:
                self.dropped += 1
                return
            episode = read_episode(path)
            if self._writer is None:
                self._writer = create_dataset(self._root, episode)
            append(self._writer, episode)
            self.kept += 1
        finally:
            path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="runtime.recorder", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run = Run.load(parser.parse_args().run_dir)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Ring.open(run.ring_path) as ring:
            recorder = Recorder(run)
            while True:
                parts = ring.pop()
                if parts is None:
                    if stop.is_set():
                        break
                    time.sleep(_PAUSE_S)
                    continue
                recorder.take(parts)
                del parts
                ring.release()
            recorder.close()
    except (EntracteError, OSError) as error:
        print(f"recorder: {error}", file=sys.stderr)
        return 1
    report = {"kept": recorder.kept, "dropped": recorder.dropped}
    (Path(run.run_dir) / "recorder.json").write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
