"""Reports of a calibration: one HTML page that needs nothing beside it, its charts inside.

`charts` turns numbers into pictures, `handeye` and `intrinsics` say what their page holds, `page` fills it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibration.pages import charts
from calibration.pages.page import MARK, Page, require_jinja2, to_html
from contracts.files import atomic, outputs


@dataclass(frozen=True)
class ReportFile:
    """A place for a page, which was looked at before the work that the page is about."""

    path: Path

    def write(self, page: Page) -> None:
        atomic.write_bytes(self.path, to_html(page).encode())


def report_file(path: Path | None) -> ReportFile | None:
    """None for None. Raises `ConfigError` where something else lies at `path`, `MissingDependency` where no
    page could be drawn."""
    if path is None:
        return None
    outputs.require_file(path, "the page", outputs.containing(MARK.encode()))
    charts.require_matplotlib()
    require_jinja2()
    return ReportFile(path)
