"""`robot-reward plot`: one video's signals as a picture and a film."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec import json as to_json

from contracts.errors import ConfigError, EntracteError
from trainer.rewards.plotting import MARK

SHIPPED = Path(__file__).resolve().parents[2] / "pretrained" / "reward-zero-shot"


def command(
    video: Annotated[
        Path,
        typer.Argument(help="Video file, LeRobotDataset folder or folder of bench clips."),
    ],
    instruction: Annotated[
        str, typer.Option(help="What the robot was told; a data set's own by default.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Path to write; .png and .mp4 are added (by default, here: VIDEO's name, the episode of "
            "a folder and the model's)."
        ),
    ] = None,
    episode: Annotated[int, typer.Option(help="Of a data set, or clip of a folder.")] = 0,
    reward: Annotated[str, typer.Option(help="Registered reward model.")] = "edge",
    package: Annotated[
        Path | None,
        typer.Option(help="Its package or folder (for edge: the shipped zero-shot one)."),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value for the model.")] = None,
    cameras: Annotated[
        str, typer.Option(help="Cameras that a file shows side by side, e.g. front,wrist.")
    ] = "",
    one_view: Annotated[
        bool, typer.Option("--one-view", help="Show a file's one picture as every camera.")
    ] = False,
    scores_per_s: Annotated[
        float, typer.Option(help="Moments scored a second (0: the model's own rate).")
    ] = 0.0,
    fps: Annotated[float, typer.Option(help="Most frames a second of the film.")] = 10.0,
    gif: Annotated[bool, typer.Option("--gif", help="Write a GIF in place of the MP4.")] = False,
    film: Annotated[bool, typer.Option(help="Write a film too.")] = True,
    dpi: Annotated[int, typer.Option(help="Resolution of the PNG, which is 11 inches wide.")] = 110,
    seed: Annotated[int, typer.Option()] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the signals as JSON.")] = False,
) -> None:
    """Draw process, completion and contrastive under a video's frames: PNG and MP4 (or GIF).

    Every moment is scored from the frames up to it, as it would be seen online.
    """
    if not (0 < fps <= 60 and 0 <= scores_per_s <= 60 and 30 <= dpi <= 400):
        raise ConfigError(
            "--fps, --scores-per-s, --dpi",
            expected="(0, 60], [0, 60], [30, 400]",
            found=(fps, scores_per_s, dpi),
        )
    if not video.exists():
        raise EntracteError(f"no video at {video}")
    from contracts.files import atomic, outputs
    from trainer.rewards.episodes import moments
    from trainer.rewards.opening import open_video_model, options_of, require_reachable
    from trainer.rewards.plotting.footage import Wanted, open_footage
    from trainer.rewards.plotting.scoring import score_online

    chosen = package or (SHIPPED if reward == "edge" else None)
    stem = output or default_name(video, episode, chosen.resolve().name if chosen else reward)
    written = [stem.with_name(stem.name + ".png")]
    if film:
        written.append(stem.with_name(stem.name + (".gif" if gif else ".mp4")))
    for path in written:
        outputs.require_file(path, "the picture or the film", outputs.containing(MARK.encode()))
    model = open_video_model(reward, chosen, options_of(option or []), seed)
    require_reachable(model)
    rate_hz = scores_per_s or model.contract.rate_hz
    names = tuple(name.strip() for name in cameras.split(",") if name.strip())
    looked_at = model.contract.cameras
    most_hz = max(fps, rate_hz, model.contract.rate_hz)
    wanted = Wanted(instruction, episode, most_hz, names, looked_at, one_view)
    footage = open_footage(video, wanted)
    rows = moments(len(footage.video), footage.rate_hz, rate_hz)
    scores = score_online(model, footage.video, footage.instruction, rows, report=_progress)

    from trainer.rewards.plotting.figure import still, verdict

    atomic.make_directory(stem.resolve().parent)
    _write_png(written[0], still(footage, scores, dpi))
    if film:
        from trainer.rewards.plotting.film import write_gif, write_mp4

        (write_gif if gif else write_mp4)(written[-1], footage, scores)
    if json:
        said = {"video": str(video), "name": footage.name, "instruction": footage.instruction}
        said["files"] = [str(path) for path in written]  # type: ignore[assignment]
        typer.echo(to_json.encode({**said, **scores.as_dict()}).decode())
        return
    called = scores.first_called_s
    typer.echo(
        f"{footage.name}, “{footage.instruction}”: {len(rows)} moments scored by {scores.model_id}; "
        + (f"success called first at {called:.1f} s; " if called is not None else "")
        + verdict(scores)
    )
    for reason, count in scores.abstained.items():
        typer.echo(f"abstained {count} of {len(rows)}: {reason}")
    for path in written:
        typer.echo(f"wrote {path}")


def default_name(video: Path, episode: int, model: str) -> Path:
    """Of another episode or model another one; never that of the video, which may lie here."""
    name = video.resolve()
    return Path(f"{name.name}-{episode}-{model}" if video.is_dir() else f"{name.stem}-{model}")


def _write_png(path: Path, pixels: object) -> None:
    from PIL import Image, PngImagePlugin

    from contracts.files import atomic

    told = PngImagePlugin.PngInfo()
    told.add_text("Software", MARK)
    with atomic.replacing(path) as temporary:
        picture = Image.fromarray(pixels)  # type: ignore[arg-type]
        picture.save(temporary, format="png", optimize=True, pnginfo=told)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[Kscoring {done}/{total}", nl=done == total, err=True)
