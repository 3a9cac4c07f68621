"""A calibration set, what is said of it (its card), whether it is fit, and its folder.

Folder: `calibration.safetensors` and `held_out.safetensors` (inputs by name, stacked along the first axis),
`card.json`, `card.md`. No time stamp: the same seed and data give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from calibration.quantization.strata import GRIPPERS, LIGHTS, NO_GRIPPER, PHASES, Step, Stratum
from contracts.errors import PackageError
from contracts.files import atomic, outputs
from contracts.files.packages import read_safetensors, safetensors_bytes
from contracts.package import weights_id

FORMAT_VERSION = 1
CARD_FILE = "card.json"
TEXT_FILE = "card.md"
PARTS = ("calibration", "held_out")
MAX_SET_BYTES = 4 * 1024 * 1024 * 1024

FEW = 64
"""Fewer samples than this leave the tails of activations to chance: said, not refused."""
TOO_FEW = 16
FLAT_PICTURE = 2.0
"""Standard deviation of grey levels within a picture below which there is nothing on it."""

_BEFORE = "before."

Fitness = Literal["good", "thin", "bad"]


@dataclass(frozen=True)
class Row:
    """Where one sample comes from and what kind of moment it is."""

    step: Step
    stratum: Stratum


def before(name: str, back: int) -> str:
    """Name of a trunk's input `back` periods earlier: "before.1/state"; of none, the name itself."""
    return f"{_BEFORE}{back}/{name}" if back else name


