"""`robot-export check`: is a package whole, and do its engines answer as torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[Path, typer.Argument(help="Folder of the package.")],
    engine: Annotated[str, typer.Option(help="Engine that must agree with torch.")] = "onnxruntime",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify a package: every hash and shape, and the engine against torch on the golden vectors."""
    from export.check import check_package
    from export.summary import show

    made, found = check_package(package, engine)
    show(made, found, json)
