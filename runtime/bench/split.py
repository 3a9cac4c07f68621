"""The train/eval split of the bench, as data. What stands here never occurs in split="train".

Reserved are *combinations*: every word and every single object, container, colour and handle type
also occurs in training, in other company. A training scene never shows both members of a
reserved pair, never shows the reserved drawer and never says a reserved instruction.
"""

from __future__ import annotations

TRAIN = "train"
EVAL = "eval"
SPLITS = (TRAIN, EVAL)

EVALUATION_TASKS = ("open_drawer", "put_on")

# (object, container) as they are named in instructions.
RESERVED_PAIRS = (
    ("red cube", "blue plate"),
    ("green cylinder", "white plate"),
    ("yellow block", "green board"),
    ("blue cube", "orange board"),
)

# Its geometry, handle and colours are in catalog.DRAWERS under this id.
RESERVED_DRAWER = "drawer_navy_bar"

# Spoken in eval scenes only; in training a drawer always has an adjective.
RESERVED_INSTRUCTIONS = (
    "open the drawer",
    "pull the drawer open",
    "slide the drawer out",
    *(f"put the {thing} on the {container}" for thing, container in RESERVED_PAIRS),
)


def is_reserved_pair(first: str, second: str) -> bool:
    """Whether these two named things, in either order, are a reserved pair."""
    return (first, second) in RESERVED_PAIRS or (second, first) in RESERVED_PAIRS


def shows_reserved_pair(names: tuple[str, ...]) -> bool:
    """Whether a scene with these things shows both members of a reserved pair."""
    return any(a in names and b in names for a, b in RESERVED_PAIRS)


def check_split(split: str) -> str:
    """Return `split`, or raise ValueError naming the splits there are."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {SPLITS}")
    return split
