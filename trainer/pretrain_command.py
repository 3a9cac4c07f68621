"""`robot-trainer pretrain`: glances of simulated scenes -> a policy whose trunk sees, to imitate from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    *,
    glances: Annotated[
        list[Path],
        typer.Option(help="Folder that python -m runtime.bench.glances wrote (repeat)."),
    ],
    robot: Annotated[
        Path, typer.Option(help="A data set recorded on the robot: its joints, limits and cameras.")
    ],
    output: Annotated[Path, typer.Option(help="Folder that the trained policy is written to.")],
    start: Annotated[
        Path | None,
        typer.Option(
            help="Go on from this policy (an earlier --output, or a package made from one), not from nothing."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 9000,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Moments a step, each with four instructions.")] = 64,
    moments: Annotated[int, typer.Option(help="At most so many; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seeds weights, batches, noise and augmentation.")] = 0,
    threads: Annotated[
        int, typer.Option(help="Threads; more than the free cores is far slower.")
    ] = 1,
) -> None:
    """Teach a new policy to see, on many simulated scenes, before it imitates demonstrations.

    A run that was stopped goes on where it was when the same command is given again."""
    import torch

    from trainer import glances as seen
    from trainer.checkpoint import Checkpoint
    from trainer.imitate_command import ProgressBar
    from trainer.imitation_set import card, first_config
    from trainer.policies.flow import FlowPolicy
    from trainer.pretrain import PretrainOptions, check_start, pretrain

    FlowPolicy.require_folder(output)
    texts = seen.instructions(glances)
    width, height = seen.picture_size(glances)
    config = first_config([robot], width, height, texts)
    policy = FlowPolicy.load(start) if start else None
    if policy is not None:
        check_start(policy.config, config, str(start))
        config = policy.config
    bar = ProgressBar()
    found = seen.read(
        glances,
        vocabulary=config.vocabulary,
        instruction_length=config.instruction_length,
        most=moments or None,
        progress=lambda done, of: bar.show(f"reading {done}/{of}", done == of),
    )
    torch.manual_seed(seed)
    if policy is None:
        policy = FlowPolicy(config)
        policy.set_statistics(found.states[found.acted], found.chunks[found.acted])

    options = PretrainOptions(steps=steps, batch=batch, rate=rate, seed=seed, threads=threads)
    folders = ", ".join(str(folder) for folder in glances)
    what = f"{options}, {len(found)} moments of {folders}, from {start or 'nothing'}"
    checkpoint = Checkpoint(output.with_name(f"{output.name}.checkpoint.safetensors"), what)
    trained = pretrain(policy, found, options, bar.follow, checkpoint)
    names = ", ".join(folder.name for folder in glances)
    provenance = card(sys.argv, seed, f"{names}: {len(found)} moments, {steps} steps")
    trained.save(output, seen.examples(found), provenance)
    checkpoint.remove()
    typer.echo(f"{output}: {len(found)} moments")
