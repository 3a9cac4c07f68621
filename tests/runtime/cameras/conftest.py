"""The real capture process finds the sources of tests/plugin; `robots` is one folder up."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
PLUGIN = TESTS / "plugin"
sys.path[:0] = [str(TESTS / "runtime"), str(PLUGIN)]


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
