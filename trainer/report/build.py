"""Writes the report's folder: a page, Markdown, films and posters. A film that fails is said, not fatal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av.error
import cv2

from contracts.errors import EntracteError
from contracts.files import atomic, outputs
from trainer.report import sections, sections_several
from trainer.report.analysis import before_and_after, turned
from trainer.report.evaluation import verdict
from trainer.report.load import load_run
from trainer.report.pictures import side_by_side, write_film, write_poster
from trainer.report.rows import Episode, RunData
from trainer.report.several import ways
from trainer.report.template import as_markup, fill
from trainer.report.words import date, seconds

FILMS = 3
HERE = Path(__file__).parent
FIRST_FOUND = (
    "The same scenes, left with the base policy and right with the refined one, at the speed of the "
    "robot’s clock."
)
CHOSEN = (
    f"{FIRST_FOUND} They were chosen because the base failed and the refined policy succeeded; how often "
    "that happens is in the figures above."
)


def build(run_dir: Path, output: Path, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the report of `run_dir` to the folder `output`; returns the page's path.

    `say` is told what is being done. Raises `EntracteError` if there is no run folder, if `output`
    holds something else, or without jinja2.
    """
    outputs.require_folder(output, "the report", outputs.only(*outputs.REPORT_FILES))
    say("reading the run")
    run = load_run(run_dir)
    atomic.make_directory(output)
    say("drawing")
    context = sections.context(run)
    say("making films")
    pairs = before_and_after(run, FILMS)
    films, failed = _films(pairs, output)
    context |= {
        "notices": [*context["notices"], *failed],
        "films_lead": CHOSEN if all(turned(*pair) for pair in pairs) else FIRST_FOUND,
    }
    page = output / "index.html"
    atomic.write_bytes(page, render(context, films).encode())
    _write_markdown(output, [(run.reward or run.folder.name, run)])
    return page


def compare(
    runs: Sequence[tuple[str, Path]], output: Path, *, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Write a comparison of (name, run folder) to the folder `output`: runs of one name are seeds of one way
    to refine, "": named by its reward. Returns the page's path. Raises `EntracteError` as `build` does."""
    outputs.require_folder(output, "the report", outputs.only(*outputs.REPORT_FILES))
    named = []
    for name, folder in runs:
        say(f"reading {folder}")
        run = load_run(folder)
        named.append((name or run.reward or folder.name, run))
    atomic.make_directory(output)
    say("drawing")
    page = output / "index.html"
    written = fill(
        HERE / "several.html.j2",
        **sections_several.context(ways(named)),
        style=as_markup((HERE / "style.css").read_text()),
        footer=_footer(),
    )
    atomic.write_bytes(page, written.encode())
    _write_markdown(output, named)
    return page


def _write_markdown(output: Path, named: Sequence[tuple[str, RunData]]) -> None:
    text = sections_several.markdown(ways(named), _footer())
    atomic.write_bytes(output / "report.md", text.encode())


def _footer() -> str:
    return f"Made by robot-trainer report, entracte {_own_version()}, {date(time.time())}."


def render(context: dict[str, Any], films: list[dict[str, str]]) -> str:
    """The page. Everything but our own SVG is escaped."""
    return fill(
        HERE / "page.html.j2",
        **context,
        films=films,
        style=as_markup((HERE / "style.css").read_text()),
        footer=_footer(),
    )


def _own_version() -> str:
    try:
        return version("entracte")
    except PackageNotFoundError:
        return "(not installed)"


def _films(
    pairs: list[tuple[Episode, Episode]], output: Path
) -> tuple[list[dict[str, str]], list[str]]:
    films, failed = [], []
    for place, (base, final) in enumerate(pairs):
        name = f"before-after-{place + 1}"
        try:
            last = write_film(output / f"{name}.mp4", side_by_side(base, final), base.rate_hz)
            if last is None:
                continue
            write_poster(output / f"{name}.png", last)
        except (EntracteError, av.error.FFmpegError, OSError, ValueError, cv2.error) as error:
            failed.append(f"A film could not be made: {error}.")
            continue
        films.append(
            {
                "video": f"{name}.mp4",
                "poster": f"{name}.png",
                "caption": f"Scene {base.seed}: {_ended(base)} before, {_ended(final)} after.",
            }
        )
    return films, failed


def _ended(episode: Episode) -> str:
    words = {True: "solved", False: "failed", None: "not judged"}[verdict(episode)[0]]
    return f"{words} in {seconds(episode.duration_s)}"