@dataclass(frozen=True)
class Part:
    """Samples: `inputs` by the trunk's names, stacked; `rows` one per sample. Of a policy that looks at
    several observations `inputs` also has the earlier ones, under the names that `before` gives."""

    inputs: dict[str, np.ndarray]
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, back: int = 0) -> dict[str, np.ndarray]:
        """One sample as a batch of one, or the observation `back` periods before it."""
        prefix = before("", back)
        return {
            name.removeprefix(prefix): array[index : index + 1]
            for name, array in self.inputs.items()
            if (name.startswith(prefix) if back else not name.startswith(_BEFORE))
        }

    @property
    def observations(self) -> int:
        """How many observations there are of each sample."""
        held = {name.partition("/")[0] for name in self.inputs if name.startswith(_BEFORE)}
        return 1 + len(held)

    @property
    def episodes(self) -> set[tuple[int, int]]:
        return {(row.step.source, row.step.episode) for row in self.rows}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set by its folder's name, and a hash over its tables and its videos' names and sizes."""

    name: str
    sha256: str
    episodes: int
    steps: int


class PartCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`rows`: (source, episode, row, task, phase, light, gripper) per sample; `strata`: samples of each."""

    samples: int
    wanted: int
    episodes: int
    sha256: str
    strata: dict[str, int]
    by: dict[str, dict[str, int]]
    rows: list[tuple[int, int, int, str, str, str, str]]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a set holds and whether it is fit: `bad` must not calibrate a robot, `thin` says what is missing
    (`findings`, in sentences)."""

    format_version: int
    fitness: Fitness
    findings: list[str]
    package_id: str
    sources: tuple[Source, ...]
    seed: int
    command: str
    versions: dict[str, str]
    calibration: PartCard
    held_out: PartCard


@dataclass(frozen=True)
class CalibrationSet:
    """Samples to calibrate with, samples of other episodes to judge by, and the card."""

    calibration: Part
    held_out: Part
    card: Card


def describe(
    calibration: Part,
    held_out: Part,
    *,
    package_id: str,
    wanted: tuple[int, int],
    sources: tuple[Source, ...],
    seed: int,
    command: str,
) -> CalibrationSet:
    """The set with its card."""
    fitness, findings = judge(calibration, held_out)
    card = Card(
        FORMAT_VERSION,
        fitness,
        findings,
        package_id,
        sources,
        seed,
        command,
        {"numpy": np.__version__},
        _part_card(calibration, wanted[0]),
        _part_card(held_out, wanted[1]),
    )
    return CalibrationSet(calibration, held_out, card)


def judge(calibration: Part, held_out: Part) -> tuple[Fitness, list[str]]:
    """Is it fit, and what is wrong or missing. One kind of moment, one episode, blank pictures, too few
    samples or nothing held out are `bad`; kinds that never occur and small numbers are `thin`."""
    bad, thin = _broken(calibration), []
    if not len(held_out):
        bad.append("nothing is held out to judge by: record at least two episodes of a task")
    for name, values in _marginals(calibration).items():
        counts = {value: number for value, number in values.items() if not number}
        if name != "task" and counts:
            thin.append(f"{name}: no sample of {', '.join(counts)}")
    if len(calibration) < FEW:
        thin.append(f"{len(calibration)} samples; below {FEW} the tails are chance")
    single = [s for s, n in _strata(calibration).items() if n == 1]
    if single:
        thin.append(f"{len(single)} strata have one sample")
    return ("bad" if bad else "thin" if thin else "good"), bad + thin


def _broken(part: Part) -> list[str]:
    found = []
    if len(part) < TOO_FEW:
        found.append(f"{len(part)} samples of at least {TOO_FEW}")
    strata = _strata(part)
    if len(strata) == 1:
        found.append(f"all samples are of one stratum: {next(iter(strata))}")
    elif len(part) and len({row.stratum.phase for row in part.rows}) == 1:
        found.append(f"all samples are of the {part.rows[0].stratum.phase} of their episodes")
    if len(part) and len(part.episodes) == 1:
        found.append("all samples are of one episode")
    for name, array in part.inputs.items():
        if name.startswith("images.") and len(part):
            blank = sum(float(picture.std()) < FLAT_PICTURE for picture in array)
            if blank:
                found.append(f"{name}: {blank} of {len(part)} pictures are blank")
    return found


def _strata(part: Part) -> dict[str, int]:
    counts = Counter(_label(row.stratum) for row in part.rows)
    return dict(sorted(counts.items()))


def _label(stratum: Stratum) -> str:
    return f"{stratum.task} / {stratum.phase} / {stratum.light or 'no camera'} / {stratum.gripper}"


def _marginals(part: Part) -> dict[str, dict[str, int]]:
    """Samples by task, phase, light and gripper, zeros included."""
    found: dict[str, dict[str, int]] = {}
    for name, values in (
        ("task", ()),
        ("phase", PHASES),
        ("light", LIGHTS),
        ("gripper", GRIPPERS),
    ):
        counts = Counter(str(getattr(row.stratum, name)) for row in part.rows)
        if "" in counts or NO_GRIPPER in counts:  # a robot without cameras, or without a gripper
            continue
        found[name] = {value: counts[value] for value in values or sorted(counts)}
    return found


def _part_card(part: Part, wanted: int) -> PartCard:
    return PartCard(
        len(part),
        wanted,
        len(part.episodes),
        weights_id(part.inputs),
        _strata(part),
        _marginals(part),
        [
            (
                *(row.step.source, row.step.episode, row.step.row),
                *(row.stratum.task, row.stratum.phase, row.stratum.light, row.stratum.gripper),
            )
            for row in part.rows
        ],
    )


def require_folder(folder: Path) -> None:
    """Raise `ConfigError` unless a set may be written there."""
    names = (CARD_FILE, TEXT_FILE, *(f"{part}.safetensors" for part in PARTS))
    outputs.require_folder(folder, "a calibration set", outputs.only(*names))


def replaced(folder: Path, made: CalibrationSet) -> str:
    """In a sentence, which other set `made` will replace there; nothing if it is none, or the same."""
    try:
        old = msgspec.json.decode(atomic.read_bytes(folder / CARD_FILE, 1 << 28), type=Card)
    except (atomic.FileError, OSError, msgspec.MsgspecError):
        return ""
    parts = [(card.calibration.sha256, card.held_out.sha256) for card in (old, made.card)]
    if parts[0] == parts[1]:
        return ""
    sources = ", ".join(source.name for source in old.sources)
    return f"replaces the earlier set of {sources}, seed {old.seed} (`{old.command}`)"


def write_set(folder: Path, made: CalibrationSet) -> None:
    """Write the four files; the card last, so that a folder with a card is whole."""
    for name, part in zip(PARTS, (made.calibration, made.held_out), strict=True):
        atomic.write_bytes(folder / f"{name}.safetensors", safetensors_bytes(part.inputs))
    atomic.write_bytes(folder / TEXT_FILE, text_of(made.card).encode())
    data = msgspec.json.format(msgspec.json.encode(made.card), indent=1)
    atomic.write_bytes(folder / CARD_FILE, data + b"\n")


def read_set(folder: Path) -> CalibrationSet:
    """A set as `write_set` wrote it, its hashes checked. Raises `PackageError`."""
    remedy = "draw it again with robot-calibrate quantization"
    try:
        card = msgspec.json.decode(atomic.read_bytes(folder / CARD_FILE, 1 << 28), type=Card)
    except msgspec.MsgspecError as error:
        raise PackageError(
            f"{folder / CARD_FILE} is no card of a calibration set", found=str(error), remedy=remedy
        ) from error
    except (atomic.FileError, OSError) as error:
        raise PackageError(
            f"{folder} is no calibration set",
            expected=f"a folder with {CARD_FILE}",
            found=outputs.described(folder),
            remedy=remedy,
        ) from error
    parts = []
    for name, told in zip(PARTS, (card.calibration, card.held_out), strict=True):
        path = folder / f"{name}.safetensors"
        try:
            inputs = read_safetensors(atomic.read_bytes(path, MAX_SET_BYTES), str(path))
        except (atomic.FileError, OSError) as error:
            raise PackageError(f"{path} can't be read", found=str(error), remedy=remedy) from error
        if weights_id(inputs) != told.sha256:
            raise PackageError(f"{path} is not what its card describes", remedy=remedy)
        rows = tuple(Row(Step(*row[:3]), Stratum(*row[3:])) for row in told.rows)
        parts.append(Part(inputs, rows))
    return CalibrationSet(parts[0], parts[1], card)


def text_of(card: Card) -> str:
    """The card for people, Markdown."""
    lines = [
        "# Calibration set",
        "",
        f"Fitness: **{card.fitness}**. Drawn for package {card.package_id}, seed {card.seed}:",
        f"`{card.command}`",
        "",
        *(f"- {finding}" for finding in card.findings or ["nothing is missing"]),
        "",
        "| data set | sha256 | episodes | steps |",
        "|---|---|---|---|",
        *(f"| {s.name} | {s.sha256[:16]} | {s.episodes} | {s.steps} |" for s in card.sources),
        "",
        "| | calibration | held out |",
        "|---|---|---|",
        _pair("samples (wanted)", card, lambda part: f"{part.samples} ({part.wanted})"),
        _pair("episodes", card, lambda part: str(part.episodes)),
        _pair("strata", card, lambda part: str(len(part.strata))),
        _pair("sha256", card, lambda part: part.sha256[:16]),
    ]
    for name, values in card.calibration.by.items():
        others = card.held_out.by.get(name, {})
        lines += [
            f"| {name}: {value} | {number} | {others.get(value, 0)} |"
            for value, number in values.items()
        ]
    return "\n".join([*lines, "", *_strata_table(card)]) + "\n"


def _pair(label: str, card: Card, say: Callable[[PartCard], str]) -> str:
    return f"| {label} | {say(card.calibration)} | {say(card.held_out)} |"


def _strata_table(card: Card) -> Sequence[str]:
    names = sorted({*card.calibration.strata, *card.held_out.strata})
    return [
        "| task / phase / light / gripper | calibration | held out |",
        "|---|---|---|",
        *(
            f"| {name} | {card.calibration.strata.get(name, 0)} | {card.held_out.strata.get(name, 0)} |"
            for name in names
        ),
    ]
