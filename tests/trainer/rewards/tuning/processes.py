"""A fine-tuning on CPU processes that torchrun started: `processes.py ddp|fsdp STOP_AT CONFIG`.

accelerate shards on accelerators alone; its FSDP2 runs on CPUs too once it is told that this is one. With
STOP_AT above 0 all processes end at once when they have saved that step.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from trainer.rewards.tuning import loop
from trainer.rewards.tuning.run import tune
from trainer.rewards.tuning.settings import read_settings

STOPPED = 7


def shard() -> None:
    """Every `Accelerator` from now on is one with FSDP2, wrapped as fsdp.yaml says."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
        state_dict_type="FULL_STATE_DICT",
    )
    plain = Accelerator.__init__

    def made(self: Accelerator, **options: Any) -> None:
        plain(self, **options)
        self.state.distributed_type, self.state.fsdp_plugin = DistributedType.FSDP, plugin

    Accelerator.__init__ = made  # type: ignore[method-assign]


def stop_at(step: int) -> None:
    save = loop.Loop._save

    def save_and_stop(self: loop.Loop, now: int) -> None:
        save(self, now)
        if now == step:
            os._exit(STOPPED)

    loop.Loop._save = save_and_stop  # type: ignore[method-assign]


def main() -> None:
    kind, stop, config = sys.argv[1:]
    torch.set_num_threads(1)
    if kind == "fsdp":
        shard()
    if int(stop):
        stop_at(int(stop))
    figures = tune(read_settings(Path(config)))
    if figures:
        print("figures", figures)


main()
