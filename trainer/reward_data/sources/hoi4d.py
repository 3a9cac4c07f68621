"""HOI4D: <camera>/H*/C*/N*/S*/s*/T*/align_rgb/image.mp4, and action/color.json with what happens when.

Layout, classes and tasks: github.com/leolyliu/HOI4D-Instructions (README, definitions/task). color.json is
either {"events": [{event, startTime, endTime}]} or {"markResult": {"marks": [{event, hdTimeStart,
hdTimeEnd}]}}, times in seconds of `info.duration`, which is not always the video's length.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError
from trainer.reward_data.readers import Mp4Pictures, video_length
from trainer.reward_data.record import Goal, SourceVideo, digest
from trainer.reward_data.settings import SourceSettings, folder_of
from trainer.rewards.roboreward_rows import HIGHEST

THINGS = {
    1: "toy car", 2: "mug", 3: "laptop", 4: "storage furniture", 5: "bottle", 6: "safe", 7: "bowl",
    8: "bucket", 9: "scissors", 11: "pliers", 12: "kettle", 13: "knife", 14: "trash can", 17: "lamp",
    18: "stapler", 20: "chair",
}  # fmt: skip
# Verbs that fit "<verb> the <thing>"; the others (rest, reach out, grasp) are no goals.
GOAL_VERBS = (
    "open", "close", "pick up", "put down", "push", "pull", "carry", "cut", "turn on", "turn off",
)  # fmt: skip
SHORTEST_S = 0.5


class Hoi4dSettings(SourceSettings, frozen=True, kw_only=True):
    """`events`: commands to make videos of; each is "<event> the <object class>"."""

    events: tuple[str, ...] = GOAL_VERBS


def read(settings: Hoi4dSettings) -> list[SourceVideo]:
    """One video an event; all events of a recording are one group."""
    root = folder_of(settings)
    videos = [
        video
        for table in sorted(root.rglob("T*/action/color.json"))
        for video in _recording(table, root, settings)
    ]
    if not videos:
        raise EntracteError(
            f"source '{settings.name}'",
            expected="H*/C*/N*/S*/s*/T*/ with align_rgb/image.mp4 and action/color.json",
            found=f"none under {root}",
        )
    return videos


def events_of(table: Path) -> tuple[list[tuple[str, float, float]], float]:
    """([(event, start, end)], the clock's length, 0 where the file doesn't say it)."""
    try:
        data: Any = json.loads(table.read_bytes())
        info = data.get("info") or {}
        length = float(info.get("duration") or info.get("Duration") or 0.0)
        if "events" in data:
            names = ("startTime", "endTime")
            marks = data["events"]
        else:
            names, marks = ("hdTimeStart", "hdTimeEnd"), data["markResult"]["marks"]
        events = [(str(m["event"]), float(m[names[0]]), float(m[names[1]])) for m in marks]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EntracteError(f"{table}", expected="HOI4D action marks", found=repr(error)) from error
    return events, length


def _recording(table: Path, root: Path, settings: Hoi4dSettings) -> list[SourceVideo]:
    task = table.parent.parent
    file = task / "align_rgb" / "image.mp4"
    parts = task.relative_to(root).parts if task != root else ()
    classes = [p[1:] for p in parts if p[:1] == "C" and p[1:].isdigit()]
    thing = THINGS.get(int(classes[-1])) if classes else None
    if thing is None or not file.exists():
        return []
    frames, rate_hz = video_length(file)
    events, length = events_of(table)
    scale = frames / rate_hz / length if length else 1.0
    where = task.relative_to(root).as_posix()
    videos = []
    for number, (event, start, end) in enumerate(events):
        verb = event.strip().lower().replace("pickup", "pick up").replace("putdown", "put down")
        if not 0 <= start <= end < math.inf:
            raise EntracteError(
                f"{table}: {event}", expected="0 <= start <= end", found=(start, end)
            )
        first = round(start * scale * rate_hz)
        count = min(frames, round(end * scale * rate_hz)) - first
        if verb not in settings.events or count < max(2, SHORTEST_S * rate_hz):
            continue
        videos.append(
            SourceVideo(
                source=settings.name,
                video_id=f"{settings.name}/{digest(where, number)}",
                group=digest("hoi4d", where),
                pictures=Mp4Pictures(str(file), first),
                frames=count,
                rate_hz=rate_hz,
                goals=(Goal((f"{verb} the {thing}",), HIGHEST, "human"),),
                licence=settings.licence,
                things=(thing,),
                style="human",
            )
        )
    return videos
