"""What a reward model needs of a vision-language model, whatever its class. Owns no prompt and no score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from trainer.rewards.vlm.question import Prompt


class Engine(Protocol):
    """A loaded model. Used by one thread."""

    @property
    def forwards(self) -> int:
        """Forward passes of the language model so far."""
        ...

    @property
    def multiple(self) -> int:
        """Sides of a picture are multiples of this."""
        ...

    def choose(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """float64[K] of each prompt: log-probabilities of its choices over the whole vocabulary, all prompts
        in one padded batch and one forward pass. NaN where the model's logits are not finite."""
        ...

    def complete(self, prompt: Prompt, most_tokens: int) -> str:
        """The text that the model itself answers, greedily, nothing forced."""
        ...

    def session(self) -> Session:
        """For one episode that goes on."""
        ...


class Session(Protocol):
    """`Engine.choose` for prompts that grow from call to call: what stayed the same is not run again."""

    def choose(self, prompts: Sequence[Prompt]) -> list[np.ndarray]: ...
