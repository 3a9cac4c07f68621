"""Instructions to word ids: one small tokenizer shared by training and the robot. Owns no vocabulary."""

from __future__ import annotations

import re

import numpy as np

PAD_ID = 0
UNKNOWN_ID = 1
_WORD = re.compile(r"[a-z0-9]+")


def words(instruction: str) -> list[str]:
    """Lower-case words of an instruction, punctuation dropped."""
    return _WORD.findall(instruction.lower())


def build_vocabulary(instructions: list[str]) -> tuple[str, ...]:
    """Sorted distinct words; ids start at 2 (0 pads, 1 is unknown)."""
    return tuple(sorted({word for text in instructions for word in words(text)}))


def encode(instruction: str, vocabulary: tuple[str, ...], length: int) -> np.ndarray:
    """int64[length] word ids, padded with `PAD_ID`, cut at `length`."""
    ids = {word: index + 2 for index, word in enumerate(vocabulary)}
    tokens = [ids.get(word, UNKNOWN_ID) for word in words(instruction)][:length]
    out = np.full(length, PAD_ID, dtype=np.int64)
    out[: len(tokens)] = tokens
    return out


def unknown_words(instruction: str, vocabulary: tuple[str, ...]) -> list[str]:
    """Words the model has never seen: a reason to abstain."""
    known = set(vocabulary)
    return [word for word in words(instruction) if word not in known]
