"""A program that ends before a given step of its own on the disk, as if it were killed there."""

from __future__ import annotations

import subprocess
import sys

KILLED = 9
"""How it exits then."""
_COUNTING = f"""
import os, sys
left = int(sys.argv.pop())
def counted(real):
    def call(*words, **given):
        global left
        left -= 1
        if left < 0:
            os._exit({KILLED})
        return real(*words, **given)
    return call
def count():
    os.replace, os.fsync, os.unlink = counted(os.replace), counted(os.fsync), counted(os.unlink)
"""


def run_killed(program: str, *words: object, left: int) -> int:
    """Runs `program` with `words` as its arguments; it says `count()` where its steps begin. Each is an
    `os.replace`, `os.fsync` or `os.unlink`, and `left` of them are carried out. Returns `KILLED`, or 0 where
    there are no more than that; any other end fails the test."""
    command = [sys.executable, "-c", _COUNTING + program, *map(str, words), str(left)]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode in (0, KILLED), done.stderr
    return done.returncode
