"""`robot-export policy`: a trained policy -> a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[Path, typer.Argument(help="Folder of the trained policy.")],
    package: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Package a policy that `robot-trainer imitate` trained."""
    from export.package import replay
    from export.policy import export_policy
    from export.summary import show

    made = export_policy(source, package)
    show(made, replay(made), json)
