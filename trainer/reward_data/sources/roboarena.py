"""RoboArena-style rollouts: sessions of several policies on one scene, each with a person's progress.

Layout (the two DataDump data sets and their cards): evaluation_sessions/<session>/metadata.yaml with
`language_instruction` and `policies: {A: {policy_name, binary_success, partial_success, ...}, ...}`, and a
folder <letter>_<policy name> a rollout with one MP4 a camera: `*_video_left.mp4` (2025) or
`left_shoulder.mp4` (2026). `partial_success` is 0 to 1 there; 0 to 100 is read too (`progress_scale`).
The npz beside them holds pickled objects and is never opened.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from contracts.errors import EntracteError
from trainer.reward_data.readers import Mp4Pictures, video_length
from trainer.reward_data.record import Goal, SourceVideo, digest, score_of
from trainer.reward_data.settings import SourceSettings, folder_of

SESSIONS = "evaluation_sessions"


class RoboArenaSettings(SourceSettings, frozen=True, kw_only=True):
    """`camera`: part of the name of the video to take, the first of these that a rollout has;
    `progress_scale`: what a person's full progress is in metadata.yaml (1 in the data dumps)."""

    camera: tuple[str, ...] = ("left", "right")
    progress_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.progress_scale > 0:
            raise ValueError(f"progress_scale must be above 0, found {self.progress_scale}")


def read(settings: RoboArenaSettings) -> list[SourceVideo]:
    """One video a rollout that a person scored; a session is one group (same scene, same command)."""
    root = folder_of(settings)
    sessions = root / SESSIONS if (root / SESSIONS).is_dir() else root
    videos = [
        video
        for table in sorted(sessions.glob("*/metadata.yaml"))
        for video in _session(table, settings)
    ]
    if not videos:
        raise EntracteError(
            f"source '{settings.name}'",
            expected=f"{SESSIONS}/*/metadata.yaml with scored rollouts",
            found=f"none under {root}",
        )
    return videos


def score_of_human(progress: float, scale: float, success: bool) -> int:
    """1 to 5 from a person's progress: `score_of(progress / scale)`, 5 for full progress or a success.

    On 0-100: 0-12 → 1, 13-37 → 2, 38-62 → 3, 63-99 → 4, 100 → 5.
    """
    return score_of(progress / scale, success or progress >= scale)


def _session(table: Path, settings: RoboArenaSettings) -> list[SourceVideo]:
    try:
        meta: Any = yaml.safe_load(table.read_text())
        command, policies = str(meta["language_instruction"]).strip(), dict(meta["policies"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise EntracteError(
            f"{table}", expected="language_instruction and policies", found=str(error)
        ) from error
    videos = []
    for letter, said in sorted(policies.items()):
        file = _video(table.parent, str(letter), settings.camera)
        scored = isinstance(said, dict) and said.get("partial_success") is not None
        if not scored or file is None or not command:
            continue
        try:
            progress = float(said["partial_success"])
        except (TypeError, ValueError):
            progress = math.nan
        if not 0 <= progress <= settings.progress_scale:
            raise EntracteError(
                f"{table}: partial_success of {letter}",
                expected=f"0 to {settings.progress_scale:g}",
                found=said["partial_success"],
                remedy="set progress_scale in the recipe",
            )
        reward = score_of_human(progress, settings.progress_scale, bool(said.get("binary_success")))
        frames, rate_hz = video_length(file)
        session = table.parent.name
        videos.append(
            SourceVideo(
                source=settings.name,
                video_id=f"{settings.name}/{digest(session, letter)}",
                group=digest("roboarena", session),
                pictures=Mp4Pictures(str(file)),
                frames=frames,
                rate_hz=rate_hz,
                goals=(Goal((command,), reward, "human"),),
                licence=settings.licence,
                style=str(said.get("policy_name", "")),
            )
        )
    return videos


def _video(session: Path, letter: str, cameras: tuple[str, ...]) -> Path | None:
    files = sorted(session.glob(f"{letter}_*/*.mp4"))
    for camera in cameras:
        for file in files:
            if camera in file.stem:
                return file
    return None
