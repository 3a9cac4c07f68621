"""Prompt texts of the large reward models, each a text file here or in a folder of the user's own.

Owns reading and filling them; which pictures stand where, and what an answer means, is each signal's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from contracts.errors import ConfigError

TASK = "<INSERT TASK HERE>"
ANSWERS = "answers.yaml"
SHIPPED = Path(__file__).resolve().parent
_PICTURES = re.compile(r"<(INITIAL|CURRENT|ONE|TWO|VIDEO)>\n?")


@dataclass(frozen=True)
class PromptText:
    """One prompt. `text` has the task's place in it, and may have the pictures' (`<INITIAL>`, `<CURRENT>`,
    `<ONE>`, `<TWO>`, `<VIDEO>`); `answer`: how the answer begins; `choices`: what may follow, from the least
    to the most."""

    name: str
    text: str
    answer: str
    choices: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Changes with any letter of it."""
        whole = "\x00".join((self.name, self.text, self.answer, *self.choices))
        return hashlib.sha256(whole.encode()).hexdigest()

    def fill(self, instruction: str) -> str:
        """The text for a task, the pictures' places still in it."""
        return self.text.replace(TASK, instruction)

    def parts(self, instruction: str, pictures: tuple[str, ...], text_first: bool) -> list[str]:
        """What stands in the message, in order: texts, and of each picture its name in pointed brackets.
        A text that gives the pictures no place has them all before it, or after it with `text_first`.
        Raises `ConfigError` where it places others than `pictures`."""
        pieces = _PICTURES.split(self.text)
        placed = pieces[1::2]
        if not placed:
            shown = [f"<{name}>" for name in pictures]
            text = self.fill(instruction)
            return [text, *shown] if text_first else [*shown, text]
        if sorted(placed) != sorted(pictures):
            raise ConfigError(
                f"pictures in the prompt '{self.name}'", expected=list(pictures), found=placed
            )
        # The instruction goes in after the cut: one that reads "<CURRENT>" is a text, not a picture.
        filled = [
            f"<{piece}>" if i % 2 else piece.replace(TASK, instruction)
            for i, piece in enumerate(pieces)
        ]
        return [piece for piece in filled if piece]


def load_prompt(name: str, folder: Path | None = None) -> PromptText:
    """The prompt `name`: from `folder` where it has one, else ours; its answer likewise.

    Raises `ConfigError` for a prompt that is in neither, has no place for the task or no two choices.
    """
    places = [place for place in (folder, SHIPPED) if place is not None]
    files = [place / f"{name}.txt" for place in places if (place / f"{name}.txt").is_file()]
    if not files:
        raise ConfigError(
            f"prompt '{name}'", expected=f"a file {name}.txt in {places[0]}", found="none"
        )
    # The last line's end is the file's, not the prompt's.
    text = files[0].read_text(encoding="utf-8").removesuffix("\n")
    if text.count(TASK) != 1:
        raise ConfigError(f"{files[0]}", expected=f"{TASK} once", found=text.count(TASK))
    answer, choices = _answer(name, places)
    return PromptText(name, text, answer, choices)


def _answer(name: str, places: list[Path]) -> tuple[str, tuple[str, ...]]:
    for place in places:
        path = place / ANSWERS
        known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        found = known.get(name) if isinstance(known, dict) else None
        if found is None:
            continue
        choices = found.get("choices") if isinstance(found, dict) else None
        texts = [c for c in choices or [] if isinstance(c, str)]
        good = len(texts) == len(choices or []) == len(set(texts)) >= 2
        if not good or not isinstance(found.get("answer"), str):
            raise ConfigError(
                f"{path}: answer of '{name}'",
                expected="{answer: text, choices: [two or more different texts, in quotes]}",
                found=found,
            )
        return found["answer"], tuple(texts)
    raise ConfigError(
        f"answer of the prompt '{name}'", expected=f"an entry in {ANSWERS}", found="none"
    )
