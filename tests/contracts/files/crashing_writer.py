"""Child processes of the crash test: `endless ROOT` writes until killed, `steps ROOT` dies at each call.

`steps` forks a child for every k = 0, 1, ...: it creates ROOT/k with one finished episode, then dies at the
k-th fsync or rename of the second; the last child survives. Prints one JSON line per child.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sample_episodes import FEATURES, FPS, episode

from contracts.files import atomic
from contracts.files.dataset import DatasetWriter


def endless(root: Path) -> None:
    writer = DatasetWriter.open(root) if (root / "meta/info.json").exists() else None
    writer = writer or DatasetWriter.create(root, FPS, FEATURES, "so101")
    for seed in range(writer.num_episodes, 10_000):
        # The parent reads these lines: an episode it has seen announced must survive.
        print(writer.add_episode(**episode(seed, 4 + seed % 5)), flush=True)


def die_at(root: Path, call: int) -> None:
    writer = DatasetWriter.create(root, FPS, FEATURES, "so101")
    writer.add_episode(**episode(0))
    seen = 0
    real_sync, real_replace = atomic.sync, os.replace

    def count() -> None:
        nonlocal seen
        if seen == call:
            os._exit(9)
        seen += 1

    atomic.sync = lambda path: (count(), real_sync(path))
    os.replace = lambda a, b: (count(), real_replace(a, b))
    writer.add_episode(**episode(1))
    os._exit(0)


def steps(root: Path) -> None:
    call, code = 0, 9
    while code == 9:
        child = os.fork()
        if child == 0:
            die_at(root / str(call), call)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"call": call, "code": code}), flush=True)
        call += 1


if __name__ == "__main__":
    {"endless": endless, "steps": steps}[sys.argv[1]](Path(sys.argv[2]))
