"""Nothing that moves or stops the arm paces, times or judges by the wall clock, which may be stepped."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path
    for pattern in (
        "runtime/gate*.py",
        "runtime/arms/*.py",
        "runtime/cameras/*.py",
        *(
            f"runtime/{name}.py"
            for name in (
                "blackbox", "blackbox_dump", "board", "clock", "control", "ending", "episode", "frames",
                "inference", "pacing", "robot", "scheduler", "senses", "standstill", "watchdog",
            )
        ),
    )
    for path in ROOT.glob(pattern)
)  # fmt: skip
WALL = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "localtime"),
    ("time", "strftime"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("time", "CLOCK_REALTIME"),
}
TOLD_TO_PEOPLE = "_unix_s"
"""Ending of fields that only say when something was, to people and to the trainer."""


def wall_clock_reads(source: str) -> list[int]:
    """Lines that read the wall clock for anything but a field whose name says so."""
    tree = ast.parse(source)
    allowed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and (node.arg or "").endswith(TOLD_TO_PEOPLE):
            allowed |= {id(inner) for inner in ast.walk(node.value)}
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                told = isinstance(key, ast.Constant) and str(key.value).endswith(TOLD_TO_PEOPLE)
                allowed |= {id(inner) for inner in ast.walk(value)} if told else set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in allowed:
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            if (name, node.attr) in WALL:
                found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found += [node.lineno for alias in node.names if alias.name in ("time", "datetime")]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_wall_clock_is_read(path: Path) -> None:
    assert wall_clock_reads(path.read_text()) == []


def test_the_check_finds_one() -> None:
    assert wall_clock_reads("import time\nx = time.time()\n") == [2]
    assert wall_clock_reads("from time import time\n") == [1]
    assert wall_clock_reads("import time\nf(at_unix_s=time.time())\n") == []
    assert len(MODULES) > 20
