"""`robot-export reward`: a trained reward model -> a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[Path, typer.Argument(help="Folder of the trained reward model.")],
    package: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    exporter: Annotated[
        str, typer.Option(help="optimum, legacy, dynamo, or auto: the first of them that works.")
    ] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Package a reward model that `robot-reward train` trained."""
    from export.libraries import require

    require("reward", "torch", "onnx")
    from contracts.files.packages import require_place
    from export.parity.measure import replay
    from export.reward import export_reward
    from export.summary import show
    from trainer.rewards.edge import EdgeReward

    require_place(package, source)
    made = export_reward(source, package, exporter)
    scored_by = EdgeReward(package=package).model_id
    show(made, replay(made), json, [f"scores, reports and pictures call it {scored_by}"])
