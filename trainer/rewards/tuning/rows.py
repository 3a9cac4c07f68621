"""The rows that a fine-tuning learns from: RoboReward-format and LRM-format tables, read and checked.

Owns what is refused: a table that isn't there, a row that can't be used, a recording in two splits. Decodes
no picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import ConfigError, EntracteError
from trainer.reward_data.record import content_group
from trainer.rewards.roboreward_rows import METADATA, read_rows
from trainer.rewards.vlm.asking import SignalName

CARD = "card.json"
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation")}
TABLES = {"progress": "progress", "completion": "completion", "contrastive": "pairs"}
"""LRM's tables by the signal that learns from them; "roboreward" has metadata.jsonl."""
_REMEDY = "robot-reward build-data makes such a folder"


@dataclass(frozen=True)
class Row:
    """One labelled question. `files`: one video, or one or two pictures in the order in which they are
    asked about. `label`: score 1..5, progress in [0, 1], done 0/1, or second picture closer 0/1."""

    task: str
    files: tuple[Path, ...]
    label: float
    group: str


@dataclass(frozen=True)
class Rows:
    """Rows of one signal in both splits."""

    signal: SignalName
    train: tuple[Row, ...]
    val: tuple[Row, ...]


@dataclass(frozen=True)
class DataSet:
    """`digest`: of the tables that were read; `card`: of the data card, "" where there is none."""

    signals: tuple[Rows, ...]
    digest: str
    card: str


class _Level(msgspec.Struct, frozen=True):
    task: str
    initial: str
    current: str
    progress: float
    group: str
    state_progress: float | None = None


class _Done(msgspec.Struct, frozen=True):
    task: str
    frame: str
    complete: bool
    group: str


class _Pair(msgspec.Struct, frozen=True):
    task: str
    first: str
    second: str
    second_is_closer: bool
    group: str


def read_data(folder: Path, signals: Sequence[SignalName], progress_label: str) -> DataSet:
    """All rows of `signals`. Raises `ConfigError` or `EntracteError` before any picture is opened: for a
    folder without a table or a split, a malformed row, a missing file, a recording in both splits."""
    if not folder.is_dir():
        raise ConfigError(
            f"data folder {folder}", expected="a folder", found="none", remedy=_REMEDY
        )
    whole = hashlib.sha256()
    found = []
    for signal in signals:
        splits = {}
        for split in SPLIT_NAMES:
            path = _table(folder, signal, split)
            whole.update(path.read_bytes())
            splits[split] = _read(path, signal, progress_label)
        found.append(Rows(signal, splits["train"], splits["val"]))
    for rows in found:
        _refuse_missing(rows)
    _refuse_leaks(found)
    card = folder / CARD
    digest = hashlib.sha256(card.read_bytes()).hexdigest() if card.is_file() else ""
    return DataSet(tuple(found), whole.hexdigest(), digest)


def _table(folder: Path, signal: SignalName, split: str) -> Path:
    for name in SPLIT_NAMES[split]:
        path = folder / name / METADATA
        if signal != "roboreward":
            path = folder / "lrm" / name / f"{TABLES[signal]}.jsonl"
        if path.is_file():
            return path
    raise ConfigError(
        f"data folder {folder} has no {split} rows for '{signal}'",
        expected=path.relative_to(folder),
        found=sorted(p.name for p in folder.iterdir())[:8],
        remedy=_REMEDY,
    )


def _read(path: Path, signal: SignalName, progress_label: str) -> tuple[Row, ...]:
    if signal == "roboreward":
        return tuple(
            Row(row.task, (path.parent / row.file_name,), float(row.reward), row.group)
            for row in read_rows(path)
        )
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                rows.append(_row(line, signal, path.parent, progress_label))
            except (msgspec.MsgspecError, ValueError) as error:
                raise EntracteError(f"{path} line {number}", found=str(error)) from error
    if not rows:
        raise EntracteError(f"{path} holds no row", remedy="give that split more of the recipe")
    return tuple(rows)


def _row(line: bytes, signal: SignalName, folder: Path, progress_label: str) -> Row:
    decode: Any = msgspec.json.decode
    if signal == "progress":
        level: _Level = decode(line, type=_Level)
        known = level.state_progress if progress_label == "state" else None
        label = level.progress if known is None else known
        if not 0 <= label <= 1:
            raise ValueError(f"progress must be in [0, 1], found {label}")
        return Row(level.task, _files(folder, level.initial, level.current), label, level.group)
    if signal == "completion":
        done: _Done = decode(line, type=_Done)
        return Row(done.task, _files(folder, done.frame), float(done.complete), done.group)
    pair: _Pair = decode(line, type=_Pair)
    files = _files(folder, pair.first, pair.second)
    return Row(pair.task, files, float(pair.second_is_closer), pair.group)


def _files(folder: Path, *names: str) -> tuple[Path, ...]:
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"a file must lie in the split's folder, found {name}")
    return tuple(folder / name for name in names)


def _refuse_missing(rows: Rows) -> None:
    wanted = {path for row in (*rows.train, *rows.val) for path in row.files}
    missing = sorted(path for path in wanted if not path.is_file() or not path.stat().st_size)
    if missing:
        raise EntracteError(
            f"{len(missing)} of {len(wanted)} files of '{rows.signal}' are missing or empty",
            found=f"none at {missing[0]}",
            remedy="copy the data folder whole, or build it again",
        )


def _refuse_leaks(signals: Sequence[Rows]) -> None:
    """A recording that is learnt from, in whatever signal, validates none."""
    learnt = {row.group for rows in signals for row in rows.train if row.group}
    leaked = sorted({row.group for rows in signals for row in rows.val} & learnt)
    nameless = [rows for rows in signals if not all(r.group for r in (*rows.train, *rows.val))]
    if not leaked and nameless:
        leaked = _same_videos(
            {row.files[0] for rows in nameless for row in rows.train},
            {row.files[0] for rows in nameless for row in rows.val},
        )
    if leaked:
        raise EntracteError(
            "training and validation data share recordings",
            expected="splits by source video, as build-data makes them",
            found=f"{len(leaked)} in both, such as {leaked[0]}",
        )


def _same_videos(train: Iterable[Path], val: Iterable[Path]) -> list[str]:
    """Validation videos that are training videos too. Where no row says which recording it is from (the
    published set), that is all that can be known: a clip cut from another video isn't found."""
    sizes: dict[int, list[Path]] = {}
    for path in train:
        sizes.setdefault(path.stat().st_size, []).append(path)
    found = []
    for path in sorted(val):
        alike = sizes.get(path.stat().st_size, [])
        if alike and content_group(path) in map(content_group, alike):
            found.append(path.name)
    return found
