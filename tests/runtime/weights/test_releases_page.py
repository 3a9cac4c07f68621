"""docs/releases.md against the code: its tables of states, transitions and settings are the robot's."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.weights.probation import Probation
from runtime.weights.slot_state import TRANSITIONS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "releases.md").read_text()


def rows(pattern: str) -> list[tuple[str, ...]]:
    return re.findall(pattern, PAGE, flags=re.MULTILINE)


def test_the_transitions_on_the_page_are_those_of_the_slots() -> None:
    told = rows(r"^\| `(\w+)` \| `(\w+)` \| \S.* \|$")
    assert len(told) == len(set(told))
    assert set(told) == {(state, to) for state, follow in TRANSITIONS.items() for to in follow}


def test_every_state_is_explained_once() -> None:
    told = rows(r"^\| `(\w+)` \| (?!`)\S.* \|$")
    assert [state for state, *_ in ((name,) for name in told)] == list(TRANSITIONS)


def test_the_settings_on_the_page_are_the_defaults() -> None:
    told = dict(rows(r"^\| `probation\.(\w+)` \| ([\d.]+) \|"))
    rules = Probation()
    assert {name: float(value) for name, value in told.items()} == {
        name: float(getattr(rules, name)) for name in rules.__struct_fields__
    }
