"""A page of figures and tables in one HTML file. Owns the template, and that all text is escaped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import MissingDependency

MARK = "Entracte · calibration report"
_TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Figure:
    """`svg`: our own markup, which is not escaped."""

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """The first column is words, the others are numbers where `numbers` says so."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """`level` "pass", "warn" or "fail", with its `reasons`; `facts`: what was measured with what."""

    title: str
    level: str
    reasons: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def to_html(page: Page) -> str:
    """Raises `MissingDependency`."""
    jinja2 = require_jinja2()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template(_TEMPLATE.name).render(page=page, mark=MARK))


def require_jinja2() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency(
            "a report's page needs jinja2", remedy="pip install 'entracte[calibration]'"
        ) from error
    return jinja2
