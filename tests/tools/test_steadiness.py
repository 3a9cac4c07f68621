"""A test of real time is tried again only where the machine stood still; no other failure is hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import sys
sys.path[:0] = [{tests!r}]
from steadiness import Steadiness

class Said(Steadiness):
    def longest_since(self, since_s):
        return {pause_s}

def pytest_configure(config):
    config.addinivalue_line("markers", "realtime: watches a clock")
    config.pluginmanager.register(Said())
"""
TESTS = """
import pathlib
import pytest

def attempt(name):
    with (pathlib.Path(__file__).parent / name).open("a") as file:
        file.write("x")
    return (pathlib.Path(__file__).parent / name).stat().st_size

@pytest.mark.realtime
def test_late():
    assert attempt("late") == 0

@pytest.mark.realtime
def test_late_once(tmp_path):
    assert attempt("once") > 1

def test_wrong():
    assert attempt("wrong") == 0
"""


@pytest.mark.parametrize(
    ("pause_s", "outcomes", "attempts"),
    [
        (0.2, {"late": "SKIPPED", "late_once": "PASSED", "wrong": "FAILED"}, (3, 2, 1)),
        (0.01, {"late": "FAILED", "late_once": "FAILED", "wrong": "FAILED"}, (1, 1, 1)),
    ],
)
def test_who_is_tried_again(
    tmp_path: Path, pause_s: float, outcomes: dict[str, str], attempts: tuple[int, ...]
) -> None:
    tests = str(Path(__file__).resolve().parent.parent)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(tests=tests, pause_s=pause_s))
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-rs",
        "-p",
        "no:cacheprovider",
        "test_some.py",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    for name, outcome in outcomes.items():
        assert f"test_some.py::test_{name} {outcome}" in done.stdout, done.stdout
    sizes = tuple((tmp_path / name).stat().st_size for name in ("late", "once", "wrong"))
    assert sizes == attempts
    assert ("the machine stood still (200, 200, 200 ms" in done.stdout) == (pause_s > 0.1)
