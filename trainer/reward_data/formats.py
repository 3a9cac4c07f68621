"""What one source video becomes on disk: MP4 files with rows for metadata.jsonl, key frames for LRM.

RoboReward's format: huggingface.co/datasets/teetone/RoboReward (`file_name`, `task`, `reward`). LRM's: 11 key
frames at equal steps of normalised time, pairs in both orders, completion yes/no (Large Reward Models,
section on training data).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from contracts.files import atomic, video
from contracts.images import encode_jpeg
from trainer.reward_data.plan import WorkItem
from trainer.reward_data.recipe import Output
from trainer.reward_data.samples import Sample
from trainer.rewards.roboreward_rows import HIGHEST

JPEG_QUALITY = 92
# State progress that differs less than this orders no pair.
LEAST_GAP = 0.1


class Row(msgspec.Struct, frozen=True):
    """One line of metadata.jsonl: RoboReward's three columns, and where the sample comes from."""

    file_name: str
    task: str
    reward: int
    id: str
    origin: str
    label_origin: str
    source: str
    source_video: str
    group: str
    derived_from: str
    how: dict[str, Any]
    frames: int
    fps: int
    licence: str


class Part(msgspec.Struct, frozen=True):
    """All rows of one source video. `progress`, `pairs`, `completion`: LRM's, with pictures' names."""

    video_id: str
    split: str
    rows: tuple[Row, ...]
    progress: tuple[dict[str, Any], ...] = ()
    pairs: tuple[dict[str, Any], ...] = ()
    completion: tuple[dict[str, Any], ...] = ()


def sized(picture: np.ndarray, longest_px: int) -> np.ndarray:
    """uint8[H, W, 3] no longer than `longest_px` a side, sides even (yuv420p needs that)."""
    height, width = picture.shape[:2]
    scale = min(1.0, longest_px / max(height, width))
    wide, high = (max(2, round(side * scale / 2) * 2) for side in (width, height))
    if (wide, high) == (width, height):
        return picture
    return np.asarray(cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA), np.uint8)


def write_videos(
    item: WorkItem,
    samples: Sequence[Sample],
    pictures: Mapping[int, np.ndarray],
    output: Output,
    root: Path,
) -> tuple[Row, ...]:
    """MP4 files of the samples in `root`/<split>; samples with the same frames share one on disk (hard
    links), under names of their own. The same pictures give the same bytes: one encoder thread, no dates."""
    folder = root / item.split
    written: dict[tuple[int, ...], Path] = {}
    rows = []
    for sample in samples:
        name = f"{item.video.source}-{sample.sample_id}.mp4"
        path = folder / name
        if sample.rows in written:
            path.unlink(missing_ok=True)
            try:
                os.link(written[sample.rows], path)
            except OSError:  # a file system without hard links
                shutil.copyfile(written[sample.rows], path)
        else:
            _encode(path, [pictures[row] for row in sample.rows], output.fps)
            written[sample.rows] = path
        rows.append(
            Row(
                file_name=name,
                task=sample.task,
                reward=sample.reward,
                id=sample.sample_id,
                origin=sample.origin,
                label_origin=sample.label_origin,
                source=item.video.source,
                source_video=item.video.video_id,
                group=item.video.group,
                derived_from=sample.derived_from,
                how=sample.how,
                frames=len(sample.rows),
                fps=output.fps,
                licence=item.video.licence,
            )
        )
    return tuple(rows)


def _encode(path: Path, frames: list[np.ndarray], fps: int) -> None:
    with atomic.replacing(path, sync_directory=False) as temporary:
        video.encode(
            temporary,
            frames,
            fps=fps,
            shape=frames[0].shape,
            length=len(frames),
            what=path.name,
            look=lambda frame: None,
        )


def write_key_frames(
    item: WorkItem,
    samples: Sequence[Sample],
    pictures: Mapping[int, np.ndarray],
    output: Output,
    root: Path,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(progress, pairs, completion) rows of one source video, its key frames in `root`/lrm/<split>/frames.

    A success gives progress rows (progress is normalised time, as in LRM; the state's own beside it where it
    is known) and pairs; a failure gives pairs only where the state is known. Completion: the last frame,
    earlier ones (not those just before the end, whose state nobody labelled), and the last frame for each
    counterfactual command.
    """
    own = next((s for s in samples if s.origin in ("success", "failure")), None)
    if own is None:
        return [], [], []
    names = []
    picks, time = key_frames(own.rows, output.key_frames)
    folder = root / "lrm" / item.split / "frames"
    for number, row in enumerate(picks):
        name = f"{item.video.source}-{own.sample_id}-{number:02d}.jpg"
        atomic.write_bytes(
            folder / name, encode_jpeg(pictures[row], JPEG_QUALITY), sync_directory=False
        )
        names.append(f"frames/{name}")
    base = {"task": own.task, "source_video": item.video.video_id, "group": item.video.group}
    goal = item.video.goals[0]
    state = [goal.progress[row] for row in picks] if goal.progress else []
    done = [goal.done[row] for row in picks] if goal.done else []
    success = own.reward == HIGHEST
    progress = [
        {
            **base,
            "initial": names[0],
            "current": name,
            "progress": round(time[k], 4),
            **({"state_progress": state[k]} if state else {}),
        }
        for k, name in enumerate(names)
        if success
    ]
    order = state or (time if success else [])
    pairs = [
        {
            **base,
            "first": names[a],
            "second": names[b],
            "second_is_closer": order[b] > order[a],
            "gap": round(abs(order[b] - order[a]), 4),
        }
        for a in range(len(order))
        for b in range(len(order))
        if a != b and abs(order[b] - order[a]) >= LEAST_GAP - 1e-9
    ]
    completion = _completion(base, names, done, success)
    completion += [
        {**base, "task": s.task, "frame": names[-1], "complete": s.reward == HIGHEST}
        for s in samples
        if s.origin == "counterfactual"
    ]
    return progress, pairs, completion


def _completion(
    base: dict[str, Any], names: list[str], done: list[bool], success: bool
) -> list[dict[str, Any]]:
    if done:
        return [{**base, "frame": n, "complete": d} for n, d in zip(names, done, strict=True)]
    unsure = max(1, len(names) // 4)
    rows = [{**base, "frame": name, "complete": False} for name in names[: -1 - unsure]]
    return [*rows, {**base, "frame": names[-1], "complete": success}]


def key_frames(rows: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """(rows, their normalised time): `count` of `rows` at equal steps, first and last in. A picture comes
    once, as it can't be nearer to the goal than itself: a video of fewer gives fewer, each at the middle of
    the steps that it stands for (the ends at 0 and 1)."""
    picks = [rows[int(place + 0.5)] for place in np.linspace(0, len(rows) - 1, count)]
    kept = list(dict.fromkeys(picks))
    steps = [[k for k, pick in enumerate(picks) if pick == row] for row in kept]
    time = [(mine[0] + mine[-1]) / 2 / (count - 1) for mine in steps]
    return kept, [0.0, *time[1:-1], 1.0] if len(kept) > 1 else [1.0]
