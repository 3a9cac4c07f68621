"""Clips that the edge reward model learns from: where they are on disk, and batches of them.

Written by `python -m runtime.bench.clips` (see its docstring for the format), read here without pickle.
A clip is an episode seen a few times a second, with many goals: the one that was meant and others that
the same scene allows (counterfactual instructions), each with its own state-based labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.images import decode_jpeg
from contracts.language import encode

CAMERAS = ("front", "wrist")
FORMAT = 1
NO_POINT = -1


class GoalRecord(msgspec.Struct, frozen=True):
    """One goal of a clip. `origin`: "task" (the one that was tried, always the first), "counterfactual" or
    "absent" (of a thing that isn't there); `instructions`: ways to say it."""

    kind: str
    thing: str
    target: str
    origin: str
    instructions: tuple[str, ...]


class ClipRecord(msgspec.Struct, frozen=True):
    """One line of clips.jsonl. `first_frame` and `first_label` are rows of the shard's tables; labels
    lie goal by goal, `frames` of each. `style` says how the episode was meant to go."""

    shard: str
    first_frame: int
    first_label: int
    frames: int
    task: str
    seed: int
    split: str
    style: str
    rate_hz: float
    fixture: str
    things: tuple[str, ...]
    goals: tuple[GoalRecord, ...]


class ClipMeta(msgspec.Struct, frozen=True):
    """meta.json of a folder of clips; `fx`: focal length of both cameras in pixels (0: unknown)."""

    format: int
    split: str
    width: int
    height: int
    command: str
    fx: float = 0.0


@dataclass(frozen=True)
class Clip:
    """One clip in memory, its pictures still JPEG: `jpeg` holds (front, wrist) of each frame. `progress`
    float32[G,T] in [0, 1]; `success` bool[G,T]; `points` float32[G,T,2,2]: (column, row) pixels of thing and
    target in the front picture, NaN where not in view."""

    record: ClipRecord
    jpeg: tuple[tuple[bytes, bytes], ...]
    progress: np.ndarray
    success: np.ndarray
    points: np.ndarray

    @property
    def recording(self) -> str:
        """Name of the recording by its content, so that a copy in another folder is known as one."""
        seen = zlib.crc32(self.jpeg[-1][0], zlib.crc32(self.jpeg[0][0]))
        return f"{self.record.task}/{self.record.seed}/{seen:08x}"

    def pictures(self, camera: str, frames: Iterable[int] | None = None) -> np.ndarray:
        """uint8[N,H,W,3] RGB of these frames (all by default)."""
        index = CAMERAS.index(camera)
        rows = range(self.record.frames) if frames is None else frames
        return np.stack([decode_jpeg(self.jpeg[row][index]) for row in rows])


def read_meta(folder: Path) -> ClipMeta:
    """Raises `EntracteError` when `folder` holds no clips of this format."""
    try:
        meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=ClipMeta)
    except (OSError, msgspec.MsgspecError) as error:
        raise EntracteError(
            f"{folder} holds no reward clips",
            found=str(error),
            remedy="record some with `robot-reward record-clips`",
        ) from error
    if meta.format != FORMAT:
        raise EntracteError(f"{folder}: format of clips", expected=FORMAT, found=meta.format)
    return meta


