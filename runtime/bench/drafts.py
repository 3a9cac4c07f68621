"""What each kind of task puts on the table: draws things under the split's rule. Data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.bench import split as split_rule
from runtime.bench.catalog import (
    BUTTONS,
    CONTAINER_COLOURS,
    DRAWERS,
    FLAT_SHAPES,
    IN_KINDS,
    LEVERS,
    LIDS,
    OBJECT_COLOURS,
    OBJECT_SHAPES,
    ON_KINDS,
    TRAYS,
    ContainerType,
    FixtureType,
    ObjectType,
    make_container,
    make_object,
)
from runtime.bench.scene import Draft, Goal

Rng = np.random.Generator
DraftMaker = Callable[[Rng, str], Draft]

_STACK_BASES = ("cube", "block", "cylinder")


class _Shelf:
    """Draws things that have not been drawn yet and that the split allows beside them."""

    def __init__(self, rng: Rng, split: str) -> None:
        self.rng = rng
        self.split = split
        self.names: tuple[str, ...] = ()

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def scale(self) -> float:
        return float(self.rng.uniform(0.94, 1.08))

    def object(
        self, shapes: Sequence[str] = OBJECT_SHAPES, colour: str | None = None
    ) -> ObjectType:
        for _ in range(200):
            thing = make_object(
                colour or self.pick(OBJECT_COLOURS), self.pick(shapes), self.scale()
            )
            if self._take(thing.name):
                return thing
        raise RuntimeError("no object is left to draw")

    def container(self, kinds: Sequence[str]) -> ContainerType:
        for _ in range(200):
            place = make_container(self.pick(CONTAINER_COLOURS), self.pick(kinds), self.scale())
            if self._take(place.name):
                return place
        raise RuntimeError("no container is left to draw")

    def named_object(self, name: str) -> ObjectType:
        colour, shape = name.split(" ")
        self.names += (name,)
        return make_object(colour, shape, self.scale())

    def named_container(self, name: str) -> ContainerType:
        colour, kind = name.split(" ")
        self.names += (name,)
        return make_container(colour, kind, self.scale())

    def extra_objects(
        self, low: int, high: int, shapes: Sequence[str] = OBJECT_SHAPES
    ) -> tuple[ObjectType, ...]:
        count = int(self.rng.integers(low, high + 1))
        return tuple(self.object(shapes) for _ in range(count))

    def extra_containers(
        self, low: int, high: int, kinds: Sequence[str]
    ) -> tuple[ContainerType, ...]:
        count = int(self.rng.integers(low, high + 1))
        return tuple(self.container(kinds) for _ in range(count))

    def _take(self, name: str) -> bool:
        names = (*self.names, name)
        if name in self.names:
            return False
        if self.split == split_rule.TRAIN and split_rule.shows_reserved_pair(names):
            return False
        self.names = names
        return True


def put_on(rng: Rng, split: str) -> Draft:
    """An object and a plate or board to put it on, and at least one more of each to confuse."""
    shelf = _Shelf(rng, split)
    if split == split_rule.EVAL:
        pair = split_rule.RESERVED_PAIRS[int(rng.integers(len(split_rule.RESERVED_PAIRS)))]
        thing, place = shelf.named_object(pair[0]), shelf.named_container(pair[1])
    else:
        thing, place = shelf.object(FLAT_SHAPES), shelf.container(ON_KINDS)
    return Draft(
        Goal("on", thing.name, place.name),
        objects=(thing, shelf.object(FLAT_SHAPES)),
        containers=(place, shelf.container(ON_KINDS)),
        extra_objects=shelf.extra_objects(0, 1, FLAT_SHAPES),
        spread_m=0.02,
    )


def put_in(rng: Rng, split: str) -> Draft:
    shelf = _Shelf(rng, split)
    thing, place = shelf.object(), shelf.container(IN_KINDS)
    return Draft(
        Goal("in", thing.name, place.name),
        objects=(thing, shelf.object()),
        containers=(place, shelf.container((*IN_KINDS, *ON_KINDS))),
        extra_objects=shelf.extra_objects(0, 1),
        spread_m=0.02,
    )


def take_off(rng: Rng, split: str) -> Draft:
    """An object on a plate or board, to be put down on the table."""
    shelf = _Shelf(rng, split)
    thing, place = shelf.object(FLAT_SHAPES), shelf.container(ON_KINDS)
    return Draft(
        Goal("off", thing.name, place.name),
        objects=(thing,),
        containers=(place,),
        extra_objects=shelf.extra_objects(1, 2, FLAT_SHAPES),
        extra_containers=shelf.extra_containers(0, 1, ON_KINDS),
        resting=((thing.name, place.name),),
    )


def push_to(rng: Rng, split: str) -> Draft:
    shelf = _Shelf(rng, split)
    thing, place = shelf.object(("cube", "block", "cylinder")), shelf.container(ON_KINDS + IN_KINDS)
    return Draft(
        Goal("push", thing.name, place.name),
        objects=(thing,),
        containers=(place,),
        extra_objects=shelf.extra_objects(1, 1),
        extra_containers=shelf.extra_containers(0, 1, ON_KINDS),
        spread_m=0.06,
    )


def lift(rng: Rng, split: str) -> Draft:
    shelf = _Shelf(rng, split)
    thing = shelf.object()
    return Draft(
        Goal("lift", thing.name),
        objects=(thing,),
        extra_objects=shelf.extra_objects(1, 3),
        extra_containers=shelf.extra_containers(0, 1, ON_KINDS + IN_KINDS),
    )


def stack(rng: Rng, split: str) -> Draft:
    shelf = _Shelf(rng, split)
    thing, base = shelf.object(("cube", "cylinder")), shelf.object(_STACK_BASES)
    return Draft(
        Goal("stack", thing.name, base.name),
        objects=(thing, base),
        extra_objects=shelf.extra_objects(1, 1, FLAT_SHAPES),
        extra_containers=shelf.extra_containers(0, 1, ON_KINDS),
        spread_m=0.03,
    )


def drawer(kind: str) -> DraftMaker:
    """open, close or store, with the drawer instances that the split allows."""

    def make(rng: Rng, split: str) -> Draft:
        shelf = _Shelf(rng, split)
        reserved = [d for d in DRAWERS if d.id == split_rule.RESERVED_DRAWER]
        allowed = [d for d in DRAWERS if d.id != split_rule.RESERVED_DRAWER]
        options = reserved if split == split_rule.EVAL else allowed
        fixture = options[int(rng.integers(len(options)))]
        name = "drawer" if split == split_rule.EVAL else fixture.name
        start = float(rng.uniform(0.82, 1.0) if kind == "close" else rng.uniform(0.0, 0.05))
        if kind != "store":
            return Draft(
                Goal(kind, name),
                fixture=fixture,
                fixture_start=start,
                extra_objects=shelf.extra_objects(0, 2),
            )
        thing = shelf.object(("cube", "block"))  # a standing cylinder would not pass under the top
        return Draft(
            Goal(kind, thing.name, name),
            objects=(thing,),
            fixture=fixture,
            fixture_start=start,
            extra_objects=shelf.extra_objects(0, 1),
        )

    return make


def jointed(kind: str, fixtures: tuple[FixtureType, ...], start: tuple[float, float]) -> DraftMaker:
    """A tray, lid, button or lever, its joint starting somewhere in `start`."""

    def make(rng: Rng, split: str) -> Draft:
        shelf = _Shelf(rng, split)
        fixture = fixtures[int(rng.integers(len(fixtures)))]
        # Half the time without its adjective, so that "the drawer" is no stranger than "the lid".
        name = fixture.name if rng.random() < 0.5 else fixture.kind
        return Draft(
            Goal(kind, name),
            fixture=fixture,
            fixture_start=float(rng.uniform(*start)),
            extra_objects=shelf.extra_objects(0, 2),
        )

    return make


open_tray = jointed("open", TRAYS, (0.0, 0.05))
close_tray = jointed("close", TRAYS, (0.85, 1.0))
open_lid = jointed("open", LIDS, (0.0, 0.02))
close_lid = jointed("close", LIDS, (0.75, 0.90))
press_button = jointed("press", BUTTONS, (0.0, 0.0))
turn_left = jointed("turn_left", LEVERS, (0.85, 1.0))
turn_right = jointed("turn_right", LEVERS, (0.0, 0.15))
