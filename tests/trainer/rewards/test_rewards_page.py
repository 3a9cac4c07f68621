"""docs/rewards.md: every command on it is one that its program takes, its pictures and links are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from benchmarks.app import app as bench
from export.app import app as export
from trainer.reward_app import VERBS
from trainer.reward_app import app as reward

PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"
PROGRAMS = {"robot-reward": reward, "robot-export": export, "robot-bench": bench}


def _commands() -> list[str]:
    """Indented lines that begin with a program of ours, continued lines joined, comments and & dropped."""
    text = PAGE.read_text().replace("\\\n", " ")
    begin = tuple(f"    {program} " for program in PROGRAMS)
    lines = [line.strip() for line in text.splitlines() if line.startswith(begin)]
    return [line.split("  #")[0].removesuffix("&").strip() for line in lines]


@pytest.mark.parametrize("line", _commands())
def test_every_command_of_the_page_is_taken(line: str) -> None:
    program, verb, *words = shlex.split(line)
    group = typer.main.get_command(PROGRAMS[program])
    command = group.commands[verb]  # type: ignore[attr-defined]
    # Parses and checks; runs nothing.
    command.make_context(verb, words)


def test_the_page_leaves_out_no_verb_and_no_picture() -> None:
    text = PAGE.read_text()
    assert [verb for verb in VERBS if f"robot-reward {verb}" not in text] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert "pictures/reward-undo.png" in links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    assert (PAGE.parent / "pictures/reward-undo.png").stat().st_size < 150_000
