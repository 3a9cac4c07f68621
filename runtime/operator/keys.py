"""The keys, as people who record with LeRobot know them, and what a terminal sends for each.

Pure: bytes in, names out. The terminal itself is `runtime.operator.terminal`.
"""

from __future__ import annotations

from runtime.operator.commands import Command
from runtime.operator.floor import Flag

ESCAPE_S = 0.05
"""An arrow is sent as Esc and two more characters; alone for so long, Esc is Esc. Over a slow line they may
come in two pieces, and a stop too many is better than one too few."""

_SEQUENCES = {
    "\x1b[C": "right", "\x1bOC": "right",
    "\x1b[D": "left", "\x1bOD": "left",
    "\x1b[A": "up", "\x1bOA": "up",
    "\x1b[B": "down", "\x1bOB": "down",
}  # fmt: skip

HELP = (
    "→ end   ← record again   Esc stop   space pause/go on   s success   f failure   "
    "n scene is set   t take over/hand back"
)
JOG_HELP = "1-9 choose a joint, ↑/↓ move it"


def split(text: str, *, complete: bool) -> tuple[list[str], str]:
    """Names of the keys in `text`, and what may be the beginning of one. `complete`: nothing follows."""
    names: list[str] = []
    while text:
        if text[0] != "\x1b":
            names.append("space" if text[0] == " " else text[0])
            text = text[1:]
            continue
        sequence = next((s for s in _SEQUENCES if text.startswith(s)), "")
        if sequence:
            names.append(_SEQUENCES[sequence])
            text = text[len(sequence) :]
            continue
        if not complete and any(s.startswith(text) for s in _SEQUENCES):
            return names, text
        length = _other_sequence(text)
        if length == 1:
            names.append("escape")
        text = text[length:]
    return names, ""


def _other_sequence(text: str) -> int:
    """Length of a key that means nothing here (F5, Delete, a mouse report), 1 for a bare Esc."""
    if len(text) < 2 or text[1] not in "[O":
        return 1
    for index, char in enumerate(text[2:], 2):
        if "@" <= char <= "~":
            return index + 1
    return len(text)


def command_for(key: str, flags: Flag) -> Command | None:
    """What a key asks for now."""
    simple = {
        "escape": Command.STOP,
        "left": Command.RERECORD,
        "s": Command.SUCCESS,
        "f": Command.FAILURE,
        "n": Command.RESET_DONE,
        "right": Command.END,
        "space": Command.RESUME if Flag.PAUSED in flags else Command.PAUSE,
    }
    key = key.lower()
    if key == "t":
        held = flags & (Flag.TAKEN_OVER | Flag.MATCHING)
        return Command.HAND_BACK if held else Command.TAKE_OVER
    return simple.get(key)
