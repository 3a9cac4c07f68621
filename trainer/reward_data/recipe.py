"""The recipe of a data set: sources with weights, what is derived of them and how, in one YAML file."""

from __future__ import annotations

import difflib
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from contracts.config import parse
from contracts.errors import ConfigError
from trainer.reward_data.settings import SourceSettings
from trainer.reward_data.sources import KINDS

T = TypeVar("T", bound=msgspec.Struct)
SPLITS = ("train", "val", "test")


class SplitShares(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of the source videos (of their groups)."""

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.train, self.val, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares must be at least 0 and sum to 1, found {shares}")


class Derive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many samples of each kind a source video gives on average, where it can give any."""

    counterfactuals: float = 2.0
    clips: float = 1.0
    near_misses: float = 0.25
    rewinds: float = 0.25
    pauses: float = 0.25
    speeds: float = 0.25
    paraphrases: float = 0.5

    def __post_init__(self) -> None:
        wrong = {name: n for name, n in msgspec.structs.asdict(self).items() if n < 0}
        if wrong:
            raise ValueError(f"counts must be at least 0, found {wrong}")


class Fractions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What part of a success is kept, [least, most], for each score. RoboReward's own are unpublished:
    these are ours, and a recipe can say others. Where the state is known, it gives the score instead.
    `near_miss`: where a near-miss stops; `speed`: factors of speed; `pause_s`: how long a pause holds."""

    score_1: tuple[float, float] = (0.05, 0.2)
    score_2: tuple[float, float] = (0.3, 0.45)
    score_3: tuple[float, float] = (0.55, 0.7)
    score_4: tuple[float, float] = (0.8, 0.9)
    near_miss: tuple[float, float] = (0.85, 0.93)
    speed: tuple[float, float] = (0.5, 2.0)
    pause_s: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        for name, (low, high) in msgspec.structs.asdict(self).items():
            most = 1.0 if name[:5] in ("score", "near_") else 100.0
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"{name} must be [least, most] in (0, {most:g}], found {low, high}"
                )
        if any(a[1] > b[0] for a, b in pairwise(self.scores)):
            raise ValueError(f"score_1 to score_4 must not overlap, found {self.scores}")

    @property
    def scores(self) -> tuple[tuple[float, float], ...]:
        """[least, most] of scores 1 to 4."""
        return self.score_1, self.score_2, self.score_3, self.score_4


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model in one part: `make`, "package.module:factory", called with `options` as keywords (see
    `trainer.reward_data.language_models`)."""

    make: str
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if ":" not in self.make:
            raise ValueError(f"make must be package.module:factory, found {self.make!r}")


class Counterfactual(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who proposes commands that the video does not show, and who says that they hold.

    `rules`: no model. `model`: a language model; its factory gives a function (prompt, pictures) -> text.
    A proposer is told the scene by the `describer` where there is one, which is shown frames; else by the
    source's own words. `reward_model`: a factory of a reward model as validator; a proposal holds where the
    model's score is within `tolerance` of the proposed one.
    """

    proposer: Literal["rules", "model"] = "rules"
    validator: Literal["rules", "model", "reward_model"] = "rules"
    describer_model: Role | None = None
    proposer_model: Role | None = None
    validator_model: Role | None = None
    tolerance: float = 1.0

    def __post_init__(self) -> None:
        for part in ("proposer", "validator"):
            if getattr(self, part) != "rules" and getattr(self, f"{part}_model") is None:
                raise ValueError(f"{part} {getattr(self, part)} needs {part}_model")


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`fps` (whole) and longest side of the videos written; `longest_s`: longer videos are played faster to
    fit; which formats to write; `key_frames` of LRM's format."""

    fps: int = 5
    longest_side_px: int = 320
    longest_s: float = 60.0
    roboreward: bool = True
    lrm: bool = True
    key_frames: int = 11

    def __post_init__(self) -> None:
        if not (self.fps > 0 and self.longest_side_px >= 16 and self.longest_s > 1):
            raise ValueError("fps > 0, longest_side_px >= 16 and longest_s > 1 are needed")
        if self.key_frames < 3:
            raise ValueError(f"key_frames must be at least 3, found {self.key_frames}")


class Recipe(msgspec.Struct, frozen=True):
    """`videos`: source videos in all, drawn by weight, none twice (0: as many as the weights allow)."""

    sources: tuple[SourceSettings, ...]
    seed: int = 0
    videos: int = 0
    split: SplitShares = SplitShares()
    derive: Derive = Derive()
    fractions: Fractions = Fractions()
    counterfactual: Counterfactual = Counterfactual()
    output: Output = Output()


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "split": SplitShares,
    "derive": Derive,
    "fractions": Fractions,
    "counterfactual": Counterfactual,
    "output": Output,
}
NUMBERS = ("seed", "videos")


def read_recipe(path: Path) -> Recipe:
    """A recipe file; paths in it are relative to its folder. Raises `ConfigError` naming the key."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"recipe {path} can't be read", found=str(error)) from error
    return recipe_from(parse(text, str(path)), path.parent, str(path))


def recipe_from(tree: dict[str, Any], folder: Path, where: str) -> Recipe:
    """As `read_recipe`, of a parsed file."""
    known = ("sources", *NUMBERS, *SECTIONS)
    for key in tree:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'", remedy=_nearest(str(key), known))
    listed = tree.get("sources")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{where}: sources", expected="a list of at least one", found=listed)
    sources = tuple(_source(one, n, folder, where) for n, one in enumerate(listed))
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: two sources have one name", found=sorted(names))
    parts: dict[str, Any] = {
        key: _typed(tree.get(key) or {}, kind, f"{where}: {key}") for key, kind in SECTIONS.items()
    }
    for key in NUMBERS:
        parts[key] = tree.get(key, 0)
        if not isinstance(parts[key], int) or parts[key] < 0:
            raise ConfigError(f"{where}: {key}", expected="a whole number >= 0", found=parts[key])
    return Recipe(sources, **parts)


def _source(tree: Any, number: int, folder: Path, where: str) -> SourceSettings:
    where = f"{where}: sources[{number}]"
    if not isinstance(tree, dict) or tree.get("kind") not in KINDS:
        found = tree.get("kind") if isinstance(tree, dict) else tree
        raise ConfigError(
            f"{where}: kind", expected=f"one of {sorted(KINDS)}", found=found,
            remedy=_nearest(str(found), sorted(KINDS)),
        )  # fmt: skip
    made = _typed(tree, KINDS[tree["kind"]][0], where)
    path = Path(made.path).expanduser()
    name = made.name or (folder / path).resolve().stem
    if not name or name[0] == "." or "/" in name or "\\" in name or not name.isprintable():
        raise ConfigError(
            f"{where}: name",
            expected="one that can begin a file's name",
            found=repr(name),
            remedy="give the source a name of letters and digits",
        )
    return msgspec.structs.replace(made, path=str(folder / path), name=name)


def _typed(tree: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        wrong = [key for key in tree if key not in names] if isinstance(tree, dict) else []
        remedy = _nearest(str(wrong[0]), names) if wrong else f"keys: {', '.join(names)}"
        raise ConfigError(f"{where}: {error}", remedy=remedy) from error


def _nearest(wrong: str, names: Any) -> str:
    close = difflib.get_close_matches(wrong, list(names), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
