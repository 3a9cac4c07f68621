"""Bad releases of every kind against a robot's real fetcher, a few of each.

Ten thousand: `python -m tests.faults.bad_releases`.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.bad_release_kinds import KINDS
from tests.faults.bad_releases import run


def test_no_bad_release_is_taken_and_each_is_refused_for_its_own_reason(tmp_path: Path) -> None:
    found = run(tmp_path, count=400, seed=6)
    assert found.wrong == [] and found.accepted == 0
    assert len(found.counts) >= len(KINDS) - 2, "a draw of 400 may miss a kind or two"
    assert found.good == 4
