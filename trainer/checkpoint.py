"""Where a long training stands, in one file, so that a run that was stopped goes on bit for bit.

A safetensors file replaced whole: a stop while it is written leaves the one before. Its metadata names
what was being trained on; another training refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from contracts.errors import PackageError
from contracts.files import atomic

Modules = Mapping[str, torch.nn.Module]


class Checkpoint:
    """`path` holds the checkpoint of a training called `what` (anything that a change of data or options
    changes)."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def save(
        self,
        step: int,
        modules: Modules,
        optimiser: torch.optim.Optimizer,
        rng: np.random.Generator,
        generator: torch.Generator,
        order: np.ndarray,
    ) -> None:
        """What `restore` gives back: `step` steps are done, `order` int64[M] is left of this pass."""
        tensors = {
            f"{name}/{key}": value.contiguous().clone()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }
        for index, moments in optimiser.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimiser/{index}/{key}"] = value.contiguous()
        tensors["chance/torch"] = torch.get_rng_state()
        tensors["chance/generator"] = generator.get_state()
        tensors["order"] = torch.from_numpy(order.copy())
        told = {"what": self._what, "step": str(step), "rng": json.dumps(rng.bit_generator.state)}
        with atomic.replacing(self._path) as fresh:
            save_file(tensors, fresh, told)

    def restore(
        self,
        modules: Modules,
        optimiser: torch.optim.Optimizer,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[int, np.ndarray] | None:
        """(steps done, what is left of this pass), everything else put back in place; None without a file.

        Raises `PackageError` for a damaged file or another training's."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise PackageError(
                f"checkpoint {self._path} is damaged",
                found=str(error),
                remedy="delete it, and the training starts again",
            ) from error
        if told.get("what") != self._what:
            raise PackageError(
                f"checkpoint {self._path} is of another training",
                expected=self._what,
                found=told.get("what", "nothing"),
                remedy="delete it or choose another output folder",
            )
        for name, module in modules.items():
            module.load_state_dict(_under(f"{name}/", tensors))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _under("optimiser/", tensors).items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        groups: Any = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        for parameter, moments in optimiser.state.items():
            for key, value in moments.items():
                # The fused kernels walk parameter and moments side by side: one layout for both.
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter).copy_(value)
        torch.set_rng_state(tensors["chance/torch"])
        generator.set_state(tensors["chance/generator"])
        rng.bit_generator.state = json.loads(told["rng"])
        return int(told["step"]), tensors["order"].numpy()

    def remove(self) -> None:
        """The training is done; nobody goes on from here."""
        self._path.unlink(missing_ok=True)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
