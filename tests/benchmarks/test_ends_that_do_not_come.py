"""A benchmark whose other side hangs or dies says so instead of waiting for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import recording
from benchmarks.loop import answer
from contracts.errors import EntracteError
from runtime.ring import Ring


def _started(program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_loop_that_says_nothing_is_ended(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("its last words\n")
    hangs = _started("import time; print('{', end='', flush=True); time.sleep(60)")
    with pytest.raises(EntracteError, match=r"does not answer.*last words"):
        answer(hangs, 1.0, tmp_path / "log")
    assert hangs.wait(10) != 0
    talks = _started("print('x' * 200_000)")
    assert answer(talks, 30.0, tmp_path / "log") == "x" * 200_000 + "\n"
    assert answer(talks, 30.0, tmp_path / "log") == "", "it has ended"
    talks.wait(10)


def test_a_recorder_that_died_ends_the_benchmark(tmp_path: Path) -> None:
    ring, dead = Ring.create(tmp_path / "ring", 4096), _started("")
    dead.wait(10)
    while ring.try_push([bytes(1024)]):
        pass
    with pytest.raises(EntracteError, match="did not store"):
        recording._push(ring, [bytes(1024)], dead)  # type: ignore[arg-type]
    ring.close()
