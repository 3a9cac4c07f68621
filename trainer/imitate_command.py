"""`robot-trainer imitate`: recorded demonstrations -> a trained policy, ready for `robot-export policy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trainer.training import Progress


def command(
    *,
    data: Annotated[list[Path], typer.Option(help="LeRobotDataset v3.0 folder; repeat for more.")],
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
        Path | None, typer.Option(help="Pretrained policy to start from (an earlier --output).")
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
    seed: Annotated[int, typer.Option(help="Seeds weights, batches, noise and augmentation.")] = 0,
    threads: Annotated[
        int, typer.Option(help="Threads; more than the free cores is far slower.")
    ] = 1,
    width: Annotated[int, typer.Option(help="Picture width for a policy from nothing.")] = 128,
    height: Annotated[int, typer.Option(help="Picture height for a policy from nothing.")] = 96,
) -> None:
    """Train a flow policy by imitation; from --start, few demonstrations are enough."""
    import torch

    from trainer import demonstrations
    from trainer.imitate import ImitateOptions, imitate
    from trainer.imitation_set import card, examples, first_config
    from trainer.outcomes import successful

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    from trainer.policies.flow import FlowPolicy

    FlowPolicy.require_folder(output)
    policy = FlowPolicy.load(start) if start else None
    config = policy.config if policy else first_config(data, width, height)
    bar = ProgressBar()
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
    count = len(found)
    names = ", ".join(root.name for root in data)
    what = f"{names}: {count} demonstrations, {len(samples)} steps"
    provenance = card(sys.argv, seed, what)
    del found  # the samples hold the pictures now
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
        seed=seed,
        threads=threads,
    )

    trained = imitate(policy, samples, options, bar.follow)
    trained.save(output, examples(samples, seed), provenance)
    typer.echo(f"{output}: {count} demonstrations, {len(samples)} steps")


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
