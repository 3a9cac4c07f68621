"""`robot-export encoder`: a CLIP or SigLIP checkpoint -> a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[Path, typer.Argument(help="Folder of the checkpoint (transformers' files).")],
    package: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    text: Annotated[
        list[str], typer.Option(help="A text that pictures will be compared with; repeat it.")
    ],
    pictures: Annotated[
        Path, typer.Option(help="Recorded pictures for the golden vectors: a folder, or a video.")
    ],
    exporter: Annotated[
        str, typer.Option(help="optimum, legacy, dynamo, or auto: the first of them that works.")
    ] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Package a CLIP or SigLIP checkpoint: its image and text encoders."""
    from export.libraries import require

    require("encoder", "torch", "onnx", "transformers")
    from contracts.files.packages import require_place
    from export.encoders import export_encoder
    from export.parity.measure import replay
    from export.summary import show

    require_place(package, source)
    made = export_encoder(source, pictures, package, text, exporter)
    show(made, replay(made), json)
