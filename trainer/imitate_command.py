"""`robot-trainer imitate`: recorded demonstrations -> a trained policy, ready for `robot-export policy`.

Or, with --glances, a head for a trunk that sees already from moments of thousands of simulated scenes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.errors import ConfigError

if TYPE_CHECKING:
    from trainer.demonstrations import Samples
    from trainer.policies.flow import FlowConfig
    from trainer.training import Progress


def command(
    *,
    data: Annotated[
        list[Path] | None, typer.Option(help="LeRobotDataset v3.0 folder; repeat for more.")
    ] = None,
    glances: Annotated[
        list[Path] | None,
        typer.Option(
            help="In place of --data: folder that python -m runtime.bench.glances wrote; repeat for more."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder that the trained policy is written to.")],
    task: Annotated[
        str, typer.Option(help="Learn only from episodes of this task or instruction.")
    ] = "",
    episodes: Annotated[
        int, typer.Option(help="At most so many episodes of each data set; 0: all.")
    ] = 0,
    every: Annotated[
        int, typer.Option(help="Learn from each n-th step; saves memory with many episodes.")
    ] = 1,
    start: Annotated[
        Path | None,
        typer.Option(help="Policy to start from: an earlier --output, or a package made from one."),
    ] = None,
    new_head: Annotated[
        bool, typer.Option(help="Keep only the start's trunk: act by these demonstrations alone.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 1500,
    batch: Annotated[int, typer.Option(help="Samples a step.")] = 128,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    trunk_rate: Annotated[
        float, typer.Option(help="Share of it for the vision trunk; 0 keeps the trunk as it is.")
    ] = 1.0,
    views: Annotated[
        int, typer.Option(help="How often a trunk that is kept sees each sample.", min=1)
    ] = 8,
    noise: Annotated[
        float,
        typer.Option(
            help="Share of the noise on what a kept trunk sees, which keeps few samples from being learned by"
            " heart; 0 for many."
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seeds weights, batches, noise and augmentation.")] = 0,
    threads: Annotated[
        int, typer.Option(help="Threads; more than the free cores is far slower.")
    ] = 1,
    width: Annotated[int, typer.Option(help="Picture width for a policy from nothing.")] = 128,
    height: Annotated[int, typer.Option(help="Picture height for a policy from nothing.")] = 96,
) -> None:
    """Train a flow policy by imitation; from --start, few demonstrations are enough."""
    import torch

    from trainer.imitate import ImitateOptions, imitate
    from trainer.imitation_set import card, examples, first_config
    from trainer.policies.flow import FlowPolicy
    from trainer.policies.noise import FeatureNoise

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    FlowPolicy.require_folder(output)
    _require_one_kind(data, glances, start, task, episodes, every)
    policy = FlowPolicy.load(start) if start else None
    config = policy.config if policy else first_config(data or [], width, height)
    bar = ProgressBar()
    if glances:
        samples, count = _from_glances(glances, config, str(start), bar), "glances"
    else:
        samples, count = _from_data(data or [], config, task, episodes, every, bar)
    names = ", ".join(root.name for root in glances or data or [])
    provenance = card(sys.argv, seed, f"{names}: {count}, {len(samples)} steps")
    if policy is None:
        policy = FlowPolicy(config)
        policy.set_statistics(samples.states, samples.chunks)
    elif new_head:
        policy.renew_head()
    options = ImitateOptions(
        steps=steps,
        batch=batch,
        rate=rate,
        trunk_rate=trunk_rate,
        views=views,
        noise=FeatureNoise().times(noise),
        seed=seed,
        threads=threads,
    )

    trained = imitate(policy, samples, options, bar.follow)
    trained.save(output, examples(samples, seed), provenance)
    typer.echo(f"{output}: {count}, {len(samples)} steps")


def _require_one_kind(
    data: list[Path] | None,
    glances: list[Path] | None,
    start: Path | None,
    task: str,
    episodes: int,
    every: int,
) -> None:
    """Raises `ConfigError` unless it is clear what to learn from."""
    if bool(data) == bool(glances):
        raise ConfigError(
            "what to imitate",
            expected="--data or --glances, one of them",
            found="both" if data else "neither",
        )
    if glances and start is None:
        raise ConfigError(
            "--glances without --start",
            remedy="name a policy that sees (robot-trainer pretrain), mostly with --trunk-rate 0 --new-head",
        )
    if glances and (task or episodes or every != 1):
        raise ConfigError(
            "--task, --episodes and --every are about --data",
            remedy="record glances of the scenes you want: python -m runtime.bench.glances --tasks",
        )


def _from_data(
    data: list[Path], config: FlowConfig, task: str, episodes: int, every: int, bar: ProgressBar
) -> tuple[Samples, str]:
    """Samples for a policy of that config, and how many demonstrations they are of."""
    from trainer import demonstrations
    from trainer.outcomes import successful

    found = demonstrations.read(
        data,
        cameras=config.cameras,
        width=config.image_width,
        height=config.image_height,
        rate_hz=config.action.rate_hz,
        every=every,
        episodes=episodes or None,
        keep=lambda meta: successful(meta) and _of_task(meta, task),
        progress=lambda done, of: bar.show(f"reading {done}/{of}", done == of),
    )
    samples = demonstrations.samples(
        found,
        cameras=config.cameras,
        vocabulary=config.vocabulary,
        instruction_length=config.instruction_length,
        chunk_length=config.chunk_length,
    )
    return samples, f"{len(found)} demonstrations"


def _from_glances(folders: list[Path], config: FlowConfig, start: str, bar: ProgressBar) -> Samples:
    import msgspec

    from contracts import language
    from trainer import glances as seen
    from trainer.pretrain import check_start

    width, height = seen.picture_size(folders)
    wanted = msgspec.structs.replace(
        config,
        image_width=width,
        image_height=height,
        chunk_length=seen.chunk_length(folders),
        vocabulary=language.build_vocabulary(seen.instructions(folders)),
    )
    check_start(config, wanted, start)
    found = seen.read(
        folders,
        vocabulary=config.vocabulary,
        instruction_length=config.instruction_length,
        acted=True,
        progress=lambda done, of: bar.show(f"reading {done}/{of}", done == of),
    )
    return seen.samples(found)


def _of_task(meta: dict[str, Any], task: str) -> bool:
    return not task or task in (meta["task"], meta["extra"].get("start", {}).get("task"))


class ProgressBar:
    """One line that is rewritten on a terminal, now and then a plain line elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._calls = 0

    def follow(self, progress: Progress) -> None:
        """A training's progress."""
        self.show(
            f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  "
            f"{progress.samples_per_s:.0f} samples/s  {progress.left_s:.0f} s left",
            progress.step == progress.steps,
        )

    def show(self, text: str, last: bool) -> None:
        self._calls += 1
        if self._terminal:
            print(f"\r{text:<76}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or self._calls % 20 == 1:
            print(text, file=sys.stderr, flush=True)
