"""Glances in memory: moments of many simulated scenes, with where the things of several instructions are.

Reads what `runtime.bench.glances` wrote (its docstring is the format); refuses any other split than train.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from contracts import language
from contracts.errors import ConfigError
from trainer.demonstrations import Samples

FORMAT = 3
CAMERAS = ("front", "wrist")
ROWS = 4
"""Instructions per moment; of a moment with fewer some are repeated."""


@dataclass(frozen=True)
class Glances:
    """F moments, ROWS instructions of each, the scene's own first.

    `images` per camera uint8[F, H, W, 3]; `states` float32[F, S]; `chunks` float32[F, T, A] and `keyframes`
    float32[F, A] where `acted` bool[F]; `tips` float32[F, 3] metres;
    `texts` int64[F, ROWS] indexes `tokens` int64[X, L]; `points` float32[F, ROWS, 2, 3] metres, `pixels`
    float32[F, ROWS, cameras, 2, 2] of thing and target, NaN where there is none.
    """

    images: dict[str, np.ndarray]
    states: np.ndarray
    chunks: np.ndarray
    keyframes: np.ndarray
    acted: np.ndarray
    tips: np.ndarray
    texts: np.ndarray
    tokens: np.ndarray
    points: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.states)


def instructions(folders: Sequence[Path]) -> list[str]:
    """Every instruction of folders of glances. Raises `ConfigError`."""
    return [text for folder in folders for texts in _texts(folder) for text in texts]


def picture_size(folders: Sequence[Path]) -> tuple[int, int]:
    """Width and height of the pictures in folders of glances. Raises `ConfigError` where they differ."""
    metas = {str(folder): _meta(folder) for folder in folders}
    shapes = {name: (m["width"], m["height"], m["chunk"]) for name, m in metas.items()}
    if len(set(shapes.values())) != 1:
        raise ConfigError("glances of one size of picture and chunk are needed", found=shapes)
    meta = metas[str(folders[0])]
    return int(meta["width"]), int(meta["height"])


def chunk_length(folders: Sequence[Path]) -> int:
    """Actions that are known from each moment on. Raises `ConfigError`."""
    return int(_meta(folders[0])["chunk"])


def examples(found: Glances, count: int = 8) -> dict[str, np.ndarray]:
    """The first moments as trunk inputs, for the golden vectors."""
    images = {f"images.{name}": found.images[name][:count] for name in CAMERAS}
    tokens = found.tokens[found.texts[:count, 0]]
    return {**images, "state": found.states[:count], "tokens": tokens}


def read(
    folders: Sequence[Path],
    *,
    vocabulary: tuple[str, ...],
    instruction_length: int,
    most: int | None = None,
    acted: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Glances:
    """At most `most` moments of folders of glances, the first folder's first; `acted`: only those of which
    what the expert does next is known. Raises `ConfigError`."""
    width, height = picture_size(folders)
    chunk = chunk_length(folders)
    texts = [part for folder in folders for part in _texts(folder)]
    shards = list(_shards(folders))
    wanted = []
    for path, _ in shards:
        with np.load(path, allow_pickle=False) as shard:
            flags = shard["acted"].astype(bool)
            wanted.append(np.flatnonzero(flags) if acted else np.arange(len(flags)))
    there = sum(len(moments) for moments in wanted)
    if not there:
        raise ConfigError(
            f"{', '.join(map(str, folders))}: not one moment to learn from",
            remedy="record more scenes: python -m runtime.bench.glances --scenes",
        )
    total = min(there, most or there)
    # Made once at their full size: the pictures are gigabytes.
    images = {name: np.empty((total, height, width, 3), np.uint8) for name in CAMERAS}
    found: dict[str, list[np.ndarray]] = {
        name: []
        for name in ("state", "chunk", "keyframe", "acted", "tip", "text", "points", "pixels")
    }
    at = 0
    for number, (path, first_text) in enumerate(shards):
        if at == total:
            break
        with np.load(path, allow_pickle=False) as stored:
            shard = {name: stored[name] for name in stored.files}
        _check(shard, len(shard["acted"]), chunk, path)
        moments = wanted[number][: total - at]
        for to, moment in enumerate(moments, at):
            for index, name in enumerate(CAMERAS):
                place = 2 * moment + index
                data = shard["jpeg"][shard["offsets"][place] : shard["offsets"][place + 1]]
                images[name][to] = _picture(data, height, width, path)
        pick = _rows(shard["rows"])[moments]
        found["text"].append(shard["text"][pick] + first_text)
        found["points"].append(shard["points"][pick])
        found["pixels"].append(shard["pixels"][pick])
        for name in ("state", "chunk", "keyframe", "acted", "tip"):
            found[name].append(shard[name][moments])
        at += len(moments)
        progress(number + 1, len(shards))
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    tokens = [
        language.encode(text, vocabulary, instruction_length) for part in texts for text in part
    ]
    return Glances(
        images=images,
        states=arrays["state"],
        chunks=arrays["chunk"],
        keyframes=arrays["keyframe"],
        acted=arrays["acted"].astype(bool),
        tips=arrays["tip"],
        texts=arrays["text"].astype(np.int64),
        tokens=np.stack(tokens),
        points=arrays["points"],
        pixels=arrays["pixels"],
    )


def samples(found: Glances) -> Samples:
    """What `read(..., acted=True)` found, to imitate: each moment with its scene's own instruction, and an
    episode of its own."""
    assert found.acted.all()
    return Samples(
        images=found.images,
        states=found.states,
        tokens=found.tokens[found.texts[:, 0]],
        chunks=found.chunks,
        keyframes=found.keyframes,
        episode=np.arange(len(found)),
    )


def _shards(folders: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Every shard, and what to add to its numbers of instructions: each worker has numbered its own."""
    before = 0
    for folder in folders:
        firsts = before + np.cumsum([0, *(len(part) for part in _texts(folder))])
        for path in sorted(folder.glob("shard-*.npz")):
            yield path, int(firsts[int(path.stem.split("-")[1])])
        before = int(firsts[-1])


