"""Films of a scored video: its frames, and under them the signals as far as they were known then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from contracts.errors import MissingDependency
from contracts.files import atomic
from trainer.report.pictures import write_film
from trainer.rewards.plotting import MARK
from trainer.rewards.plotting.figure import CALLED, COLOURS, extent, panels
from trainer.rewards.plotting.footage import Footage, shown_once
from trainer.rewards.plotting.scoring import SIGNALS, Scores

WIDTH, PICTURES_HIGH, HEAD, MARGIN = 960, 330, 66, 8
HOLD_LAST_S = 1.5
GIF_WIDTH, GIF_COLOURS = 640, 128
INK, PALE, PAPER = (34, 34, 38), (106, 106, 114), (255, 255, 255)


def write_mp4(path: Path, footage: Footage, scores: Scores) -> None:
    """H.264, as browsers play it."""
    write_film(path, frames(footage, scores), footage.rate_hz, MARK)


def write_gif(path: Path, footage: Footage, scores: Scores) -> None:
    """Loops for ever; one palette for all frames, no dither, so that what stands still stays still."""
    from PIL import Image

    small = []
    for frame in frames(footage, scores):
        height = round(frame.shape[0] * GIF_WIDTH / frame.shape[1])
        shrunk = cv2.resize(frame, (GIF_WIDTH, height), interpolation=cv2.INTER_AREA)
        small.append(Image.fromarray(shrunk))
    palette = _palette(np.vstack([np.asarray(small[n]) for n in (0, len(small) // 2, -1)]))
    pages = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in small]
    shown_ms = max(20, round(1000 / footage.rate_hz))
    with atomic.replacing(path) as temporary:
        pages[0].save(
            temporary, format="gif", save_all=True, append_images=pages[1:], duration=shown_ms, loop=0,
            comment=MARK.encode(),
        )  # fmt: skip


def _palette(mix: np.ndarray) -> Any:
    """Most of the colours from the frames, the curves' own exactly: thin lines would be outvoted."""
    from PIL import Image, ImageColor

    lines = [ImageColor.getrgb(colour) for colour in (*COLOURS.values(), CALLED)]
    own = [channel for colour in (*lines, INK, PAPER) for channel in colour]
    count = GIF_COLOURS - len(own) // 3
    common = (Image.fromarray(mix).quantize(count).getpalette() or [])[: 3 * count]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *common])
    return palette


def frames(footage: Footage, scores: Scores) -> Iterator[np.ndarray]:
    """uint8[H, 960, 3], H even, one a frame of the footage; the last is held."""
    curves = panels(footage, scores, WIDTH)
    views = shown_once([*footage.video.views.values()])
    times = footage.video.times_s
    begin_s, end_s = extent(footage, scores)
    write = _Words(footage, scores)
    for row, time_s in enumerate(times):
        head = write.head(float(time_s))
        pictures = _pictures([view[row] for view in views])
        # A frame stands until the next one, the last until the end.
        until_s = float(times[row + 1]) if row + 1 < len(times) else end_s
        known = curves.at((until_s - begin_s) / (end_s - begin_s))
        frame = np.vstack([head, pictures, known])
        frame = frame[: len(frame) // 2 * 2]
        yield frame
    for _ in range(round(HOLD_LAST_S * footage.rate_hz)):
        yield frame


def _pictures(images: list[np.ndarray]) -> np.ndarray:
    """uint8[330, 960, 3]: cameras side by side, as large as they go."""
    canvas = np.full((PICTURES_HIGH, WIDTH, 3), PAPER, np.uint8)
    room = (WIDTH - MARGIN * (len(images) + 1)) / len(images)
    scale = min(min(room / i.shape[1], PICTURES_HIGH / i.shape[0]) for i in images)
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    sized = [
        cv2.resize(i, (int(i.shape[1] * scale), int(i.shape[0] * scale)), interpolation=way)
        for i in images
    ]
    left = (WIDTH - sum(i.shape[1] for i in sized) - MARGIN * (len(sized) - 1)) // 2
    for image in sized:
        top = (PICTURES_HIGH - len(image)) // 2
        canvas[top : top + len(image), left : left + image.shape[1]] = image
        left += image.shape[1] + MARGIN
    return canvas


class _Words:
    """The lines above the pictures: what was asked and of whom, and what is known at a moment."""

    def __init__(self, footage: Footage, scores: Scores) -> None:
        try:
            from matplotlib import get_data_path
            from PIL import ImageFont
        except ImportError as error:
            raise MissingDependency(
                "films of reward models need matplotlib and pillow",
                remedy="pip install 'entracte[trainer]'",
            ) from error
        fonts = Path(get_data_path()) / "fonts" / "ttf"
        self._large = ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), 19)
        self._small = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), 13)
        self._scores = scores
        self._said = f"“{_cut(footage.instruction, 60)}”"
        self._model = scores.model_id

    def head(self, time_s: float) -> np.ndarray:
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (WIDTH, HEAD), PAPER)
        draw = ImageDraw.Draw(image)
        draw.text((14, 8), self._said, fill=INK, font=self._large)
        draw.text((WIDTH - 14, 14), self._model, fill=PALE, font=self._small, anchor="ra")
        draw.text((14, 40), f"{time_s:5.1f} s   {self._known(time_s)}", fill=INK, font=self._small)
        return np.asarray(image)

    def _known(self, time_s: float) -> str:
        moment = int(np.searchsorted(self._scores.times_s, time_s + 1e-9, side="right")) - 1
        if moment < 0:
            return "not scored yet"
        signal = self._scores.signals[moment]
        if signal.abstained:
            return _cut(f"abstains: {signal.abstained}", 110)
        said = [
            f"{name} {getattr(signal, name):+.2f}"
            if name == "contrastive"
            else f"{name} {getattr(signal, name):.2f}"
            for name in SIGNALS
            if np.isfinite(getattr(signal, name))
        ]
        if self._scores.called[moment]:
            said.append("success would be called")
        return "   ".join(said)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