def read_records(folder: Path) -> list[ClipRecord]:
    """The index of a folder of clips, in the order they were recorded."""
    read_meta(folder)
    decoder = msgspec.json.Decoder(ClipRecord)
    return [
        decoder.decode(line)
        for path in sorted(folder.glob("clips*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


def load_clips(
    folders: Iterable[Path], limit: int | None = None, tasks: Sequence[str] | None = None
) -> list[Clip]:
    """Every clip of the folders, decoded; `limit` per folder, `tasks` to keep (None: all)."""
    clips: list[Clip] = []
    for folder in folders:
        records = [r for r in read_records(folder) if tasks is None or r.task in tasks][:limit]
        by_shard: dict[str, list[ClipRecord]] = {}
        for record in records:
            by_shard.setdefault(record.shard, []).append(record)
        for shard, members in by_shard.items():
            with np.load(folder / shard, allow_pickle=False) as tables:
                arrays = {name: tables[name] for name in tables.files}
            clips += [_clip(record, arrays) for record in members]
    return clips


def load_played(folders: Sequence[Path], tasks: Sequence[str] | None = None) -> list[Clip]:
    """Those to measure on: arranged scenes have no time and are for training alone. Raises `EntracteError`
    where there is none of them."""
    clips = [clip for clip in load_clips(folders, tasks=tasks) if clip.record.rate_hz]
    if not clips:
        there = {r.task for folder in folders for r in read_records(folder) if r.rate_hz}
        raise EntracteError(
            f"no played clips {f'of {list(tasks)} ' if tasks else ''}to measure on",
            found=f"in {', '.join(map(str, folders))} {', '.join(sorted(there)) or 'none'}",
            remedy="record some with `robot-reward record-clips --split eval`",
        )
    return clips


def _clip(record: ClipRecord, arrays: dict[str, np.ndarray]) -> Clip:
    data, offsets = arrays["jpeg"], arrays["offsets"]
    rows = range(record.first_frame, record.first_frame + record.frames)
    jpeg = tuple(
        tuple(data[offsets[2 * r + c] : offsets[2 * r + c + 1]].tobytes() for c in range(2))
        for r in rows
    )
    goals = len(record.goals)
    labels = slice(record.first_label, record.first_label + goals * record.frames)
    points = arrays["points"][labels].astype(np.float32).reshape(goals, record.frames, 2, 2)
    points[points < 0] = np.nan
    return Clip(
        record,
        jpeg,  # type: ignore[arg-type]
        arrays["progress"][labels].astype(np.float32).reshape(goals, record.frames),
        arrays["success"][labels].astype(bool).reshape(goals, record.frames),
        points,
    )


def instructions_of(clips: Iterable[Clip]) -> list[str]:
    """Distinct instructions that these clips say, sorted: the vocabulary and the manifest come from them."""
    return sorted({s for clip in clips for goal in clip.record.goals for s in goal.instructions})


def trained_on(clips: Iterable[Clip]) -> dict[str, list[str]]:
    """What the training data held, for the manifest: instructions, pairs, fixture instances, tasks."""
    clips = list(clips)
    return {
        "instructions": instructions_of(clips),
        "pairs": sorted(
            {f"{g.thing} | {g.target}" for c in clips for g in c.record.goals if g.target}
        ),
        "instances": sorted({c.record.fixture for c in clips if c.record.fixture}),
        "tasks": sorted({c.record.task for c in clips}),
    }


@dataclass(frozen=True)
class Batch:
    """B clips x K frames x G goals. Pictures float32-ready uint8[B*K,H,W,3] (frame 0 of each clip is the
    episode's first); `tokens` int64[B,G,L]; labels [B,G,K]; `cells` int64[B,G,K,2] grid cell of thing
    and target in the front picture, -1 where unknown; `tasks` names the clips' tasks."""

    front: np.ndarray
    wrist: np.ndarray
    tokens: np.ndarray
    progress: np.ndarray
    success: np.ndarray
    cells: np.ndarray
    tasks: tuple[str, ...]


class BatchSampler:
    """Draws batches. Half of a clip's frames lie where it matters: at its end and where success flips."""

    def __init__(
        self,
        clips: Sequence[Clip],
        vocabulary: tuple[str, ...],
        length: int,
        rng: np.random.Generator,
        *,
        clips_per_batch: int = 16,
        frames: int = 5,
        goals: int = 3,
        cell_px: int = 8,
        augment: bool = True,
    ) -> None:
        self.clips, self.rng, self.augment = list(clips), rng, augment
        self.clips_per_batch, self.frames, self.goals, self.cell_px = (
            clips_per_batch,
            frames,
            goals,
            cell_px,
        )
        self.tokens = {
            text: encode(text, vocabulary, length) for text in instructions_of(self.clips)
        }

    def draw(self) -> Batch:
        rng = self.rng
        rows = []
        for _ in range(self.clips_per_batch):
            rows.append(self._row(self.clips[rng.integers(len(self.clips))]))
        return Batch(
            np.concatenate([r[0] for r in rows]),
            np.concatenate([r[1] for r in rows]),
            np.stack([r[2] for r in rows]),
            np.stack([r[3] for r in rows]),
            np.stack([r[4] for r in rows]),
            np.stack([r[5] for r in rows]),
            tuple(r[6] for r in rows),
        )

    def _row(self, clip: Clip) -> tuple[Any, ...]:
        rng, total = self.rng, clip.record.frames
        chosen_goals = self._goals(clip)
        picks = [0]
        while len(picks) < self.frames:
            kind = rng.random()
            if kind < 0.25:
                picks.append(int(rng.integers(max(0, total - 4), total)))
            elif kind < 0.5:
                picks.append(self._near_flip(clip, chosen_goals))
            else:
                picks.append(int(rng.integers(total)))
        frames = np.array(picks)
        front, wrist = (clip.pictures(camera, frames) for camera in CAMERAS)
        points = clip.points[chosen_goals][:, frames]
        if self.augment:
            front, wrist, points = _augment(front, wrist, points, rng)
        height, width = front.shape[1:3]
        with np.errstate(invalid="ignore"):
            column = np.floor(points[..., 0] / self.cell_px)
            row = np.floor(points[..., 1] / self.cell_px)
            inside = (
                (points[..., 0] >= 0)
                & (points[..., 1] >= 0)
                & (points[..., 0] < width)
                & (points[..., 1] < height)
            )
        cells = np.where(inside, row * (width // self.cell_px) + column, NO_POINT)
        tokens = []
        for index in chosen_goals:
            ways = clip.record.goals[index].instructions
            tokens.append(self.tokens[ways[rng.integers(len(ways))]])
        return (
            front,
            wrist,
            np.stack(tokens),
            clip.progress[chosen_goals][:, frames],
            clip.success[chosen_goals][:, frames],
            np.nan_to_num(cells, nan=NO_POINT).astype(np.int64),
            clip.record.task,
        )

    def _goals(self, clip: Clip) -> list[int]:
        """The task's goal and counterfactuals; one of those that come true somewhere, if there is any."""
        rng, count = self.rng, len(clip.record.goals)
        # A teacher that abstained from the task's own goal has left counterfactual ones alone.
        chosen = [0] if clip.record.goals[0].origin == "task" else []
        others = list(range(len(chosen), count))
        true_ones = [g for g in others if clip.success[g].any()]
        if true_ones and self.goals > 2:
            chosen.append(true_ones[rng.integers(len(true_ones))])
        rest = [g for g in others if g not in chosen]
        rng.shuffle(rest)
        chosen += rest[: self.goals - len(chosen)]
        while len(chosen) < self.goals:
            chosen.append(int(rng.integers(count)))
        return chosen

    def _near_flip(self, clip: Clip, goals: list[int]) -> int:
        success = clip.success[goals[int(self.rng.integers(len(goals)))]]
        flips = np.flatnonzero(success[1:] != success[:-1])
        if not len(flips):
            return int(self.rng.integers(clip.record.frames))
        at = flips[self.rng.integers(len(flips))] + self.rng.integers(-1, 3)
        return int(np.clip(at, 0, clip.record.frames - 1))


def _augment(
    front: np.ndarray, wrist: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same shift, gain and gamma for all frames of a clip: another camera, not another scene."""
    out = []
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)
    gamma = rng.uniform(0.8, 1.25)
    levels = np.arange(256) / 255.0
    table = np.clip(255.0 * (levels**gamma)[:, None] * gain + rng.uniform(-12, 12), 0, 255)
    table = table.astype(np.uint8)
    for index, images in enumerate((front, wrist)):
        shift_x, shift_y = (int(v) for v in rng.integers(-5, 6, 2))
        height, width = images.shape[1:3]
        rows = np.clip(np.arange(height) - shift_y, 0, height - 1)
        columns = np.clip(np.arange(width) - shift_x, 0, width - 1)
        moved = images[:, rows][:, :, columns]
        out.append(np.stack([table[moved[..., c], c] for c in range(3)], axis=-1))
        if index == 0:
            points = points + np.array([shift_x, shift_y], np.float32)
    return out[0], out[1], points
