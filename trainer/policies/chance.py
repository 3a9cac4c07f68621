"""Draws of a training, on the CPU whatever computes: chance depends on no device, no number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


class Chance:
    """What `generator` draws (None: torch's own), on `device`. Of `parts` processes that share every batch,
    each draws for all of them and takes the rows of its own `part`."""

    def __init__(
        self,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self._generator, self._device = generator, device
        self._part, self._parts = part, parts

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """float32 of this shape, standard normal; the first dimension counts rows of a batch."""
        return self._own(torch.randn, shape)

    def uniform(self, shape: Sequence[int]) -> torch.Tensor:
        """The same, in [0, 1)."""
        return self._own(torch.rand, shape)

    def _own(self, draw: Callable[..., torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
        rows, *rest = shape
        drawn = draw((rows * self._parts, *rest), generator=self._generator)
        if self._parts > 1:
            drawn = drawn[rows * self._part : rows * (self._part + 1)]
        return drawn if self._device is None else drawn.to(self._device)
