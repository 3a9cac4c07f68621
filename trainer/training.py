"""What every training loop of a policy does around its loss: the optimiser's step, the moving average, and
saying how far it is. Owns no data and no loss."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from trainer.policies.flow import FlowPolicy

_REPORT_EVERY = 25


@dataclass(frozen=True)
class Progress:
    """What a loop says from time to time. `loss` is a running mean."""

    step: int
    steps: int
    loss: float
    samples_per_s: float
    left_s: float


def begin(seed: int, threads: int) -> tuple[np.random.Generator, torch.Generator]:
    """Every source of chance of a training, seeded; the number of threads is fixed with it."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    return np.random.default_rng(seed), torch.Generator().manual_seed(seed)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 or AVX-512 to make it up with. Without either,
    convolutions in bfloat16 take eight times as long as in float32 instead of half."""
    return torch.backends.mkldnn.is_available() and bool(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def warm_cosine(step: int, warm_up: int, share: float) -> float:
    """Share of the peak learning rate: up over `warm_up` steps, then down by the cosine of `share` done."""
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * share))


class Averaged:
    """`policy` in training, convolutions laid out for speed, and the moving average that is its result."""

    def __init__(
        self,
        policy: FlowPolicy,
        decay: float,
        steps: int,
        batch: int,
        report: Callable[[Progress], None],
    ) -> None:
        policy.train()
        _lay_out(policy, torch.channels_last)
        self._policy, self._decay = policy, decay
        self._average = copy.deepcopy(policy)
        self._steps, self._batch, self._report = steps, batch, report
        self._loss, self._started_s, self._first = math.nan, time.monotonic(), 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def modules(self) -> dict[str, FlowPolicy]:
        """What a checkpoint of this training holds."""
        return {"trained": self._policy, "average": self._average}

    def go_on(self, step: int) -> None:
        """`step` steps were done by a run before this one; the speed is of this one."""
        self._first, self._started_s = step, time.monotonic()

    def take(
        self,
        step: int,
        loss: torch.Tensor,
        optimiser: torch.optim.Optimizer,
        clipped: list[torch.nn.Parameter],
    ) -> None:
        """One optimiser step down `loss`, the gradient of `clipped` at most of norm 1."""
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        optimiser.step()
        self._follow(min(self._decay, (step + 1) / (step + 10)))
        value = float(loss.detach())
        self._loss = value if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * value
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == self._steps:
            done, steps = step + 1, self._steps
            pace_s = self.elapsed_s / (done - self._first)
            left_s = (steps - done) * pace_s
            self._report(Progress(done, steps, self._loss, self._batch / pace_s, left_s))

    def result(self) -> FlowPolicy:
        _lay_out(self._average, torch.contiguous_format)
        return self._average.eval()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for slow, fast in zip(self._average.parameters(), self._policy.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - decay)


@torch.no_grad()
def _lay_out(policy: FlowPolicy, layout: torch.memory_format) -> None:
    """Convolutions run half again as fast on channels-last weights."""
    for parameter in policy.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
