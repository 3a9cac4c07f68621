"""Builds a data set from a recipe: plan, one part a source video (in parallel, resumable), then the whole.

A part is committed by its JSON file, after its videos and pictures. A killed build goes on where it was and
ends with the same bytes: what a part holds depends on the recipe and its source video alone.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts.errors import EntracteError, some_of
from contracts.files import atomic, outputs
from trainer.reward_data import card, contact_sheet
from trainer.reward_data.counterfactual import Proposer, Validator
from trainer.reward_data.formats import Part, sized, write_key_frames, write_videos
from trainer.reward_data.model_counterfactual import make
from trainer.reward_data.plan import Plan, Words, WorkItem, make_plan
from trainer.reward_data.readers import Mp4Pictures
from trainer.reward_data.recipe import SPLITS, Recipe
from trainer.reward_data.record import digest
from trainer.reward_data.samples import Maker

PARTS = ".parts"
CONTEXT = "context.json"
CARD = "card.json"
MAX_PART_BYTES = 1 << 28
LRM_TABLES = ("progress", "pairs", "completion")
NOWHERE = Mp4Pictures("")


class Context(msgspec.Struct, frozen=True):
    """What every worker needs besides its video; `recipe` without its sources."""

    recipe: Recipe
    words: dict[str, Words]


# (work items as JSON, the output folder) -> as many of anything, as they are done.
Runner = Callable[[list[bytes], str], Iterable[object]]


def build(
    recipe: Recipe,
    output: Path,
    *,
    workers: int = 1,
    run: Runner | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Write the data set to `output` and return its card. `run` does the work elsewhere (Ray).

    Videos whose pictures can't be read are left out, and the card says which. Raises `EntracteError` where
    `output` holds something else or can't be written, a source can't be listed, or most can't be read.
    """
    outputs.require_room(output)
    plan = make_plan(recipe)
    identity = fingerprint(recipe, plan)
    finished = _opened(output, identity)
    if finished is not None:
        return finished
    bare = msgspec.structs.replace(recipe, sources=())
    atomic.write_bytes(output / PARTS / CONTEXT, msgspec.json.encode(Context(bare, plan.words)))
    for folder in (*SPLITS, *(f"lrm/{split}/frames" for split in SPLITS)):
        (output / folder).mkdir(parents=True, exist_ok=True)
    todo = [item for item in plan.items if not part_path(output, item).exists()]
    done = len(plan.items) - len(todo)
    progress(done, len(plan.items))
    for _ in (run or _here(workers))([msgspec.json.encode(item) for item in todo], str(output)):
        done += 1
        progress(done, len(plan.items))
    return _finish(recipe, plan, output, identity)


def fingerprint(recipe: Recipe, plan: Plan) -> str:
    """Of everything that decides the bytes but where it lies: the recipe, the videos drawn, and what their
    sources say of them now."""
    bare = [msgspec.structs.replace(source, path="") for source in recipe.sources]
    sources = [msgspec.json.encode(source).decode() for source in bare]
    rest = msgspec.json.encode(msgspec.structs.replace(recipe, sources=())).decode()
    videos = [msgspec.structs.replace(item.video, pictures=NOWHERE) for item in plan.items]
    items = [WorkItem(video, item.split) for video, item in zip(videos, plan.items, strict=True)]
    said = msgspec.json.encode(msgspec.structs.replace(plan, items=tuple(items))).decode()
    return digest(*sources, rest, said)


def part_path(output: Path, item: WorkItem) -> Path:
    return output / PARTS / f"{digest(item.video.video_id)}.json"


def unreadable_path(output: Path, item: WorkItem) -> Path:
    """Says why a video has no part. The next run tries it again."""
    return part_path(output, item).with_suffix(".unreadable")


def work(item_json: bytes, output: str) -> str:
    """Make and commit the part of one source video, or say why it can't be read; its id. Runs in any process
    that sees `output`."""
    item = msgspec.json.decode(item_json, type=WorkItem)
    root = Path(output)
    made_at = (root / PARTS / CONTEXT).stat().st_mtime_ns
    context = _context(output, made_at)
    recipe, video = context.recipe, item.video
    proposer, validator = _models(output, made_at)

    def look(rows: np.ndarray) -> list[np.ndarray]:
        return [pictures[int(row)] for row in rows]

    maker = Maker(video, recipe, context.words[video.source], proposer, validator, look)
    wanted = sorted({int(row) for row in maker.rows})
    longest = recipe.output.longest_side_px
    try:
        pictures = {
            row: sized(picture, longest)
            for row, picture in zip(wanted, video.pictures.pictures(wanted), strict=True)
        }
    except (EntracteError, OSError) as error:  # one video of thousands ends no build
        why = f"{video.video_id} ({video.pictures}): {error}".encode(errors="backslashreplace")
        atomic.write_bytes(unreadable_path(root, item), why, sync_directory=False)
        return video.video_id
    samples = maker.samples()
    rows = (
        write_videos(item, samples, pictures, recipe.output, root)
        if recipe.output.roboreward
        else ()
    )
    tables: tuple[list[dict[str, Any]], ...] = ([], [], [])
    if recipe.output.lrm:
        tables = write_key_frames(item, samples, pictures, recipe.output, root)
    part = Part(video.video_id, item.split, rows, *(tuple(table) for table in tables))
    atomic.write_bytes(part_path(root, item), msgspec.json.encode(part), sync_directory=False)
    return video.video_id


