"""`robot-export vlm`: a vision-language checkpoint -> a package that scores in one forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[str, typer.Argument(help="Folder (or name) of the checkpoint.")],
    package: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    instruction: Annotated[
        list[str], typer.Option(help="What the robot may be told to do; repeat it.")
    ],
    pictures: Annotated[
        Path, typer.Option(help="Recorded pictures for the golden vectors: a folder, or a video.")
    ],
    camera: Annotated[str, typer.Option(help="The camera that is looked at.")] = "front",
    camera_size: Annotated[str, typer.Option(help="Its pictures.")] = "640x480",
    pixels: Annotated[int, typer.Option(help="Most pixels of a frame as it is shown.")] = 65536,
    signal: Annotated[
        list[str], typer.Option(help="roboreward, progress, completion, contrastive; repeat it.")
    ] = ["roboreward"],  # noqa: B006
    layout: Annotated[str, typer.Option(help="spread, or append for growing episodes.")] = "spread",
    rate_hz: Annotated[float, typer.Option(help="Frames a second.")] = 2.0,
    most_frames: Annotated[int, typer.Option(help="Most frames in a prompt.")] = 8,
    prompts: Annotated[str, typer.Option(help="Folder of prompt texts of your own.")] = "",
    normaliser: Annotated[
        bool, typer.Option(help="Also sum over the vocabulary: abstains on other answers.")
    ] = True,
    exporter: Annotated[
        str, typer.Option(help="optimum, legacy, dynamo, or auto: the first of them that works.")
    ] = "legacy",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Package Qwen3-VL, Qwen2.5-VL or SmolVLM as a reward model for the robot."""
    import msgspec

    from contracts.errors import ConfigError
    from export.libraries import require

    require("vlm", "torch", "onnx", "transformers")
    from contracts.files.packages import require_place
    from export.parity.measure import replay
    from export.summary import show
    from export.vlm import VlmOptions, export_vlm
    from trainer.rewards.vlm.asking import Asking

    require_place(package, Path(source))
    wide, _, high = camera_size.partition("x")
    if not (wide.isdigit() and high.isdigit() and int(wide) and int(high)):
        raise ConfigError("--camera-size", expected="WIDTHxHEIGHT", found=camera_size)
    asked = {
        "signals": signal,
        "prompts": prompts,
        "layout": layout,
        "rate_hz": rate_hz,
        "most_frames": most_frames,
    }
    try:
        asking = msgspec.convert(asked, Asking)
    except msgspec.ValidationError as error:
        raise ConfigError("questions of the package", found=str(error)) from error
    options = VlmOptions(
        instructions=tuple(instruction),
        camera=camera,
        camera_size=(int(wide), int(high)),
        pixels=pixels,
        asking=asking,
        normaliser=normaliser,
        exporter=exporter,
    )
    made = export_vlm(source, pictures, package, options)
    show(made, replay(made), json)
