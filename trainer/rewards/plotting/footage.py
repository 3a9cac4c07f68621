"""Opens what `robot-reward plot` shows: a video file, an episode of a data set, a clip of the bench.

Owns which frames are kept. Knows no reward model but by its frame contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import ConfigError, EntracteError
from contracts.files.dataset_format import CAMERA_PREFIX, VIDEO
from contracts.files.dataset_reader import DatasetReader
from contracts.frames import FrameContract, Video
from trainer.reward_data.readers import ClipPictures
from trainer.rewards.data import CAMERAS, Clip, load_clips, read_records
from trainer.rewards.evaluation.videos import frame_times, read_video

MOST_BYTES = 1 << 30
"""Of decoded pictures: a minute of VGA at 10 Hz takes half of it."""
LONGEST = 100_000


@dataclass(frozen=True)
class Footage:
    """One episode. `video`: its frames to show; `truth`: true progress float[N] of them under the
    instruction where the recording knows it; `note`: what a reader of the picture must know."""

    name: str
    video: Video
    instruction: str
    truth: np.ndarray | None = None
    note: str = ""

    @property
    def rate_hz(self) -> float:
        """Of the frames kept; 1 for a single one."""
        gaps = np.diff(self.video.times_s)
        return 1.0 / float(np.median(gaps)) if len(gaps) else 1.0


@dataclass(frozen=True)
class Wanted:
    """What to open. `rate_hz`: most frames a second; `cameras`: of a file, the names of the pictures that lie
    side by side in it; `looked_at`: the cameras that the model wants (empty: whatever there is)."""

    instruction: str = ""
    episode: int = 0
    rate_hz: float = 10.0
    cameras: tuple[str, ...] = ()
    looked_at: tuple[str, ...] = ()
    one_view: bool = False


def open_footage(path: Path, wanted: Wanted) -> Footage:
    """Raises `EntracteError` for what is no video, has no such episode or lacks a camera, and `ConfigError`
    where no instruction is given and the recording has none."""
    if (path / "meta" / "info.json").is_file():
        found = _of_dataset(path, wanted)
    elif (path / "meta.json").is_file():
        found = _of_bench(path, wanted)
    elif path.is_file():
        found = _of_file(path, wanted)
    else:
        raise EntracteError(
            f"{path} can't be shown",
            expected="a video file, a LeRobotDataset folder or a folder of bench clips",
            found="a folder of something else" if path.is_dir() else "nothing there",
        )
    if not found.instruction.strip():
        raise ConfigError(
            f"what the robot of {path} was told is not recorded", remedy="give --instruction"
        )
    return _with_cameras(found, wanted)


def _of_file(path: Path, wanted: Wanted) -> Footage:
    if wanted.episode:
        raise ConfigError("--episode of a video file", expected="none", found=wanted.episode)
    times_s = frame_times(path)
    rows = _kept(times_s, wanted.rate_hz)
    _check_size(path, len(rows), _picture_bytes(path))
    contract = FrameContract("append", wanted.rate_hz, 1, LONGEST)
    name = f"{path.resolve().parent.name}/{path.name}"
    split = f"split into {' | '.join(wanted.cameras)}" if len(wanted.cameras) > 1 else ""
    return Footage(name, read_video(path, contract, wanted.cameras), wanted.instruction, note=split)


def _of_dataset(path: Path, wanted: Wanted) -> Footage:
    reader = DatasetReader(path)
    meta = reader.meta(wanted.episode)
    keys = {
        k.removeprefix(CAMERA_PREFIX): k for k, f in reader.features.items() if f.dtype == VIDEO
    }
    names = [name for name in wanted.looked_at if name in keys] or sorted(keys)
    if not names:
        raise EntracteError(f"{path} has no pictures", found=sorted(reader.features))
    steps = np.arange(meta["length"])
    rows = _kept(steps / reader.fps, wanted.rate_hz)
    shape = reader.features[keys[names[0]]].shape
    _check_size(path, len(rows), len(names) * int(np.prod(shape)))
    views = {name: reader.frames(wanted.episode, keys[name], rows.tolist()) for name in names}
    video = Video(views, rows / reader.fps, rows)
    name = f"{path.resolve().name}, episode {wanted.episode}"
    return Footage(name, video, wanted.instruction or str(meta["task"]))


def _of_bench(path: Path, wanted: Wanted) -> Footage:
    records = read_records(path)
    if not 0 <= wanted.episode < len(records):
        raise EntracteError(
            f"{path}: --episode", expected=f"0 to {len(records) - 1}", found=wanted.episode
        )
    record = records[wanted.episode]
    if record.rate_hz <= 0:
        moving = [n for n, r in enumerate(records) if r.rate_hz > 0][:8]
        raise EntracteError(
            f"clip {wanted.episode} of {path} is stills of arranged scenes, no episode",
            remedy=f"--episode {', '.join(map(str, moving)) or 'of another folder'}",
        )
    loaded = load_clips([path], limit=wanted.episode + 1)
    (clip,) = (one for one in loaded if one.record == record)
    rows = _kept(np.arange(record.frames) / record.rate_hz, wanted.rate_hz)
    shard = str(path / record.shard)
    views = {
        camera: np.stack([*ClipPictures(shard, record.first_frame, index).pictures(rows.tolist())])
        for index, camera in enumerate(CAMERAS)
    }
    video = Video(views, rows / record.rate_hz, rows)
    said = wanted.instruction or record.goals[0].instructions[0]
    progress = _progress(clip, said)
    name = f"{path.resolve().name}, clip {wanted.episode} ({record.task}, {record.style})"
    return Footage(name, video, said, None if progress is None else progress[rows])


def _progress(clip: Clip, said: str) -> np.ndarray | None:
    """Of the goal that is said so, where the clip has one."""
    for index, goal in enumerate(clip.record.goals):
        if said in goal.instructions:
            return np.asarray(clip.progress[index])
    return None


def _with_cameras(footage: Footage, wanted: Wanted) -> Footage:
    video = footage.video
    missing = [camera for camera in wanted.looked_at if camera not in video.views]
    if not missing:
        return footage
    if wanted.one_view and len(video.views) == 1:
        (only,) = video.views.values()
        views = dict.fromkeys(wanted.looked_at, only)
        note = f"the one picture is shown to the model as {' and '.join(wanted.looked_at)}"
        return Footage(
            footage.name,
            Video(views, video.times_s, video.steps),
            footage.instruction,
            footage.truth,
            note,
        )
    raise ConfigError(
        f"cameras of {footage.name}",
        expected=", ".join(wanted.looked_at),
        found=", ".join(sorted(video.views)),
        remedy=f"--cameras {','.join(wanted.looked_at)} if a file shows them side by side, --one-view to "
        "show the model one picture as all of them",
    )


def _kept(times_s: np.ndarray, rate_hz: float) -> np.ndarray:
    """Rows of at most `rate_hz`, the first and the last always in."""
    return FrameContract("append", rate_hz, 1, LONGEST).choose(times_s)


def _picture_bytes(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return 3 * int(stream.width) * int(stream.height)


def _check_size(path: Path, frames: int, bytes_each: int) -> None:
    if frames * bytes_each > MOST_BYTES:
        raise EntracteError(
            f"{path} is too long to be shown at once",
            expected=f"at most {MOST_BYTES >> 30} GiB of pictures",
            found=f"{frames} frames, {frames * bytes_each / 2**30:.1f} GiB",
            remedy="lower --fps, or cut the video",
        )


def shown_once(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The views without those that are the same array again (`one_view`)."""
    out: list[np.ndarray] = []
    for view in views:
        if not any(view is other for other in out):
            out.append(view)
    return out
