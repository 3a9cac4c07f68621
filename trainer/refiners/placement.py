"""Where a learner computes: on which device and, where several processes share every batch, which rows of it.

Batches and chance are drawn on the CPU by the same generators whatever computes. A process takes its own
rows of them, and gradients are averaged before they are clipped: a step is that of one process up to rounding
wherever a learner's loss is one whose average over the processes is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from contracts.errors import ConfigError
from trainer.policies.chance import Chance

if TYPE_CHECKING:
    from trainer.refiners.episodic import Learner
    from trainer.refiners.experience import Trajectory

Columns = TypeVar("Columns", bound=tuple[torch.Tensor, ...])
_DEVICES = "cpu, cuda, cuda:<number> or auto"


class Placement:
    """One process, which computes a whole batch (`parts` 1) or the rows of its own `part`."""

    def __init__(
        self, device: str = "cpu", part: int = 0, parts: int = 1, accelerator: Any = None
    ) -> None:
        """`accelerator`: accelerate's, of the processes that share the batches."""
        self.device = torch.device(device)
        self._part, self._parts, self._accelerator = part, parts, accelerator

    def chance(self, seed: int, iteration: int) -> tuple[np.random.Generator, Chance]:
        """Everything that an update draws from: what batches are made of, and noise on them."""
        rng = np.random.default_rng([seed, iteration])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        return rng, Chance(generator, self.device, self._part, self._parts)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """On the device."""
        return torch.from_numpy(array).to(self.device)

    def rows(self, whole: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """This process's share of a batch, on the device. Of a batch that can't be shared evenly each has
        all."""
        size = whole.shape[dim]
        if self._parts > 1 and size % self._parts == 0:
            own = size // self._parts
            whole = whole.narrow(dim, own * self._part, own)
        return whole.to(self.device)

    def batch(self, whole: Columns) -> Columns:
        """`rows` of each column of a named tuple."""
        return type(whole)(*(self.rows(column) for column in whole))

    def share(self, total: torch.Tensor) -> torch.Tensor:
        """What a process's own sum is divided by where that of the whole batch is divided by `total`."""
        return total / self._parts if self._parts > 1 else total

    def mean(self, value: float) -> float:
        """Of what each process found of its rows."""
        if self._accelerator is None:
            return value
        found = torch.tensor([value], dtype=torch.float64).to(self.device)
        return float(self._accelerator.reduce(found, "mean")[0])

    def step(
        self,
        loss: torch.Tensor,
        optimiser: torch.optim.Optimizer,
        *clipped: Iterable[torch.nn.Parameter],
    ) -> None:
        """One gradient step; the gradient of each of `clipped` at most of norm 1."""
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._accelerator is not None:
            self._average(optimiser)
        for parameters in clipped:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    def learner(
        self,
        alone: Learner[Any],
        refiner: type,
        package: Path,
        demonstrations: list[Trajectory],
        seed: int,
    ) -> Learner[Any]:
        """Who makes the steps of `alone`, which `refiner` has opened with these."""
        return alone

    def _average(self, optimiser: torch.optim.Optimizer) -> None:
        """In one message, however many tensors there are."""
        known = [p.grad for group in optimiser.param_groups for p in group["params"]]
        gradients = [gradient for gradient in known if gradient is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        mean = self._accelerator.reduce(flat, "mean").split([g.numel() for g in gradients])
        for gradient, averaged in zip(gradients, mean, strict=True):
            gradient.copy_(averaged.view_as(gradient))


ALONE = Placement()
"""As everything was before there were others: one process, on the CPU."""


def placement_of(device: str, processes: int) -> Placement:
    """As `refiner.device` and `refiner.processes` say. Raises `ConfigError` for a device that is not there,
    and `MissingDependency`."""
    found = _device_named(device)
    if processes == 1:
        return Placement(found)
    from trainer.refiners.together import Several

    if found == "cuda":
        _require_cuda(processes, f"{processes} of them, one for each of refiner.processes")
    elif found != "cpu":
        raise ConfigError(
            "refiner.device",
            expected="cpu, cuda or auto beside refiner.processes above 1: each process has its own",
            found=device,
        )
    return Several(found, processes)


def _device_named(name: str) -> str:
    kind, colon, number = name.partition(":")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdecimal())):
        raise ConfigError("refiner.device", expected=_DEVICES, found=name)
    if kind == "cuda":
        _require_cuda(int(number or 0) + 1, f"a GPU that torch can use as '{name}'")
    return name


def _require_cuda(count: int, wanted: str) -> None:
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        raise ConfigError(
            "refiner.device",
            expected=wanted,
            found=f"{found} GPUs by torch {torch.__version__}",
            remedy="set refiner.device=cpu (or auto), or install NVIDIA's driver and a CUDA build of torch",
        )
