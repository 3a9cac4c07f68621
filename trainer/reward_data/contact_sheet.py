"""The contact sheet: of every origin how many samples with which scores, and some as frames in a row with
command, score and what was done to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import MissingDependency
from contracts.files import atomic
from trainer.reward_data.formats import Part, Row
from trainer.reward_data.readers import Mp4Pictures
from trainer.reward_data.record import digest
from trainer.reward_data.samples import ORIGINS

NAME = "contact_sheet.png"
EACH, FRAMES, WIDTH, HEIGHT, GAP, TEXT = 3, 6, 144, 108, 4, 330
COLUMNS, MARGIN, TOP, HEAD = 2, 28, 104, 44
COLUMN = FRAMES * (WIDTH + GAP) + 12 + TEXT
STRIP = HEIGHT + 14
# Of the scores 1 to 5: from red to green, apart in lightness too, and RoboReward's names of them.
COLOURS = ((178, 24, 43), (221, 110, 60), (200, 160, 40), (110, 165, 70), (20, 110, 60))
NAMES = ("no success", "minimal progress", "partial completion", "near completion", "done")
INK, PALE, PAPER = (25, 25, 30), (110, 110, 118), (250, 250, 248)


@dataclass(frozen=True)
class Shown:
    """One sample on the sheet; `origin_task`: the command of what it was made of, "" where it is the same."""

    split: str
    row: Row
    origin_task: str = ""


def write(output: Path, parts: Sequence[Part], seed: int) -> None:
    """Writes contact_sheet.png from the videos as they were written; nothing without videos."""
    chosen = choose(parts, seed)
    if not chosen:
        return
    blocks = {o: mine for o in ORIGINS if (mine := [s for s in chosen if s.row.origin == o])}
    columns = _columns({o: HEAD + STRIP * len(mine) for o, mine in blocks.items()})
    tallest = max(sum(HEAD + STRIP * len(blocks[o]) for o in column) for column in columns)
    sheet = _Sheet(2 * MARGIN + COLUMNS * COLUMN + (COLUMNS - 1) * MARGIN, TOP + tallest + MARGIN)
    rows = [row for part in parts for row in part.rows]
    sheet.title(f"{len(rows)} samples of {len(parts)} source videos")
    for number, column in enumerate(columns):
        left, top = MARGIN + number * (COLUMN + MARGIN), TOP
        for origin in column:
            sheet.head(left, top, origin, [row for row in rows if row.origin == origin])
            top += HEAD
            for shown in blocks[origin]:
                sheet.strip(left, top, output / shown.split, shown)
                top += STRIP
    with atomic.replacing(output / NAME) as temporary:
        sheet.picture.save(temporary, format="png")


def choose(parts: Sequence[Part], seed: int) -> list[Shown]:
    """Up to EACH of every origin, of different scores, sources, commands and recordings as far as there are
    some."""
    rows = [(part.split, row) for part in parts for row in part.rows]
    task_of = {row.id: row.task for _, row in rows}
    chosen: list[Shown] = []
    for origin in ORIGINS:
        rest = [pair for pair in rows if pair[1].origin == origin]
        rest.sort(key=lambda pair: digest(seed, "sheet", pair[1].id))
        mine: list[Row] = []
        used = Counter(shown.row.group for shown in chosen)
        while rest and len(mine) < EACH:
            split, row = min(rest, key=lambda pair: _likeness(pair[1], mine, used))
            rest.remove((split, row))
            mine.append(row)
            before = task_of.get(row.derived_from, row.task)
            chosen.append(Shown(split, row, before if before != row.task else ""))
    return chosen


def _likeness(row: Row, mine: Sequence[Row], used: Mapping[str, int]) -> int:
    return used[row.group] + sum(
        2 * (row.reward == other.reward)
        + 3 * (row.source == other.source)
        + (row.task == other.task)
        + 4 * (row.group == other.group)
        for other in mine
    )


def _columns(heights: Mapping[str, int]) -> list[list[str]]:
    """The blocks in their order over COLUMNS columns, about as tall as one another."""
    columns: list[list[str]] = [[] for _ in range(COLUMNS)]
    total, above = sum(heights.values()), 0
    for origin, height in heights.items():
        columns[min(COLUMNS - 1, int((above + height / 2) * COLUMNS / total))].append(origin)
        above += height
    return columns


SAID = {
    "counterfactual": "another {change}",
    "clip": "its first {fraction:.0%}",
    "near_miss": "stops after {fraction:.0%}, then waits",
    "rewind": "on to {turn:.0%}, then back to {end:.0%}",
    "pause": "held for {seconds:.1f} s at {at:.0%}",
    "speed": "{factor:.2f} times as fast",
    "paraphrase": "said otherwise by {by}",
}
"""What was done to a sample of each origin, for people; in braces keys of its `how`."""


class _Sheet:
    """A picture and what is drawn on it. Raises `MissingDependency` without fonts or pillow."""

    def __init__(self, width: int, height: int) -> None:
        try:
            from matplotlib import get_data_path
            from PIL import Image, ImageDraw, ImageFont
        except ImportError as error:
            raise MissingDependency(
                "the contact sheet needs matplotlib's fonts and pillow",
                found=str(error),
                remedy="pip install 'entracte[trainer]'",
            ) from error
        self._image: Any = Image
        self.picture = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.picture)
        fonts = Path(get_data_path()) / "fonts" / "ttf"
        plain, bold = (str(fonts / f"{name}.ttf") for name in ("DejaVuSans", "DejaVuSans-Bold"))
        self._small = ImageFont.truetype(plain, 12)
        self._plain = ImageFont.truetype(plain, 14)
        self._bold = ImageFont.truetype(bold, 17)
        self._large = ImageFont.truetype(bold, 27)

    def title(self, text: str) -> None:
        self._draw.text((MARGIN, 20), text, fill=INK, font=self._large)
        left = MARGIN
        for score, (colour, name) in enumerate(zip(COLOURS, NAMES, strict=True), 1):
            said = f"{score} {name}"
            self._draw.rectangle((left, 66, left + 14, 80), fill=colour)
            self._draw.text((left + 20, 64), said, fill=INK, font=self._plain)
            left += 44 + round(self._draw.textlength(said, font=self._plain))

    def head(self, left: int, top: int, origin: str, rows: Sequence[Row]) -> None:
        """An origin's name, its count and a bar of its scores."""
        self._draw.line((left, top + 8, left + COLUMN, top + 8), fill=PALE)
        name = f"{origin.replace('_', ' ')}: {len(rows)}"
        self._draw.text((left, top + 15), name, fill=INK, font=self._bold)
        begin, long = left + FRAMES * (WIDTH + GAP) + 12, TEXT
        counts = Counter(row.reward for row in rows)
        at = float(begin)
        for score, colour in enumerate(COLOURS, 1):
            width = long * counts[score] / len(rows)
            if width:
                self._draw.rectangle((at, top + 16, at + width - 1, top + 34), fill=colour)
            if width > 24:
                middle = (at + width / 2, top + 25)
                said = str(counts[score])
                self._draw.text(middle, said, fill=PAPER, font=self._small, anchor="mm")
            at += width

    def strip(self, left: int, top: int, folder: Path, shown: Shown) -> None:
        """Frames of the video with their times, and what it is."""
        row = shown.row
        wanted = np.linspace(0, row.frames - 1, FRAMES).round().astype(int).tolist()
        distinct = sorted({*wanted})
        video = Mp4Pictures(str(folder / row.file_name)).pictures(distinct)
        frames = dict(zip(distinct, video, strict=True))
        for k, index in enumerate(wanted):
            self._frame(left + k * (WIDTH + GAP), top, frames[index], f"{index / row.fps:.1f} s")
        x = left + FRAMES * (WIDTH + GAP) + 12
        self._draw.rectangle((x, top, x + 44, top + 44), fill=COLOURS[row.reward - 1])
        self._draw.text(
            (x + 22, top + 22), str(row.reward), fill=PAPER, font=self._large, anchor="mm"
        )
        y = top
        for line in self._wrapped(f"“{row.task}”", TEXT - 56)[:3]:
            self._draw.text((x + 56, y), line, fill=INK, font=self._plain)
            y += 18
        facts = [
            f"of “{shown.origin_task}”" if shown.origin_task else "",
            SAID.get(row.origin, "").format_map(row.how),
        ]
        facts += [f"{row.source} · label by {row.label_origin} · {shown.split}"]
        y = max(y + 2, top + 50)
        for line in filter(None, facts):
            shorter = self._wrapped(line, TEXT, self._small)[0]
            self._draw.text((x, y), shorter, fill=PALE, font=self._small)
            y += 17

    def _frame(self, x: int, top: int, frame: np.ndarray, time: str) -> None:
        image = self._image.fromarray(frame)
        scale = min(WIDTH / image.width, HEIGHT / image.height)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, self._image.Resampling.LANCZOS)
        x += (WIDTH - size[0]) // 2
        self.picture.paste(image, (x, top + (HEIGHT - size[1]) // 2))
        self._draw.rectangle((x, top + HEIGHT - 16, x + 38, top + HEIGHT - 1), fill=INK)
        self._draw.text((x + 4, top + HEIGHT - 15), time, fill=PAPER, font=self._small)

    def _wrapped(self, text: str, width: int, font: Any = None) -> list[str]:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if self._draw.textlength(longer, font=font or self._plain) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines
