"""Commands as parts: verb, thing, where to; read from plain English and said again in other words.

Owns the word lists. A command that does not fit gives None: nothing is derived from what isn't understood.
"""

from __future__ import annotations

import re

import msgspec

# Verb -> ways to say it; "{x}" is the thing. The first is the plain one.
WAYS: dict[str, tuple[str, ...]] = {
    "put": ("put {x}", "place {x}", "set {x}"),
    "move": ("move {x}", "bring {x}"),
    "take": ("take {x}", "remove {x}"),
    "lift": ("pick up {x}", "lift {x}", "grab {x}", "pick {x}", "pick {x} up", "lift {x} up", "lift up {x}"),
    "put down": ("put down {x}", "put {x} down"),
    "open": ("open {x}",),
    "close": ("close {x}", "shut {x}"),
    "turn on": ("turn on {x}", "switch on {x}", "turn {x} on"),
    "turn off": ("turn off {x}", "switch off {x}", "turn {x} off"),
    "push": ("push {x}", "slide {x}"),
    "pull": ("pull {x}", "drag {x}"),
    "turn": ("turn {x}", "rotate {x}"),
    "flip": ("flip {x}", "turn over {x}"),
    "stack": ("stack {x}",),
    "press": ("press {x}", "push down {x}"),
    "fold": ("fold {x}",),
    "unfold": ("unfold {x}",),
    "wipe": ("wipe {x}", "clean {x}"),
    "cut": ("cut {x}",),
    "pour": ("pour {x}",),
}  # fmt: skip
OPPOSITES = {
    "put": "take", "take": "put", "open": "close", "close": "open", "turn on": "turn off",
    "turn off": "turn on", "push": "pull", "pull": "push", "lift": "put down", "put down": "lift",
    "fold": "unfold", "unfold": "fold",
}  # fmt: skip
# Relation -> ways to say it, longest first where one begins another.
RELATIONS: dict[str, tuple[str, ...]] = {
    "on": ("on top of", "onto", "on"),
    "in": ("inside of", "inside", "into", "in"),
    "next to": ("next to", "beside", "near"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "behind": ("behind",),
    "in front of": ("in front of",),
    "under": ("underneath", "under", "below"),
    "to": ("to",),
    "off": ("off of", "off"),
    "out of": ("out of",),
    "from": ("from",),
    "with": ("with",),
}
TARGETS = ("on", "in", "next to", "left of", "right of", "behind", "in front of", "under", "to")
OTHER_RELATION = {
    "on": "next to", "in": "next to", "left of": "right of", "right of": "left of", "behind": "in front of",
    "in front of": "behind", "under": "on", "next to": "on",
}  # fmt: skip
DIRECTIONS = {
    "left": "right", "right": "left", "up": "down", "down": "up", "front": "back", "back": "front",
    "forward": "backward", "backward": "forward", "clockwise": "counterclockwise", "upright": "upside down",
    "counterclockwise": "clockwise",
}  # fmt: skip
COLOURS = (
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "white", "black", "grey", "brown",
)  # fmt: skip
# One name stands for all that mean the same.
SAME = {
    "mug": "cup", "dish": "plate", "pan": "pot", "saucepan": "pot", "towel": "cloth", "rag": "cloth",
    "cube": "block", "gray": "grey", "trash can": "bin", "garbage can": "bin", "tap": "faucet",
}  # fmt: skip
OPENS = (
    "drawer",
    "door",
    "lid",
    "tray",
    "box",
    "fridge",
    "microwave",
    "oven",
    "cabinet",
    "laptop",
    "safe",
)
ARTICLES = re.compile(r"\b(the|a|an|some|all|your)\b")


class Command(msgspec.Struct, frozen=True):
    """A parsed command. `relation` and `place` are "" where it says no place; `rest`: what follows that is
    neither ("which is in sink", "to front"); `direction`: a word of it that has an opposite."""

    verb: str
    thing: str
    relation: str = ""
    place: str = ""
    rest: str = ""
    direction: str = ""


def parse(text: str) -> Command | None:
    """The command of an English imperative, None where it fits no verb."""
    words = re.sub(r"[^a-z0-9' -]", " ", text.lower())
    words = re.sub(r"\s+", " ", ARTICLES.sub(" ", words)).strip()
    if " and " in words or " then " in words:
        return None
    for verb, tail in _readings(words):
        clause, _, rest = tail.partition(" which ")
        thing, relation, place = _place(clause)
        if verb == "put":
            thing = thing.removesuffix(" down")
        direction = next((w for w in f"{thing} {relation}".split() if w in DIRECTIONS), "")
        if relation == "to" and place in DIRECTIONS:
            thing, relation, place = f"{thing} to {place}", "", ""
        if thing and not (verb == "put" and not relation):
            return Command(verb, thing, relation, place, f"which {rest}" if rest else "", direction)
    return None


def _readings(words: str) -> list[tuple[str, str]]:
    """(verb, what follows) for every way of saying that fits, the longest way first."""
    fits = []
    for verb, ways in WAYS.items():
        for way in ways:
            before, after = (part.strip() for part in way.split("{x}"))
            if after:
                match = re.fullmatch(rf"{before} (.+?) {after}\b ?(.*)", words)
                tail = " ".join(match.groups()).strip() if match else ""
            else:
                tail = words.removeprefix(f"{before} ") if words.startswith(f"{before} ") else ""
            if tail:
                fits.append((len(way), verb, tail))
    return [(verb, tail) for _, verb, tail in sorted(fits, key=lambda fit: -fit[0])]


def _place(clause: str) -> tuple[str, str, str]:
    """(thing, relation, place): split at the last preposition that says where to, else at the first other."""
    found = []
    for relation, ways in RELATIONS.items():
        for way in ways:
            plain = _plain(way)
            for match in re.finditer(rf" {plain} ", clause):
                found.append((match.start(), match.start() + len(plain) + 2, relation))
    # "to left of" holds "to" and "left of": the longest reading counts.
    whole = [f for f in found if not any(_within(f, other) for other in found)]
    if not whole:
        return clause, "", ""
    targets = [f for f in whole if f[2] in TARGETS]
    start, end, relation = targets[-1] if targets else whole[0]
    thing = clause[:start].strip()
    for way in RELATIONS["from"] + RELATIONS["out of"] + RELATIONS["off"]:
        thing = thing.split(f" {way} ")[0] if targets else thing
    return thing, relation, clause[end:].strip()


def _within(one: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    return other[0] <= one[0] and one[1] <= other[1] and one[:2] != other[:2]


def say(command: Command, way: int = 0, relation_way: int = -1) -> str:
    """The command in words; `way` and `relation_way` choose among the ways to say its verb and relation
    (by default the plain ones)."""
    thing = command.thing if command.thing.split(" ")[0].isdigit() else f"the {command.thing}"
    ways = WAYS[command.verb]
    text = ways[way % len(ways)].format(x=thing)
    if command.relation:
        said = RELATIONS[command.relation]
        text += f" {said[relation_way % len(said)]} the {command.place}"
    return f"{text} {command.rest}".strip()


def paraphrases(text: str) -> list[str]:
    """Other ways to say `text`, by rules that keep its meaning; [] where it isn't understood."""
    command = parse(text)
    if command is None:
        return []
    relations = len(RELATIONS.get(command.relation, ("",)))
    said = [
        say(command, way, relation)
        for way in range(len(WAYS[command.verb]))
        for relation in range(relations)
    ]
    polite = [f"please {say(command)}", f"{say(command)}, please"]
    plain = _plain(text)
    return [s for s in dict.fromkeys([*said, *polite]) if _plain(s) != plain]


def _plain(text: str) -> str:
    return " ".join(ARTICLES.sub(" ", text.lower()).split()).rstrip(".")


def same_thing(one: str, other: str) -> bool:
    """Whether two names may mean one thing: equal, synonyms, or one says less than the other."""
    a, b = (_canonical(name) for name in (one, other))
    colours_a, colours_b = a & set(COLOURS), b & set(COLOURS)
    if colours_a and colours_b and colours_a != colours_b:
        return False
    a, b = a - colours_a, b - colours_b
    return a <= b or b <= a


def _canonical(name: str) -> set[str]:
    for other, plain in SAME.items():
        name = re.sub(rf"\b{other}\b", plain, name)
    return set(name.split())
