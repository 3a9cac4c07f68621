"""`robot-export policy`: a trained policy -> a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from contracts.errors import ConfigError, PackageError

_PANEL = "LeRobot checkpoints (ACT, Diffusion)"
_DRAWN = (
    "golden observations are drawn at random, not recorded: parity is not shown on what the robot sees; "
    "give --dataset"
)


def command(
    source: Annotated[
        Path, typer.Argument(help="Folder of the trained policy: ours, or a LeRobot checkpoint.")
    ],
    package: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    exporter: Annotated[
        str, typer.Option(help="optimum, legacy, dynamo, or auto: the first of them that works.")
    ] = "auto",
    noise_actor: Annotated[
        float,
        typer.Option(
            help="Put an untrained noise actor within +-this before the flow (SOURCE may be a package); "
            "releases then carry the actor alone (DSRL). 0: none."
        ),
    ] = 0.0,
    residual: Annotated[
        float | None,
        typer.Option(
            help="Put an untrained residual within +-so many degrees a joint behind the flow (SOURCE may "
            "be a package); releases then carry the residual alone. 0: of joints in other units alone."
        ),
    ] = None,
    residual_share: Annotated[
        float | None,
        typer.Option(
            help="With --residual: of joints in other units (a gripper), so much of the range, else 0.05."
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="The data set it was trained on: joints, rate, and recorded golden observations.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    robot_type: Annotated[
        str, typer.Option(help="Names the joints: so100 or so101.", rich_help_panel=_PANEL)
    ] = "",
    joints: Annotated[
        str,
        typer.Option(help="Names of the joints in order, comma between.", rich_help_panel=_PANEL),
    ] = "",
    units: Annotated[
        str,
        typer.Option(
            help="Joints in the training data: deg, or normalised (-100 to 100 of each range).",
            rich_help_panel=_PANEL,
        ),
    ] = "",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="LeRobot's calibration file: normalised joints become degrees.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    rate_hz: Annotated[float, typer.Option(help="Actions a second.", rich_help_panel=_PANEL)] = 0.0,
    camera: Annotated[
        list[str] | None,
        typer.Option(help="NAME=OURS: the robot's name of a camera.", rich_help_panel=_PANEL),
    ] = None,
    scheduler: Annotated[
        str,
        typer.Option(help="Diffusion: ddpm or ddim, else its own.", rich_help_panel=_PANEL),
    ] = "",
    steps: Annotated[
        int,
        typer.Option(help="Diffusion: denoising steps, else its own.", rich_help_panel=_PANEL),
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Package a policy that `robot-trainer imitate` trained, or LeRobot."""
    from export.libraries import require

    require("policy", "torch", "onnx")
    from contracts.files.packages import require_place
    from export.lerobot.checkpoint import find_checkpoint
    from export.lerobot.robot import RobotOptions
    from export.parity.measure import replay
    from export.policy import export_policy, export_with_actor
    from export.summary import show
    from trainer.policies.flow import CONFIG_FILE
    from trainer.policies.noise_actor import NoiseConfig, SteeredHead
    from trainer.policies.residual import ResidualConfig, ResidualHead

    require_place(package, source)
    robot = RobotOptions(
        robot_type=robot_type,
        joints=tuple(name.strip() for name in joints.split(",") if name.strip()),
        units=units,
        rate_hz=rate_hz,
        cameras=_pairs(camera or []),
        calibration=calibration,
        dataset=dataset,
    )
    told = robot != RobotOptions() or bool(scheduler or steps)
    if residual_share is not None and residual is None:
        raise ConfigError(
            "--residual-share is of a residual",
            expected="--residual DEGREES beside it",
            found="it alone",
            remedy="add --residual 0 if joints in degrees are to stay as they are",
        )
    if noise_actor and residual is not None:
        raise ConfigError(
            "one actor refines a policy", expected="--noise-actor or --residual", found="both"
        )
    if noise_actor or residual is not None:
        if told:
            raise ConfigError(
                "an actor refines a policy of our own, which knows its robot",
                remedy=f"leave out the options of {_PANEL}",
            )
        if residual is None:
            steered = NoiseConfig(bound=noise_actor)
            made = export_with_actor(source, package, SteeredHead, steered, exporter)
        else:
            bound = ResidualConfig(degrees=residual)
            if residual_share is not None:
                bound = msgspec.structs.replace(bound, share=residual_share)
            made = export_with_actor(source, package, ResidualHead, bound, exporter)
        show(made, replay(made), json)
        return
    ours, lerobot = (source / CONFIG_FILE).is_file(), find_checkpoint(source) is not None
    if not ours and not lerobot:
        raise PackageError(
            f"{source} holds no policy",
            expected=f"{CONFIG_FILE} of robot-trainer imitate, or config.json of a LeRobot ACT or "
            "Diffusion checkpoint",
            found=sorted(path.name for path in source.iterdir())[:8]
            if source.is_dir()
            else "no folder",
        )
    if ours:
        if told:
            raise ConfigError(
                f"{source} is a policy of our own, which knows its robot",
                remedy=f"leave out the options of {_PANEL}",
            )
        made, remarks = export_policy(source, package, exporter), []
    else:
        from export.lerobot.package import export_checkpoint

        made = export_checkpoint(
            source, package, robot, scheduler=scheduler, steps=steps, exporter=exporter
        )
        remarks = [] if dataset else [_DRAWN]
    show(made, replay(made), json, remarks)


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, _, ours = word.partition("=")
        if not name or not ours:
            raise ConfigError("--camera", expected="NAME=OURS", found=repr(word))
        pairs[name] = ours
    return pairs