def _texts(folder: Path) -> list[list[str]]:
    """Instructions of each worker."""
    _meta(folder)
    texts: list[list[str]] = json.loads((folder / "texts.json").read_text())
    return texts


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not path.exists():
        raise ConfigError(
            f"{folder} holds no finished glances",
            remedy="record them: python -m runtime.bench.glances --output DIR",
        )
    meta: dict[str, Any] = json.loads(path.read_text())
    wanted = {"format": FORMAT, "split": "train"}
    got = {name: meta.get(name) for name in wanted}
    if got != wanted:
        raise ConfigError(f"glances in {folder}", expected=wanted, found=got)
    return meta


def _check(shard: dict[str, np.ndarray], count: int, chunk: int, path: Path) -> None:
    rows = len(shard["text"])
    wanted = {
        "offsets": (2 * count + 1,),
        "rows": (count + 1,),
        "state": (count, 6),
        "chunk": (count, chunk, 6),
        "keyframe": (count, 6),
        "tip": (count, 3),
        "points": (rows, 2, 3),
        "pixels": (rows, len(CAMERAS), 2, 2),
    }
    got = {name: shard[name].shape for name in wanted}
    if got != wanted:
        raise ConfigError(f"glances {path}", expected=wanted, found=got)


def _rows(begins: np.ndarray) -> np.ndarray:
    """int64[F, ROWS]: the first ROWS rows of each moment, the own one first, repeated where fewer."""
    counts = np.diff(begins)
    index = np.arange(ROWS)[None, :] % np.maximum(counts, 1)[:, None]
    picked: np.ndarray = begins[:-1, None] + index
    return picked


def _picture(data: np.ndarray, height: int, width: int, path: Path) -> np.ndarray:
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if picture is None or picture.shape != (height, width, 3):
        raise ConfigError(f"glances {path}: a picture is not {width}x{height} JPEG")
    return picture
