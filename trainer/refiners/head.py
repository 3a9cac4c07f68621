"""A flow head in training: its optimisers, the moving average that is published, and both on disk.

Owns no data and no method. Normalisers are buffers and stay as imitation set them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch

from contracts.errors import PackageError
from trainer.policies.flow import FlowHead, head_tensors
from trainer.refiners.placement import ALONE, Placement

# Adam's own defaults, spelled out: resuming relies on knowing all that it keeps.
_BETAS = (0.9, 0.999)
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class HeadTrainer:
    """`head` is trained, `average` is published."""

    def __init__(
        self,
        head: FlowHead,
        learning_rate: float,
        critic_rate: float,
        decay: float,
        place: Placement = ALONE,
    ) -> None:
        self.head, self._place = head.to(place.device), place
        self.average = copy.deepcopy(head).requires_grad_(False)
        self._decay = decay
        self._parameters = dict(head.named_parameters())
        flow = list(head.flow.parameters())
        critics = list(head.critics.parameters())
        self._groups = (flow, critics)
        self._optimiser = torch.optim.Adam(
            [
                {"params": flow, "lr": learning_rate},
                {"params": critics, "lr": critic_rate, "weight_decay": 0.0},
            ],
            betas=_BETAS,
            fused=True,
        )

    def step(self, loss: torch.Tensor) -> None:
        """One gradient step, each part's gradient clipped to norm 1, and one of the average."""
        self._place.step(loss, self._optimiser, *self._groups)
        with torch.no_grad():
            averages: list[torch.Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list(self.head.parameters()), 1.0 - self._decay)

    def published(self) -> dict[str, np.ndarray]:
        """The average, as a release carries it."""
        return head_tensors(self.average)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs, by name."""
        return arrays_of(self._modules()) | moments(self._optimiser, self._parameters)

    def restore(self, tensors: Mapping[str, np.ndarray], what: str) -> None:
        """Take back what `state` gave; raises `PackageError` if it is another head's."""
        restore_modules(self._modules(), tensors, what)
        restore_moments(self._optimiser, self._parameters, tensors)

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"trained": self.head, "average": self.average}


def arrays_of(modules: Mapping[str, torch.nn.Module]) -> dict[str, np.ndarray]:
    """All that these hold, as "<module>/<name>"."""
    return {
        f"{of}/{name}": value.detach().cpu().numpy()
        for of, module in modules.items()
        for name, value in module.state_dict().items()
    }


def parameters_of(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """What can be learned of them, by the same names."""
    return {
        f"{of}/{name}": parameter
        for of, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def state_of(
    modules: Mapping[str, torch.nn.Module], optimiser: torch.optim.Optimizer
) -> dict[str, np.ndarray]:
    """What these hold, and what their optimiser keeps of them."""
    return arrays_of(modules) | moments(optimiser, parameters_of(modules))


def restore_state(
    modules: Mapping[str, torch.nn.Module],
    optimiser: torch.optim.Optimizer,
    tensors: Mapping[str, np.ndarray],
    what: str,
) -> None:
    """Take back what `state_of` gave. Raises `PackageError` if it is another's."""
    restore_modules(modules, tensors, what)
    restore_moments(optimiser, parameters_of(modules), tensors)


def restore_modules(
    modules: Mapping[str, torch.nn.Module], tensors: Mapping[str, np.ndarray], what: str
) -> None:
    """Load each module from the tensors under its name. Raises `PackageError` if they are another's."""
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(f"{name}/", tensors))
    except RuntimeError as error:
        raise PackageError(
            f"{what} was saved by another refiner", found=str(error).replace("\n", " ")
        ) from error


def moments(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, np.ndarray]:
    """All that Adam keeps of these parameters, as "<moment>/<name>"."""
    return {
        f"{key}/{name}": value.cpu().numpy()
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_moments(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Take back what `moments` gave, and nothing of before."""
    fused = any(group.get("fused") for group in optimiser.param_groups)
    for name, parameter in parameters.items():
        kept = {
            # Adam counts its steps on the CPU unless it is fused.
            key: torch.from_numpy(np.array(tensors[f"{key}/{name}"])).to(
                parameter.device if fused or key != "step" else "cpu"
            )
            for key in _MOMENTS
            if f"{key}/{name}" in tensors
        }
        optimiser.state.pop(parameter, None)
        if kept:
            optimiser.state[parameter] = kept


def _under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name[len(prefix) :]: torch.from_numpy(np.array(value))
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
