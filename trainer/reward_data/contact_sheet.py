"""The contact sheet: some samples of every origin, frames in a row, command, score, how they were made."""

from __future__ import annotations

from collections.abc import Sequence
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
EACH, FRAMES, WIDTH, HEIGHT, GAP, TEXT = 3, 6, 128, 96, 4, 340
COLUMNS = 2
# Of the scores 1 to 5: from red to green, apart in lightness too.
COLOURS = ((178, 24, 43), (221, 110, 60), (200, 160, 40), (110, 165, 70), (20, 110, 60))
INK, PALE, PAPER = (25, 25, 30), (110, 110, 118), (250, 250, 248)


def write(output: Path, parts: Sequence[Part], seed: int) -> None:
    """Writes contact_sheet.png from the videos as they were written; nothing without videos."""
    chosen = choose(parts, seed)
    if not chosen:
        return
    picture, draw, fonts = _canvas(len(chosen))
    for index, (split, row) in enumerate(chosen):
        column, line = divmod(index, -(-len(chosen) // COLUMNS))
        left = GAP + column * (FRAMES * (WIDTH + GAP) + TEXT + 4 * GAP)
        _strip(picture, draw, fonts, left, 40 + line * (HEIGHT + 2 * GAP), output / split, row)
    draw.text((GAP, 8), f"{sum(len(p.rows) for p in parts)} samples of {len(parts)} videos: "
              "first to last frame, command, score at the end", fill=INK, font=fonts[1])  # fmt: skip
    with atomic.replacing(output / NAME) as temporary:
        picture.save(temporary, format="png")


def choose(parts: Sequence[Part], seed: int) -> list[tuple[str, Row]]:
    """(split, row): up to EACH of every origin, of different scores and sources as far as there are some."""
    rows = [(part.split, row) for part in parts for row in part.rows]
    chosen = []
    for origin in ORIGINS:
        rest = [pair for pair in rows if pair[1].origin == origin]
        rest.sort(key=lambda pair: digest(seed, "sheet", pair[1].id))
        mine: list[tuple[str, Row]] = []
        while rest and len(mine) < EACH:
            seen = [(r.source, r.reward, r.task) for _, r in mine]
            mine.append(min(rest, key=lambda pair: _likeness(pair[1], seen)))
            rest.remove(mine[-1])
        chosen += mine
    return chosen


def _likeness(row: Row, seen: list[tuple[str, int, str]]) -> int:
    return sum(
        2 * (row.reward == reward) + 3 * (row.source == source) + (row.task == task)
        for source, reward, task in seen
    )


def _canvas(count: int) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    try:
        from matplotlib import get_data_path
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingDependency(
            "the contact sheet needs matplotlib's fonts and pillow",
            found=str(error),
            remedy="pip install 'entracte[trainer]'",
        ) from error
    lines = -(-count // COLUMNS)
    width = COLUMNS * (FRAMES * (WIDTH + GAP) + TEXT + 4 * GAP) + GAP
    picture = Image.new("RGB", (width, 40 + lines * (HEIGHT + 2 * GAP) + GAP), PAPER)
    fonts = Path(get_data_path()) / "fonts" / "ttf"
    plain, bold = (str(fonts / f"{name}.ttf") for name in ("DejaVuSans", "DejaVuSans-Bold"))
    sizes = (
        ImageFont.truetype(plain, 12),
        ImageFont.truetype(bold, 14),
        ImageFont.truetype(bold, 30),
    )
    return picture, ImageDraw.Draw(picture), sizes


def _strip(
    picture: Any,
    draw: Any,
    fonts: tuple[Any, Any, Any],
    left: int,
    top: int,
    folder: Path,
    row: Row,
) -> None:
    from PIL import Image

    wanted = np.linspace(0, row.frames - 1, FRAMES).round().astype(int)
    frames = dict(
        zip(
            np.unique(wanted).tolist(),
            Mp4Pictures(str(folder / row.file_name)).pictures(np.unique(wanted).tolist()),
            strict=True,
        )
    )
    for k, index in enumerate(wanted.tolist()):
        small = Image.fromarray(frames[index])
        small.thumbnail((WIDTH, HEIGHT))
        if small.width < WIDTH and small.height < HEIGHT:
            scale = min(WIDTH / small.width, HEIGHT / small.height)
            small = small.resize((round(small.width * scale), round(small.height * scale)))
        x = left + k * (WIDTH + GAP)
        picture.paste(small, (x + (WIDTH - small.width) // 2, top + (HEIGHT - small.height) // 2))
    x = left + FRAMES * (WIDTH + GAP) + GAP
    colour = COLOURS[row.reward - 1]
    draw.rectangle((x, top, x + 40, top + 42), fill=colour)
    draw.text((x + 20, top + 21), str(row.reward), fill=PAPER, font=fonts[2], anchor="mm")
    draw.text((x + 48, top), row.origin.replace("_", " "), fill=colour, font=fonts[1])
    facts = f"{row.source} · {row.frames / row.fps:.1f} s · label: {row.label_origin}"
    draw.text((x + 48, top + 20), facts[:44], fill=PALE, font=fonts[0])
    task = _wrapped(draw, f"“{row.task}”", fonts[0], TEXT - 8)[:2]
    how = ", ".join(f"{k} {v}" for k, v in row.how.items())
    for k, text in enumerate(task):
        draw.text((x, top + 47 + 16 * k), text, fill=INK, font=fonts[0])
    draw.text((x, top + 47 + 16 * len(task)), how[:52], fill=PALE, font=fonts[0])


def _wrapped(draw: Any, text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
