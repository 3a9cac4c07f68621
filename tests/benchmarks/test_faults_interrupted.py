"""A fault benchmark that is asked to end does so, and counts its own end for no fault's and no false trip."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contracts.errors import EntracteError
from runtime.board import Board

PATIENCE_S = 120.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="probes read Linux's clock")
def test_who_ends_it_finds_nothing_counted_and_nothing_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.app", "faults", "--times", "0", "--clean", "30m"]
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shared: Path | None = None
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while (shared := _under_way(tmp_path / "robot" / "config.json")) is None:
            assert process.poll() is None and time.monotonic() < give_up_s
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        words, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode != 0
    assert not list(tmp_path.glob("*.jsonl")), words
    assert not shared.exists()


def _under_way(config: Path) -> Path | None:
    """The folder of its shared memory, once the loop ticks."""
    with contextlib.suppress(OSError, json.JSONDecodeError, EntracteError):
        shared = Path(json.loads(config.read_text())["shm_dir"])
        with Board.open(shared / "board") as board:
            return shared if board.tick > 0 else None
    return None
