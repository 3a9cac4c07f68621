"""Fills a page's template. Owns how strict it is: all text is escaped, an unknown name is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.errors import MissingDependency


def fill(template: Path, **values: object) -> str:
    """The page. Everything but `as_markup` is escaped. Raises `MissingDependency`."""
    jinja2 = _jinja2()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template(template.name).render(**values))


def as_markup(text: str) -> Any:
    """Our own HTML, CSS or SVG, which is to stay as it is."""
    _jinja2()
    from markupsafe import Markup  # comes with jinja2

    return Markup(text)


def _jinja2() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency(
            "a report's page needs jinja2", remedy="pip install 'entracte[trainer]'"
        ) from error
    return jinja2