# `made_at` keeps a worker that outlives a build (Ray's do) from using what it knew of another in that folder.
@cache
def _context(output: str, made_at: int) -> Context:
    data = atomic.read_bytes(Path(output) / PARTS / CONTEXT, MAX_PART_BYTES)
    return msgspec.json.decode(data, type=Context)


@cache
def _models(output: str, made_at: int) -> tuple[Proposer, Validator]:
    recipe = _context(output, made_at).recipe
    return make(recipe.counterfactual, float(recipe.output.fps))


def _here(workers: int) -> Runner:
    def run(items: list[bytes], output: str) -> Iterator[object]:
        if workers <= 1 or len(items) < 2:
            yield from (work(item, output) for item in items)
            return
        # Fresh processes: a fork would copy whatever threads and video decoders are here.
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
            yield from pool.map(work, items, [output] * len(items))

    return run


def _opened(output: Path, identity: str) -> dict[str, Any] | None:
    """The card where this data set is finished already, None where there is work; leftovers removed."""
    if (output / CARD).exists():
        done: dict[str, Any] = atomic.read_json(output / CARD)
        if done.get("identity") == identity:
            shutil.rmtree(output / PARTS, ignore_errors=True)
            return done
        raise EntracteError(
            f"{output} holds the data of another recipe, or of sources that said otherwise",
            expected=identity,
            found=done.get("identity"),
            remedy="choose an empty folder",
        )
    mark = output / PARTS / "identity"
    if mark.exists() and mark.read_text() != identity:
        raise EntracteError(
            f"{output} holds an unfinished build of another recipe, or of sources that said otherwise",
            remedy="choose an empty folder, or delete this one",
        )
    if not mark.exists() and output.exists() and any(output.iterdir()):
        raise EntracteError(f"{output} is not empty", remedy="choose an empty folder")
    atomic.write_bytes(mark, identity.encode())
    atomic.remove_leftovers(output)
    return None


def _finish(recipe: Recipe, plan: Plan, output: Path, identity: str) -> dict[str, Any]:
    kept, lost = [], []
    for item in plan.items:
        if part_path(output, item).exists():
            kept.append(item)
        else:
            lost.append(unreadable_path(output, item).read_text("utf-8"))
    if len(lost) > len(kept):
        raise EntracteError(
            f"{len(lost)} of {len(plan.items)} source videos can't be read",
            found=some_of(lost, 3, "; "),
            remedy="mend the sources and run it again: what is done is kept",
        )
    plan = msgspec.structs.replace(plan, items=tuple(kept))
    parts = [
        msgspec.json.decode(atomic.read_bytes(part_path(output, item), MAX_PART_BYTES), type=Part)
        for item in kept
    ]
    refuse_leaks(parts)
    for split in SPLITS:
        mine = [part for part in parts if part.split == split]
        _table(output / split / "metadata.jsonl", [row for part in mine for row in part.rows])
        for name in LRM_TABLES if recipe.output.lrm else ():
            rows = [row for part in mine for row in getattr(part, name)]
            _table(output / "lrm" / split / f"{name}.jsonl", rows)
    if not recipe.output.lrm:
        shutil.rmtree(output / "lrm")
    figures = card.figures(recipe, plan, parts, identity, lost)
    contact_sheet.write(output, parts, recipe.seed)
    atomic.write_bytes(output / "README.md", card.page(figures).encode())
    # A folder with a card is whole; what is left of the parts goes at the latest when it is opened again.
    atomic.write_json(output / CARD, figures)
    shutil.rmtree(output / PARTS)
    return figures


def refuse_leaks(parts: Iterable[Part]) -> None:
    """Raises `EntracteError` where a recording has samples in two splits."""
    where: dict[str, str] = {}
    for part in parts:
        for group in {row.group for row in part.rows} | {r["group"] for r in part.completion}:
            if where.setdefault(group, part.split) != part.split:
                raise EntracteError(f"recording {group} is in two splits")


def _table(path: Path, rows: list[Any]) -> None:
    atomic.write_bytes(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
